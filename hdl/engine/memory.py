"""Memories: the one replaceable wrapper, and the two-bank block buffer made of it."""

from amaranth.hdl import Cat, ClockSignal, Instance, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..dot import STORED_BLOCK
from ..pipeline import wire

__all__ = ["RAM_MODULE", "RAM_VERILOG", "BlockBuffer", "ram"]

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
    """Blocks in fixed slots: scale and mask bit in one memory, the 16 bytes in two 64-bit banks.

    A read goes through three cycles, all of which move only while `advance` is high: the mask bit first, so that the
    second bank is read for FP8 blocks alone; then the banks; then `codes`, `scale` and `fp8` are out. `meta_only`
    leaves the banks alone; `meta_scale` and `meta_fp8` are out a cycle after the read either way. The upper
    half of `codes` is whatever it was where a block is FP4.
    """

    def __init__(self, prefix: str, depth: int):
        self._prefix = prefix
        self._depth = depth
        address = (depth - 1).bit_length()
        super().__init__(
            {
                "write": In(1),
                "write_address": In(address),
                "block": In(STORED_BLOCK),
                "advance": In(1),
                "read": In(1),
                "read_address": In(address),
                "meta_only": In(1),
                "meta_scale": Out(8),
                "meta_fp8": Out(1),
                "codes": Out(128),
                "scale": Out(8),
                "fp8": Out(1),
                "bank_0_read": Out(1),
                "bank_1_read": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        prefix, depth = self._prefix, self._depth
        low, high = self.block.codes[:64], self.block.codes[64:]
        meta = ram(
            m,
            f"{prefix}_meta",
            depth,
            (self.write, self.write_address, Cat(Mux(self.block.fp8, 0, self.block.scale), self.block.fp8)),
            (self.read & self.advance, self.read_address),
        )
        m.d.comb += [self.meta_scale.eq(meta[:8]), self.meta_fp8.eq(meta[8])]
        banks = Signal()
        address = Signal.like(self.read_address, reset_less=True)
        m.d.comb += [
            self.bank_0_read.eq(banks & self.advance),
            self.bank_1_read.eq(banks & self.advance & self.meta_fp8),
        ]
        with m.If(self.advance):
            m.d.sync += banks.eq(self.read & ~self.meta_only)
            with m.If(self.read):
                m.d.sync += address.eq(self.read_address)
            with m.If(banks):
                m.d.sync += [self.scale.eq(self.meta_scale), self.fp8.eq(self.meta_fp8)]
        codes = [
            ram(m, f"{prefix}_bank_{i}", depth, (enable, self.write_address, half), (read, address))
            for i, (half, enable, read) in enumerate(
                (
                    (low, self.write, self.bank_0_read),
                    (high, self.write & self.block.fp8, self.bank_1_read),
                )
            )
        ]
        m.d.comb += self.codes.eq(Cat(codes))
        return m
