"""Memories: the one replaceable wrapper, and what is made of it: block buffers and the site memory."""

from collections.abc import Sequence

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...formats import BLOCK_SIZE
from ..dot import STORED_BLOCK
from ..pipeline import wire
from .config import TILE_BLOCKS
from .interfaces import SiteWrite

__all__ = ["RAM_MODULE", "RAM_VERILOG", "BlockBuffer", "SiteMemory", "ram", "site_address_bits"]

RAM_MODULE = "fgmp_ram_1r1w"

RAM_VERILOG = """\
// The only memory of all engines: one write port, one synchronous read port that holds its output, empty at first.
// Replace it by a macro of your technology. A word is never read in the cycle in which it is written.
`ifndef FGMP_RAM_1R1W
`define FGMP_RAM_1R1W
module fgmp_ram_1r1w #(
  parameter WIDTH = 64,
  parameter DEPTH = 64,
  parameter ADDRESS = 6
) (
  input clk,
  input write_enable,
  input [ADDRESS-1:0] write_address,
  input [WIDTH-1:0] write_data,
  input read_enable,
  input [ADDRESS-1:0] read_address,
  output reg [WIDTH-1:0] read_data
);
  reg [WIDTH-1:0] memory [0:DEPTH-1];
  always @(posedge clk) begin
    if (write_enable) memory[write_address] <= write_data;
    // Unknown on a collision, so that no tool builds logic for one.
    if (read_enable) read_data <= write_enable && write_address == read_address ? {WIDTH{1'bx}} : memory[read_address];
  end
endmodule
`endif
"""


def ram(
    m: Module, name: str, depth: int, write: tuple[ValueLike, Value, Value], read: tuple[ValueLike, Value]
) -> Signal:
    """A memory: `write` = (enable, address, data), `read` = (enable, address); returns the data read, a cycle later."""
    data = Value.cast(write[2])
    address = (depth - 1).bit_length()
    output = Signal(len(data), name=f"{name}_read_data")
    m.submodules[name] = Instance(
        RAM_MODULE,
        ("p", "WIDTH", len(data)),
        ("p", "DEPTH", depth),
        ("p", "ADDRESS", address),
        ("i", "clk", ClockSignal()),
        ("i", "write_enable", wire(m, f"{name}_write_enable", write[0])),
        ("i", "write_address", wire(m, f"{name}_write_address", write[1][:address])),
        ("i", "write_data", wire(m, f"{name}_write_data", data)),
        ("i", "read_enable", wire(m, f"{name}_read_enable", read[0])),
        ("i", "read_address", wire(m, f"{name}_read_address", read[1][:address])),
        ("o", "read_data", output),
    )
    return output


