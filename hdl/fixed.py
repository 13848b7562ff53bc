"""The selector's inner number form: a magnitude in units of 2**-11 and one sticky bit, and what is read off it.

Every rounding boundary of E4M3 and of E2M1 under a legal block scale is a multiple of 2**-11, and nothing beyond 448
matters, so 20 bits and "something is below" decide every rounding exactly.
"""

from collections.abc import Mapping
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import NamedTuple

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value

from ..formats import E2M1, E4M3, MAX_BLOCK_SCALE_CODE, MAX_STORED, MIN_BLOCK_SCALE_CODE, MiniFloat
from .decoder import decode_e4m3
from .faults import Faults
from .pipeline import wire

__all__ = [
    "FRACTION_BITS",
    "MAGNITUDE_BITS",
    "Fixed",
    "block_scale",
    "count_passed",
    "e2m1_boundaries",
    "e2m1_values",
    "encode_e4m3",
    "larger_block_scale",
    "scale_multiples",
    "to_fixed",
]  # fmt: skip

FRACTION_BITS = 11
_LIMIT = MAX_STORED << FRACTION_BITS
MAGNITUDE_BITS = _LIMIT.bit_length()
_EXPONENT_OF_TOP_BIT = MAGNITUDE_BITS - 1 - FRACTION_BITS


class Fixed(NamedTuple):
    """`magnitude` is the value's, rounded down to 2**-11; `sticky` says that it was more."""

    magnitude: Value
    sticky: Value

    def above(self, boundary: Value | int) -> Value:
        """value > boundary"""
        return Cat(self.sticky, self.magnitude) > (boundary << 1)

    def at_least(self, boundary: Value | int) -> Value:
        """value >= boundary"""
        return self.magnitude >= boundary


def to_fixed(m: Module, name: str, fmt: MiniFloat, code: Value, exponent: Value, faults: Faults) -> tuple[Fixed, Value]:
    """|code| / 2**exponent, saturated to 448 (NaN gives 0), and whether the code is NaN. `exponent` is legal."""
    mantissa = code[: fmt.mantissa_bits]
    biased = code[fmt.mantissa_bits : fmt.bits - 1]
    normal = biased.any()
    special = biased.all()
    nan = special & mantissa.any()
    significand = Cat(mantissa, normal)
    # Leading one on the magnitude's top bit, if the value is in [256, 512).
    wide = Cat(C(0, max(MAGNITUDE_BITS - len(significand), 0)), significand)
    spare = len(wide) - MAGNITUDE_BITS
    distance = Signal(range(-512, 512), name=f"{name}_distance")
    m.d.comb += distance.eq(fmt.bias + _EXPONENT_OF_TOP_BIT + exponent - Mux(normal, biased, 1))
    far = wire(m, f"{name}_far", distance >= 1 << (len(wide) - 1).bit_length())
    shifted = wide
    lost: Value = C(0, 1)
    for level in range((len(wide) - 1).bit_length()):
        step = 1 << level
        following = Signal(len(wide), name=f"{name}_shift_{step}")
        dropped = Signal(name=f"{name}_lost_{step}")
        m.d.comb += [
            following.eq(Mux(distance[level], shifted >> step, shifted)),
            dropped.eq(lost | (distance[level] & shifted[:step].any())),
        ]
        shifted, lost = following, dropped
    kept = shifted[spare:]
    below = lost | shifted[:spare].any() if spare else lost
    infinite = faults.pick("infinity as zero", special, 0)
    saturated = wire(m, f"{name}_saturated", (distance < 0) | infinite | (~far & (kept >= _LIMIT)))
    zero = wire(m, f"{name}_zero", nan | faults.pick("infinity as zero", 0, special))
    magnitude = Mux(zero | (far & ~saturated), 0, Mux(saturated, _LIMIT, kept))[:MAGNITUDE_BITS]
    sticky = ~zero & ~saturated & Mux(far, significand.any(), below)
    return Fixed(magnitude, faults.pick("sticky bit dropped", sticky, 0)), nan


