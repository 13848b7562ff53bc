"""Rounds the accumulator to float32 and to bfloat16, each once from the exact value, in three cycles."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..golden.formats import ACCUMULATOR_FRACTION_BITS, BFLOAT16, FLOAT32, TENSOR_EXPONENT_LIMIT, MiniFloat
from .config import ROUNDING_CYCLES
from .faults import NO_FAULTS, Faults
from .pipeline import Pipeline

__all__ = ["EXPONENT_LIMIT", "Rounder"]

EXPONENT_LIMIT = 2 * TENSOR_EXPONENT_LIMIT

_CUTS = ("magnitude", "normalized", "rounded")
assert len(_CUTS) == ROUNDING_CYCLES

_QUIET_NAN = {FLOAT32.name: 0x7FC00000, BFLOAT16.name: 0x7FC0}


class Rounder(wiring.Component):
    """`float32` and `bfloat16` of `raw * 2**(exponent - 20)`, or NaN where `poisoned`; `exponent` is clamped.

    Registers move only while `advance` is high, and those of data only with `valid`; `valid_out`, `raw_out` and
    `poisoned_out` are what went in, `ROUNDING_CYCLES` later.
    """

    def __init__(self, bits: int, faults: Faults = NO_FAULTS):
        self._bits = bits
        self._faults = faults
        super().__init__(
            {
                "advance": In(1),
                "valid": In(1),
                "raw": In(signed(bits)),
                "poisoned": In(1),
                "exponent": In(signed(8)),
                "exponent_error": Out(1),
                "valid_out": Out(1),
                "raw_out": Out(signed(bits)),
                "poisoned_out": Out(1),
                "float32": Out(FLOAT32.bits),
                "bfloat16": Out(BFLOAT16.bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self._bits
        low, high = self.exponent < -EXPONENT_LIMIT, self.exponent > EXPONENT_LIMIT
        exponent = Mux(low, -EXPONENT_LIMIT, Mux(high, EXPONENT_LIMIT, self.exponent))
        m.d.comb += self.exponent_error.eq(low | high)

        pipeline = Pipeline(m, self.advance, _CUTS, self.valid)
        assert pipeline.valid is not None

        # The biased exponent that a one in the top bit has. With a smaller one it still lies in 1..254, whatever the
        # accumulator holds.
        top = (FLOAT32.bias + bits - 1 - ACCUMULATOR_FRACTION_BITS + exponent)[: FLOAT32.exponent_bits]
        magnitude = Mux(self.raw[-1], -self.raw, self.raw)[:bits]
        raw, poisoned, top, magnitude = pipeline.cut("magnitude", self.raw, self.poisoned, top, magnitude)

        normalized, zeros = _normalize(m, magnitude, bits)
        exponent = (top - zeros)[: FLOAT32.exponent_bits]
        raw, poisoned, exponent, normalized = pipeline.cut("normalized", raw, poisoned, exponent, normalized)

        # One addition rounds and carries into the exponent.
        float32 = self._round(FLOAT32, normalized, exponent)
        bfloat16 = self._round(BFLOAT16, normalized, exponent)
        twice = (float32[16:] + (float32[15] & (float32[:15].any() | float32[16])))[: BFLOAT16.bits - 1]
        bfloat16 = self._faults.pick("bfloat16 rounded twice", bfloat16, twice)
        values = []
        for fmt, rounded in ((FLOAT32, float32), (BFLOAT16, bfloat16)):
            finite = Mux(normalized[-1], Cat(rounded, raw[-1]), 0)
            nan = C(_QUIET_NAN[fmt.name], fmt.bits)
            values.append(Mux(self._faults.pick("NaN not poisoning", poisoned, 0), nan, finite))
        raw, poisoned, *values = pipeline.cut("rounded", raw.as_signed(), poisoned, *values)
        m.d.comb += [
            self.valid_out.eq(pipeline.valid),
            self.raw_out.eq(raw),
            self.poisoned_out.eq(poisoned),
            self.float32.eq(values[0]),
            self.bfloat16.eq(values[1]),
        ]
        return m

    def _round(self, fmt: MiniFloat, normalized: Value, exponent: Value) -> Value:
        """Exponent and mantissa bits of the rounded magnitude."""
        kept = normalized[-fmt.mantissa_bits - 1 : -1]
        guard = normalized[-fmt.mantissa_bits - 2]
        sticky = self._faults.pick("sticky bit dropped", normalized[: -fmt.mantissa_bits - 2].any(), 0)
        up = guard & self._faults.pick("tie rounds up", sticky | kept[0], 1)
        return (Cat(kept, exponent) + up)[: fmt.bits - 1]


def _normalize(m: Module, magnitude: Value, bits: int) -> tuple[Value, Value]:
    """`magnitude` shifted left until its top bit is set, and by how much (all ones for zero)."""
    zeros = []
    current = magnitude
    for level in reversed(range((bits - 1).bit_length())):
        step = 1 << level
        empty = Signal(name=f"top_{step}_empty")
        following = Signal(bits, name=f"normalized_{step}")
        m.d.comb += [
            empty.eq(~current[-min(step, bits) :].any()),
            following.eq(Mux(empty, Cat(C(0, step), current)[:bits], current)),
        ]
        zeros.append(empty)
        current = following
    return current, Cat(reversed(zeros))
