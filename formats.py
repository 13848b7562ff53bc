"""Number formats and the constants of the numeric contract, as pure data (docs/numerics.md).

The ground floor of the project: no torch, no amaranth. The golden model and the RTL share what is in this file, and
tests/test_formats.py holds a table of it that was typed in by hand.
"""

import math
from dataclasses import dataclass
from functools import cached_property

__all__ = [
    "ACCUMULATOR_FRACTION_BITS",
    "BFLOAT16",
    "BLOCK_SIZE",
    "E2M1",
    "E4M3",
    "FLOAT32",
    "FP4_BLOCK_BITS",
    "FP8_BLOCK_BITS",
    "K_LIMIT",
    "MAX_BLOCK_SCALE_CODE",
    "MAX_STORED",
    "MIN_BLOCK_SCALE_CODE",
    "PRECISION_MODES",
    "SCORE_BITS",
    "SCORE_BITS_WITH_CHANNEL_CODES",
    "SELECTOR_MODES",
    "STORED_FRACTION_BITS",
    "TENSOR_EXPONENT_LIMIT",
    "THRESHOLD_EXPONENT_BITS",
    "THRESHOLD_SIGNIFICAND_BITS",
    "MiniFloat",
    "accumulator_bits",
    "ceil_div",
]


@dataclass(frozen=True)
class MiniFloat:
    """A sign, exponent and mantissa format without infinities, or an IEEE one with them.

    `nan_codes` are the magnitudes (sign bit cleared) that are NaN; `has_infinity` says whether the largest exponent
    with mantissa 0 is infinity. `source` names the defining document.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    nan_codes: range
    has_infinity: bool
    source: str

    @property
    def bits(self) -> int:
        """Width of a code."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def sign_bit(self) -> int:
        """The code's sign bit as a mask."""
        return 1 << (self.bits - 1)

    @property
    def max_finite_code(self) -> int:
        """The code of the largest finite value."""
        if self.has_infinity:
            return ((1 << self.exponent_bits) - 1 << self.mantissa_bits) - 1
        return self.nan_codes.start - 1 if self.nan_codes else self.sign_bit - 1

    @property
    def nan_code(self) -> int:
        """The NaN that golden model and RTL emit: the only one, or the quiet one without payload."""
        return self.max_finite_code + 1 | 1 << (self.mantissa_bits - 1) if self.has_infinity else self.nan_codes.start

    def magnitude(self, code: int) -> float:
        """The magnitude of `code` (its sign bit is ignored), exact as a Python float; NaN and infinity as such."""
        code &= self.sign_bit - 1
        if code in self.nan_codes:
            return math.nan
        exponent, mantissa = divmod(code, 1 << self.mantissa_bits)
        if self.has_infinity and code > self.max_finite_code:
            return math.inf
        if exponent == 0:
            return math.ldexp(mantissa, 1 - self.bias - self.mantissa_bits)
        return math.ldexp(mantissa + (1 << self.mantissa_bits), exponent - self.bias - self.mantissa_bits)

    @cached_property
    def magnitudes(self) -> tuple[float, ...]:
        """All finite magnitudes in ascending order; the index is the code."""
        return tuple(self.magnitude(code) for code in range(self.max_finite_code + 1))


E2M1 = MiniFloat("E2M1", 2, 1, 1, range(0), False, "OCP Microscaling Formats (MX) v1.0")
E4M3 = MiniFloat("E4M3", 4, 3, 7, range(0x7F, 0x80), False, "OCP 8-bit Floating Point (OFP8) v1.0")
FLOAT32 = MiniFloat("float32", 8, 23, 127, range(0x7F80_0001, 0x8000_0000), True, "IEEE 754 binary32")
BFLOAT16 = MiniFloat("bfloat16", 8, 7, 127, range(0x7F81, 0x8000), True, "the upper half of IEEE 754 binary32")

BLOCK_SIZE = 16
"""Values in a block, consecutive along K."""

MIN_BLOCK_SCALE_CODE = 1
MAX_BLOCK_SCALE_CODE = 105
"""The legal block scales are E4M3 codes 1 (2**-9) to 105 (72, the largest with 6 * scale <= 448)."""

MAX_STORED = 448
STORED_FRACTION_BITS = 10
"""Every stored value is a multiple of 2**-10 and at most 448 in magnitude."""

ACCUMULATOR_FRACTION_BITS = 2 * STORED_FRACTION_BITS
FP4_BLOCK_BITS, FP8_BLOCK_BITS = 4 * BLOCK_SIZE + 8 + 1, 8 * BLOCK_SIZE + 1
"""Of a packed block: codes, block scale, precision bit."""

TENSOR_EXPONENT_LIMIT = 47
"""Tensor exponents lie in [-47, 47]: any sum of two keeps results normal float32 numbers."""

K_LIMIT = 42_799
"""The longest dot product that is exact in float64 in any order: K * 448**2 * 2**20 < 2**53."""

THRESHOLD_SIGNIFICAND_BITS = 8
THRESHOLD_EXPONENT_BITS = 6
SCORE_BITS = 38
SCORE_BITS_WITH_CHANNEL_CODES = 53

SELECTOR_MODES = ("dynamic", "static", "all_fp4", "all_fp8")
"""Ways to decide a block's precision in the selector; the index is the register value."""

PRECISION_MODES = {
    "FP4xFP4": (False, False),
    "FP4xFP8": (False, True),
    "FP8xFP4": (True, False),
    "FP8xFP8": (True, True),
}
"""The lane's precision modes: the format of the activation block, then of the weight block; True = FP8."""


def accumulator_bits(k_max: int) -> int:
    """Width of the two's-complement accumulator, unit 2**-20, that holds any dot product of `k_max` stored values."""
    return 1 + (k_max * MAX_STORED**2 << ACCUMULATOR_FRACTION_BITS).bit_length()


def ceil_div(size: int, part: int) -> int:
    """How many parts of `part` it takes to hold `size`: the quotient, rounded up."""
    return -(-size // part)