def encode_e4m3(m: Module, name: str, value: Fixed, faults: Faults) -> Value:
    """The E4M3 magnitude code nearest to `value`, ties to even (7 bits)."""
    step = FRACTION_BITS - (E4M3.bias - 1 + E4M3.mantissa_bits)  # position of a subnormal's last kept bit
    kept_bits = E4M3.mantissa_bits + 1
    code = Signal(E4M3.bits - 1, name=name)
    # Binades from the subnormals (which share the lowest normal binade's step) upwards; the last match wins.
    m.d.comb += code.eq(_round_at(value, step, 0, faults))
    for binade, top in enumerate(range(step + kept_bits, len(value.magnitude)), start=1):
        with m.If(value.magnitude[top:].any()):
            m.d.comb += code.eq(_round_at(value, step + binade, binade << E4M3.mantissa_bits, faults))
    return code


def _round_at(value: Fixed, shift: int, offset: int, faults: Faults) -> Value:
    kept = value.magnitude[shift : shift + E4M3.mantissa_bits + 1]
    guard = value.magnitude[shift - 1]
    sticky = value.magnitude[: shift - 1].any() | value.sticky
    return offset + kept + (guard & (sticky | faults.pick("E4M3 tie rounds down", kept[0], 0)))


_STEPS = 1 << E4M3.mantissa_bits
_ONE = 1 << (MAGNITUDE_BITS - 1)
"""Of a magnitude whose leading one is its top bit: 1, as significands are counted here."""

_PER_STEP = 6 << (FRACTION_BITS - (E4M3.bias - 1 + E4M3.mantissa_bits))
"""The amax whose scale is one step of the subnormal scales."""


