"""Rounds the accumulator to float32 and to bfloat16, each once from the exact value, in three cycles."""

from amaranth.hdl import C, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import ACCUMULATOR_FRACTION_BITS, BFLOAT16, FLOAT32, TENSOR_EXPONENT_LIMIT, MiniFloat
from .config import ROUNDING_CYCLES
from .faults import NO_FAULTS, Faults
from .pipeline import Pipeline, wire

__all__ = ["EXPONENT_LIMIT", "Rounder"]

EXPONENT_LIMIT = 2 * TENSOR_EXPONENT_LIMIT

_CUTS = ("magnitude", "normalized", "rounded")
assert len(_CUTS) == ROUNDING_CYCLES


class Rounder(wiring.Component):
    """Rounds `raw * 2**(exponent - 20)` to float32 and to bfloat16, `ROUNDING_CYCLES` later.

    Registers move only while `advance` is high, and those of data only with `valid`.

    Attributes:
        advance: move all stages.
        valid: a sum stands at the inputs.
        raw: the sum, in units of 2**-20.
        poisoned: the results are NaN.
        exponent: the sum of both tensor exponents; it is clamped to the legal ones.
        float32, bfloat16: the results.
        exponent_error: `exponent` is not a legal one (monitored).
        valid_out, raw_out, poisoned_out: what went in, beside the results (monitored).
    """

    def __init__(self, bits: int, *, monitored: bool = False, faults: Faults = NO_FAULTS):
        self._bits = bits
        self._monitored = monitored
        self._faults = faults
        members = {
            "advance": In(1),
            "valid": In(1),
            "raw": In(signed(bits)),
            "poisoned": In(1),
            "exponent": In(signed(8)),
            "float32": Out(FLOAT32.bits),
            "bfloat16": Out(BFLOAT16.bits),
        }
        if monitored:
            members |= {
                "exponent_error": Out(1),
                "valid_out": Out(1),
                "raw_out": Out(signed(bits)),
                "poisoned_out": Out(1),
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self._bits
        low, high = self.exponent < -EXPONENT_LIMIT, self.exponent > EXPONENT_LIMIT
        exponent = Mux(low, -EXPONENT_LIMIT, Mux(high, EXPONENT_LIMIT, self.exponent))
        negative = self.raw[-1]
        pipeline = Pipeline(m, self.advance, _CUTS, self.valid)
        s = pipeline.step(
            "magnitude",
            raw=self.raw if self._monitored else negative,
            poisoned=self.poisoned,
            # The biased exponent that a one in the top bit has. With a smaller one it still lies in 1..254, whatever
            # the accumulator holds.
            top=(FLOAT32.bias + bits - 1 - ACCUMULATOR_FRACTION_BITS + exponent)[: FLOAT32.exponent_bits],
            # In two's complement. One adder with a carry in; a negation beside a multiplexer came out slower.
            magnitude=_absolute(m, self.raw, negative, bits),
        )
        normalized, zeros = _normalize(m, s.magnitude, bits)
        exponent = (s.top - zeros)[: FLOAT32.exponent_bits]
        s = pipeline.step("normalized", raw=s.raw, poisoned=s.poisoned, exponent=exponent, normalized=normalized)

        # One addition rounds and carries into the exponent.
        float32 = self._round(FLOAT32, s.normalized, s.exponent)
        bfloat16 = self._round(BFLOAT16, s.normalized, s.exponent)
        twice = (float32[16:] + (float32[15] & (float32[:15].any() | float32[16])))[: BFLOAT16.bits - 1]
        bfloat16 = self._faults.pick("bfloat16 rounded twice", bfloat16, twice)
        values = []
        for fmt, rounded in ((FLOAT32, float32), (BFLOAT16, bfloat16)):
            finite = Mux(s.normalized[-1], Cat(rounded, s.raw[-1]), 0)
            nan = C(fmt.nan_code, fmt.bits)
            values.append(Mux(self._faults.pick("NaN not poisoning", s.poisoned, 0), nan, finite))
        s = pipeline.step("rounded", raw=s.raw.as_signed(), poisoned=s.poisoned, float32=values[0], bfloat16=values[1])
        m.d.comb += [self.float32.eq(s.float32), self.bfloat16.eq(s.bfloat16)]
        if self._monitored:
            assert pipeline.valid is not None
            m.d.comb += [
                self.exponent_error.eq(low | high),
                self.valid_out.eq(pipeline.valid),
                self.raw_out.eq(s.raw),
                self.poisoned_out.eq(s.poisoned),
            ]
        return m

    def _round(self, fmt: MiniFloat, normalized: Value, exponent: Value) -> Value:
        """Exponent and mantissa bits of the rounded magnitude."""
        kept = normalized[-fmt.mantissa_bits - 1 : -1]
        guard = normalized[-fmt.mantissa_bits - 2]
        sticky = self._faults.pick("sticky bit dropped", normalized[: -fmt.mantissa_bits - 2].any(), 0)
        up = guard & self._faults.pick("tie rounds up", sticky | kept[0], 1)
        return (Cat(kept, exponent) + up)[: fmt.bits - 1]


def _absolute(m: Module, raw: Value, negative: Value, bits: int) -> Value:
    """|raw| without an adder: a negative number's bits are inverted above the lowest one that is set.

    Whether a bit has a set one below is found for all bits in steps of 1, 2, 4, ...; a carry would ripple in mapping.
    """
    below: Value = Cat(Const(0, 1), raw)[:bits]
    distance = 1
    while distance < bits:
        below = wire(m, f"set_below_{2 * distance}", below | Cat(Const(0, distance), below)[:bits])
        distance *= 2
    return raw.as_unsigned() ^ (below & negative.replicate(bits))


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