class BlockBuffer(wiring.Component):
    """Blocks in fixed slots: scale and precision bit in one memory, the 16 bytes in two 64-bit banks.

    A read takes three cycles: the precision bit first, so that the second bank is read for FP8 blocks alone; then the
    banks; then the block is out. The upper half of `codes` is whatever it was where a block is FP4.

    Attributes:
        write, write_address, write_block: store a block.
        read, read_address: fetch a block.
        codes, scale, fp8: the block, two cycles later (`scale` where not `looked_up`).
        bank_0_read, bank_1_read: a bank is read in this cycle, for the counters (those named by `counted`).
        advance: move all stages of a read (where `looked_up`).
        meta_only: leave the banks alone (where `looked_up`).
        meta_scale, meta_fp8: scale and precision bit, a cycle after the read (where `looked_up`).
    """

    def __init__(self, depth: int, *, counted: Sequence[str] = (), looked_up: bool = False):
        self._depth = depth
        self._counted = counted
        self._looked_up = looked_up
        address = (depth - 1).bit_length()
        members = {
            "write": In(1),
            "write_address": In(address),
            "write_block": In(STORED_BLOCK),
            "read": In(1),
            "read_address": In(address),
            "codes": Out(8 * BLOCK_SIZE),
            "fp8": Out(1),
            **{name: Out(1) for name in counted},
        }
        if looked_up:
            members |= {"advance": In(1), "meta_only": In(1), "meta_scale": Out(8), "meta_fp8": Out(1)}
        else:
            members["scale"] = Out(8)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth, block = self._depth, self.write_block
        advance, skip = (self.advance, self.meta_only) if self._looked_up else (Const(1), Const(0))
        meta = ram(
            m,
            "meta",
            depth,
            (self.write, self.write_address, Cat(Mux(block.fp8, 0, block.scale), block.fp8)),
            (self.read & advance, self.read_address),
        )
        if self._looked_up:
            m.d.comb += [self.meta_scale.eq(meta[:8]), self.meta_fp8.eq(meta[8])]
        banks = Signal()  # the banks are read in this cycle
        address = Signal.like(self.read_address, reset_less=True)
        with m.If(advance):
            m.d.sync += banks.eq(self.read & ~skip)
            with m.If(self.read):
                m.d.sync += address.eq(self.read_address)
            with m.If(banks):
                m.d.sync += self.fp8.eq(meta[8])
                if not self._looked_up:
                    m.d.sync += self.scale.eq(meta[:8])
        reads = {
            "bank_0_read": wire(m, "first_bank_read", banks & advance),
            "bank_1_read": wire(m, "second_bank_read", banks & advance & meta[8]),
        }
        m.d.comb += [getattr(self, name).eq(reads[name]) for name in self._counted]
        low, high = (
            ram(m, f"bank_{index}", depth, (enable, self.write_address, half), (reads[f"bank_{index}_read"], address))
            for index, (half, enable) in enumerate(
                ((block.codes[:64], self.write), (block.codes[64:], self.write & block.fp8))
            )
        )
        m.d.comb += self.codes.eq(Cat(low, high))
        return m


def site_address_bits(channels: int) -> int:
    """Width of the index of a block of channels; a site memory has at least one K tile's."""
    return max((channels // BLOCK_SIZE - 1).bit_length(), (TILE_BLOCKS - 1).bit_length())


class SiteMemory(wiring.Component):
    """What software wrote for each block of a site: its static precision and its channels' codes.

    Attributes:
        write: writes of the register file; those of the other site are not for this one.
        address: the block that is wanted.
        static_fp8, codes: its entry, a cycle later.
    """

    def __init__(self, channels: int, *, output: bool, codes: bool):
        self._depth = 1 << site_address_bits(channels)
        self._output = output
        self._codes = codes
        super().__init__(
            {
                "write": In(SiteWrite(codes=codes)),
                "address": In(site_address_bits(channels)),
                "static_fp8": Out(1),
                **({"codes": Out(4 * BLOCK_SIZE)} if codes else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        index = self.write.index
        within = (index < self._depth) if self._depth < 1 << len(index) else Const(1)
        here = wire(m, "here", self.write.enable & (self.write.output == int(self._output)) & within)
        # A memory is not read in the cycle in which it is written: what is written then goes past it.
        same = wire(m, "same", index[: len(self.address)] == self.address)
        words = []
        for word, (name, bits) in enumerate((("static", 1), ("codes_low", 32), ("codes_high", 32))):
            if word and not self._codes:
                continue
            data = self.write.data[:bits]
            write = wire(m, f"{name}_write", here & (self.write.word == word))
            met = wire(m, f"{name}_met", write & same)
            passed, past = Signal(name=f"{name}_passed"), Signal(bits, name=f"{name}_past", reset_less=True)
            m.d.sync += [passed.eq(met), past.eq(data)]
            stored = ram(m, name, self._depth, (write, index, data), (~met, self.address))
            words.append(Mux(passed, past, stored))
        m.d.comb += self.static_fp8.eq(words[0])
        if self._codes:
            m.d.comb += self.codes.eq(Cat(words[1:]))
        return m
