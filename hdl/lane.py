"""The lane: the dot product of two rows of mixed-precision blocks, one block pair per cycle, accumulated exactly."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..formats import BFLOAT16, FLOAT32
from .config import LaneConfig
from .dot import DotProduct, connect_blocks
from .faults import LANE_FAULTS, NO_FAULTS, Faults
from .hierarchy import add_part
from .operands import stored_block
from .pipeline import Pipeline, sticky
from .rounding import Rounder

__all__ = ["Lane", "block_pair", "lane_result"]


def block_pair(formats: str) -> data.StructLayout:
    """Layout of the input payload: two blocks as `stored_block` says, and where a row begins and ends.

    `first` replaces the accumulator, otherwise the term is added; `last` emits the accumulator.
    """
    block = stored_block(formats)
    return data.StructLayout({"a": block, "w": block, "first": 1, "last": 1})


def lane_result(bits: int) -> data.StructLayout:
    """Layout of the output payload for an accumulator of `bits`."""
    return data.StructLayout({"raw": signed(bits), "float32": FLOAT32.bits, "bfloat16": BFLOAT16.bits, "poisoned": 1})


class Lane(wiring.Component):
    """The dot-product lane: docs/numerics.md section 3 in hardware, one block pair per cycle.

    Attributes:
        i: block pairs (`block_pair`); one is taken every cycle unless a result waits at `o`.
        o: results (`lane_result`).
        exponent: sum of both tensor exponents; it must not change while a row's result is under way.
        clear_flags: clears the flags; an event in the same cycle wins.
        nan: sticky: an element was NaN.
        format_error: sticky: a block scale was illegal, or the exponent out of range.
        overflow: sticky: the accumulator overflowed.
        fault_select: plants a fault, for benches that prove what they see.
    """

    def __init__(self, config: LaneConfig, faults: bool = False):
        self.config = config
        members = {
            "i": In(stream.Signature(block_pair(config.formats))),
            "o": Out(stream.Signature(lane_result(config.accumulator_bits))),
            "exponent": In(signed(8)),
            "clear_flags": In(1),
            "nan": Out(1),
            "format_error": Out(1),
            "overflow": Out(1),
        }
        if faults:
            members["fault_select"] = In(4)
        super().__init__(members)
        self._faults = Faults(LANE_FAULTS, self.fault_select) if faults else NO_FAULTS

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.config.accumulator_bits
        advance = Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]

        dot = DotProduct(self.config.pipeline, self.config.formats, self.config.sharing, self._faults)
        add_part(m, platform, "dot_product", dot)
        pair = self.i.payload
        connect_blocks(m, dot, pair.a, pair.w, self.config.formats, self._faults)
        m.d.comb += dot.advance.eq(advance)
        control = Pipeline(m, advance, range(self.config.pipeline))
        control_bits = {"valid": self.i.valid, "first": pair.first, "last": pair.last}
        valid, first, last = (control.delayed(name, bit) for name, bit in control_bits.items())

        accumulator = Signal(signed(bits))
        poisoned = Signal()
        emit = Signal()
        total = Signal(signed(bits + 1))
        m.d.comb += total.eq(Mux(first, 0, accumulator) + dot.term)
        short = total[: bits - 1].as_signed()
        overflow = total[bits] != total[bits - 1]
        bad = dot.errors | overflow
        with m.If(advance):
            m.d.sync += emit.eq(valid & last)
            with m.If(valid):
                m.d.sync += [
                    accumulator.eq(self._faults.pick("accumulator one bit short", total[:bits].as_signed(), short)),
                    poisoned.eq(bad | (poisoned & ~first)),
                ]

        rounder = Rounder(bits, monitored=True, faults=self._faults)
        add_part(m, platform, "rounder", rounder)
        m.d.comb += [
            rounder.advance.eq(advance),
            rounder.valid.eq(emit),
            rounder.raw.eq(accumulator),
            rounder.poisoned.eq(poisoned),
            rounder.exponent.eq(self.exponent),
            self.o.valid.eq(rounder.valid_out),
            self.o.payload.raw.eq(rounder.raw_out),
            self.o.payload.float32.eq(rounder.float32),
            self.o.payload.bfloat16.eq(rounder.bfloat16),
            self.o.payload.poisoned.eq(rounder.poisoned_out),
        ]

        taken = valid & advance
        for flag, event in (
            (self.nan, taken & dot.nan),
            (self.format_error, (taken & dot.illegal) | (emit & advance & rounder.exponent_error)),
            (self.overflow, taken & overflow),
        ):
            sticky(m, flag, event, self.clear_flags)
        return m
