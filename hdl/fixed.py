"""The selector's inner number form: a magnitude in units of 2**-11 and one sticky bit, and what is read off it.

Every rounding boundary of E4M3 and of E2M1 under a legal block scale is a multiple of 2**-11, and nothing beyond 448
matters, so 20 bits and "something is below" decide every rounding exactly.
"""

from itertools import pairwise
from typing import NamedTuple

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value

from ..formats import E2M1, E4M3, MAX_STORED, MIN_BLOCK_SCALE_CODE, MiniFloat
from .faults import Faults
from .pipeline import wire

__all__ = ["FRACTION_BITS", "MAGNITUDE_BITS", "Fixed", "block_scale", "e2m1_boundaries", "encode_e4m3", "to_fixed"]

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
        return (self.magnitude > boundary) | ((self.magnitude == boundary) & self.sticky)

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
    for binade, top in enumerate(range(step + kept_bits, MAGNITUDE_BITS), start=1):
        with m.If(value.magnitude[top:].any()):
            m.d.comb += code.eq(_round_at(value, step + binade, binade << E4M3.mantissa_bits, faults))
    return code


def _round_at(value: Fixed, shift: int, offset: int, faults: Faults) -> Value:
    kept = value.magnitude[shift : shift + E4M3.mantissa_bits + 1]
    guard = value.magnitude[shift - 1]
    sticky = value.magnitude[: shift - 1].any() | value.sticky
    return offset + kept + (guard & (sticky | faults.pick("E4M3 tie rounds down", kept[0], 0)))


def block_scale(m: Module, amax: Fixed, faults: Faults) -> Value:
    """The block scale code for a block's largest magnitude: amax / 6 rounded to E4M3, at least 1 (7 bits).

    A quotient's mantissa only depends on amax's own, so a few constants replace the divider: those of the binades
    that map to subnormal scales, and one set for all others.
    """
    scale = Signal(E4M3.bits - 1)
    per_step = 6 << (FRACTION_BITS - (E4M3.bias - 1 + E4M3.mantissa_bits))  # amax whose scale is one subnormal step
    steps = 1 << E4M3.mantissa_bits
    subnormal: Value | int = 0
    for step in range(steps):
        subnormal = subnormal + _rounds_up(amax, step, per_step * step + per_step // 2, faults)

    normalized, position = _leading_one(m, amax.magnitude)
    significand = Fixed(normalized, amax.sticky)
    one = 1 << (MAGNITUDE_BITS - 1)
    upper = wire(m, "upper", normalized >= one * 3 // 2)
    count: Value | int = 0
    for step in range(steps):
        # Boundary between mantissas step and step + 1 of the quotient, as the significand of amax in [1, 2):
        # times 1.5 for quotients in [1, 4/3), times 0.75 for those in [4/3, 2), which are a binade lower.
        half_way = 2 * steps + 2 * step + 1
        low, high = half_way * 3 * one // (8 * steps), half_way * 3 * one // (4 * steps)
        passed = Mux(upper, _rounds_up(significand, step, high, faults) if high < 2 * one else 0, 0)
        passed = Mux(~upper, _rounds_up(significand, step, low, faults) if low >= one else 1, passed)
        count = count + passed
    # amax = significand * 2**(position - 11); quotient's biased exponent, one lower below 1.5.
    exponent = position + (E4M3.bias - FRACTION_BITS - 2)
    normal = ((exponent - ~upper) << E4M3.mantissa_bits) + count
    code = wire(m, "unclamped_scale", Mux(amax.magnitude >= per_step * steps, normal, subnormal)[: E4M3.bits - 1])
    m.d.comb += scale.eq(Mux(code.any(), code, MIN_BLOCK_SCALE_CODE))
    return scale


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


def e2m1_boundaries(m: Module, significand: Value, shift: Value) -> list[Value]:
    """The seven boundaries of E2M1 under a block scale `significand << shift` (unit 2**-9), in units of 2**-11."""
    magnitudes = E2M1.magnitudes
    middles = [int(4 * (low + high) / 2) for low, high in pairwise(magnitudes)]
    return [
        wire(m, f"boundary_{i}", ((significand * middle) << shift)[:MAGNITUDE_BITS]) for i, middle in enumerate(middles)
    ]