def _subnormal_boundaries() -> list[int]:
    """Between subnormal scales `step` and `step` + 1, as amax."""
    return [_PER_STEP * step + _PER_STEP // 2 for step in range(_STEPS)]


def _mantissa_boundaries(numerator: int) -> list[int]:
    """Between mantissas `step` and `step` + 1 of amax / 6, as significands of amax in [1, 2) or beyond.

    The significand is the quotient times 1.5 (`numerator` 12) where that is in [1, 4/3), else times 0.75 (6).
    """
    half_ways = (2 * _STEPS + 2 * step + 1 for step in range(_STEPS))
    return [half_way * numerator * _ONE // (8 * 2 * _STEPS) for half_way in half_ways]


def block_scale(m: Module, amax: Fixed, faults: Faults) -> Value:
    """The block scale code for a block's largest magnitude: amax / 6 rounded to E4M3, at least 1 (7 bits).

    A quotient's mantissa only depends on amax's own, so a few constants replace the divider: a code is how many
    boundaries amax has passed.
    """
    scale = Signal(E4M3.bits - 1)
    small = [_rounds_up(amax, step, boundary, faults) for step, boundary in enumerate(_subnormal_boundaries())]
    subnormal = count_passed(m, "subnormal_scale", small)

    normalized, position = _leading_one(m, amax.magnitude)
    significand = Fixed(normalized, amax.sticky)
    upper = wire(m, "upper", normalized >= _ONE * 3 // 2)
    beyond = []
    for step, (high, low) in enumerate(zip(_mantissa_boundaries(12), _mantissa_boundaries(6), strict=True)):
        # Of a significand from 1.5 on no boundary is beyond 2, of one below none is under 1 but for those passed.
        above = _rounds_up(significand, step, high, faults) if high < 2 * _ONE else C(0, 1)
        beneath = _rounds_up(significand, step, low, faults) if low >= _ONE else C(1, 1)
        beyond.append(Mux(upper, above, beneath))
    # amax = significand * 2**(position - 11); quotient's biased exponent, one lower below 1.5.
    exponent = position + (E4M3.bias - FRACTION_BITS - 2)
    normal = ((exponent - ~upper) << E4M3.mantissa_bits) + count_passed(m, "scale_mantissa", beyond)
    chosen = Mux(amax.magnitude >= _PER_STEP * _STEPS, normal, subnormal)[: E4M3.bits - 1]
    code = wire(m, "unclamped_scale", chosen)
    m.d.comb += scale.eq(Mux(code.any(), code, MIN_BLOCK_SCALE_CODE))
    return scale


def larger_block_scale(m: Module, amax: Fixed, faults: Faults) -> Value:
    """The other scale of "four over six", amax / 4 rounded to E4M3, 1 to 105 (7 bits)."""
    lost = amax.magnitude[:2].any()
    quarter = Fixed(amax.magnitude[2:], amax.sticky | faults.pick("bits below a quarter dropped", lost, 0))
    code = encode_e4m3(m, "unclamped_larger_scale", quarter, faults)
    beyond = faults.pick("larger scale beyond 105", code > MAX_BLOCK_SCALE_CODE, 0)
    at_most = Mux(beyond, MAX_BLOCK_SCALE_CODE, code)
    return wire(m, "larger_scale", Mux(code.any(), at_most, MIN_BLOCK_SCALE_CODE)[: E4M3.bits - 1])


def count_passed(m: Module, name: str, boundaries: list[Value]) -> Value:
    """How many boundaries a value has passed; they ascend, so those passed come first."""
    flags = wire(m, f"{name}_passed", Cat(boundaries))
    bits = []
    for weight in (1 << n for n in range(len(flags).bit_length())):
        # The count has this bit from every odd multiple of its weight up to the next multiple.
        ends = [*flags[weight - 1 :: weight], C(0, 1)]
        bits.append(reduce(or_, [low & ~high for low, high in zip(ends[::2], ends[1::2], strict=False)]))
    return wire(m, name, Cat(bits))


def _rounds_up(value: Fixed, code: int, boundary: int, faults: Faults) -> Value:
    """Whether `value` lies beyond the boundary above `code`, where a tie goes to the even neighbour."""
    if code % 2:
        return value.at_least(boundary)
    return faults.pick("block scale tie rounds up", value.above(boundary), value.at_least(boundary))


def _leading_one(m: Module, magnitude: Value) -> tuple[Value, Value]:
    """`magnitude` shifted up until its top bit is set, and the position its leading one had."""
    normalized = Signal(MAGNITUDE_BITS)
    position = Signal(range(MAGNITUDE_BITS))
    for top in range(MAGNITUDE_BITS):
        with m.If(magnitude[top]):
            m.d.comb += [normalized.eq(magnitude << (MAGNITUDE_BITS - 1 - top)), position.eq(top)]
    return normalized, position


def scale_multiples(m: Module, prefix: str, scale: Value) -> dict[int, Value]:
    """Once, three, five and seven times a block scale, in units of 2**-9: all that follows is wired from these."""
    decoded = decode_e4m3(Cat(scale, C(0, 1)))
    significand = wire(m, f"{prefix}scale_significand", decoded.significand)
    shift = wire(m, f"{prefix}scale_shift", decoded.shift)
    return {
        odd: wire(m, f"{prefix}scale_times_{odd}", ((significand * odd) << shift)[:MAGNITUDE_BITS])
        for odd in (1, 3, 5, 7)
    }


def e2m1_boundaries(multiples: Mapping[int, Value]) -> list[Value]:
    """The seven boundaries of E2M1 under a block scale of unit 2**-9, in units of 2**-11."""
    return [_multiple(multiples, int(2 * (low + high))) for low, high in pairwise(E2M1.magnitudes)]


def e2m1_values(multiples: Mapping[int, Value]) -> list[Value]:
    """The E2M1 magnitudes but zero, times a block scale of unit 2**-9, in units of 2**-10. Needs 1 and 3."""
    return [_multiple(multiples, int(2 * magnitude)) for magnitude in E2M1.magnitudes[1:]]


def _multiple(multiples: Mapping[int, Value], factor: int) -> Value:
    twos = (factor & -factor).bit_length() - 1
    return (multiples[factor >> twos] << twos)[:MAGNITUDE_BITS]
