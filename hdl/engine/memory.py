"""Memories, all of them instances of the one replaceable wrapper: block buffers and the site memory."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...formats import BLOCK_SIZE
from ..hierarchy import add_part
from ..operands import STORED_BLOCK
from ..pipeline import wire
from ..ram import ram
from .config import TILE_BLOCKS
from .interfaces import ActivationRead, BlockWrite, BufferRead, SiteWrite, WeightRead

__all__ = [
    "ActivationBuffer",
    "BlockBuffer",
    "SiteMemory",
    "WeightBuffer",
    "activation_read_ports",
    "site_address_bits",
    "weight_read_ports",
]


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


def weight_read_ports(lanes: int) -> dict[str, wiring.Member]:
    """The ports of a `WeightBuffer` on the side of the lanes."""
    return {
        "read": In(WeightRead(lanes)),
        "even": Out(STORED_BLOCK),
        "odd": Out(STORED_BLOCK),
        "bank_0_reads": Out(range(3)),
        "bank_1_reads": Out(range(3)),
    }


class WeightBuffer(wiring.Component):
    """Weight blocks of two K tiles, in two banks: two blocks of a row are written at once, two lanes' blocks are read.

    Block `k` of lane `n` lies in bank `(n + k) % 2`, so that neighbors in a row and neighbors in a column both lie in
    different banks.

    Attributes:
        write, slot: store blocks.
        read: fetch the blocks of two lanes.
        even, odd: those blocks, two cycles later.
        bank_0_reads, bank_1_reads: how many first and second halves of blocks are read in this cycle.
    """

    SLOTS = 2

    def __init__(self, lanes: int):
        self._lanes = lanes
        members = {"write": In(BlockWrite(lanes, 2)), "slot": In(range(self.SLOTS))}
        super().__init__(members | weight_read_ports(lanes))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        write, read = self.write, self.read
        counted = ("bank_0_read", "bank_1_read")
        banks = [BlockBuffer(self.SLOTS * self._lanes * TILE_BLOCKS // 2, counted=counted) for _ in range(2)]
        crossed = wire(m, "crossed", read.block[0])
        for index, bank in enumerate(banks):
            add_part(m, platform, f"bank_{index}", bank, kind="weight_bank")
            first = wire(m, f"first_to_{index}", write.row[0] == index)
            lane = crossed ^ index
            m.d.comb += [
                bank.write.eq(write.enable & (first | write.second)),
                bank.write_address.eq(Cat(write.column, write.row, self.slot)),
                bank.write_block.eq(Mux(first, write.block, write.second_block)),
                bank.read.eq(Mux(lane, read.enable[1], read.enable[0])),
                bank.read_address.eq(Cat(read.block[1:], lane, read.pair, read.slot)),
            ]
        crossed_1, crossed_2 = (Signal(name=f"crossed_{n}", reset_less=True) for n in (1, 2))
        with m.If(read.enable.any()):
            m.d.sync += crossed_1.eq(crossed)
        m.d.sync += crossed_2.eq(crossed_1)
        blocks = [Cat(bank.codes, bank.scale, bank.fp8) for bank in banks]
        m.d.comb += [
            self.even.eq(Mux(crossed_2, blocks[1], blocks[0])),
            self.odd.eq(Mux(crossed_2, blocks[0], blocks[1])),
            *(getattr(self, f"{c}s").eq(getattr(banks[0], c) + getattr(banks[1], c)) for c in counted),
        ]
        return m


def activation_read_ports(slots: int, rows: int) -> dict[str, wiring.Member]:
    """The ports of an `ActivationBuffer` on the side of the lanes."""
    return {
        "precision_read": In(BufferRead(slots * TILE_BLOCKS)),
        "precisions": Out(rows),
        "read": In(ActivationRead(slots * rows * TILE_BLOCKS)),
        "valid": Out(1),
        "codes": Out(8 * BLOCK_SIZE),
        "scale": Out(8),
        "fp8": Out(1),
        "bank_1_read": Out(1),
    }


class ActivationBuffer(wiring.Component):
    """Blocks of activations in fixed slots of `rows` rows: precision bits, scales, and the 16 bytes in two banks.

    The precision bits of all rows of a block of K are one word of a memory of their own, so that the order of work and
    the reads of a step are known before it begins. An FP4 block is read from the scales and the first bank, an FP8
    block from both banks. What is not read keeps what it shows.

    Attributes:
        write, slot: store a block.
        precision_read, precisions: precision bits of all rows of a block of K, a cycle later.
        read: fetch a block.
        valid, codes, scale, fp8: the block, a cycle later.
        bank_1_read: the second bank is read in this cycle, for the counters.
    """

    def __init__(self, slots: int, rows: int):
        self._slots, self._rows = slots, rows
        members = {"write": In(BlockWrite(rows)), "slot": In(range(slots))}
        super().__init__(members | activation_read_ports(slots, rows))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        write, block, depth = self.write, self.write.block, self._slots * self._rows * TILE_BLOCKS
        address = wire(m, "write_address", Cat(write.column, write.row, self.slot))
        only = wire(m, "written_row", Mux(write.enable, 1 << write.row, 0)[: self._rows])
        bits = block.fp8.replicate(self._rows)
        precision_read = (self.precision_read.enable, self.precision_read.address)
        precisions = ram(
            m, "precision_bits", self._slots * TILE_BLOCKS, (only, Cat(write.column, self.slot), bits), precision_read
        )
        read = self.read
        m.d.sync += self.valid.eq(read.enable)
        with m.If(read.enable):
            m.d.sync += self.fp8.eq(read.fp8)
        m.d.comb += [self.precisions.eq(precisions), self.bank_1_read.eq(read.enable & read.fp8)]
        parts = {
            "scales": (write.enable & ~block.fp8, block.scale, read.enable & ~read.fp8),
            "bank_0": (write.enable, block.codes[:64], read.enable),
            "bank_1": (write.enable & block.fp8, block.codes[64:], self.bank_1_read),
        }
        scale, low, high = (
            ram(m, name, depth, (written, address, value), (enable, read.address))
            for name, (written, value, enable) in parts.items()
        )
        m.d.comb += [self.scale.eq(scale), self.codes.eq(Cat(low, high))]
        return m


def site_address_bits(channels: int) -> int:
    """Width of the index of a block of channels; a site memory has at least one K tile's."""
    return max((channels // BLOCK_SIZE - 1).bit_length(), (TILE_BLOCKS - 1).bit_length())


class SiteMemory(wiring.Component):
    """Each block's static precision and channel codes, as software wrote them.

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
