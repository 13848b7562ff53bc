"""Terms of SMT-LIB: constants, tables, and the specifications of the formats as comparisons with exact boundaries."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from ..formats import FLOAT32, MiniFloat

__all__ = ["Case", "bits", "boundary_codes", "concat", "count", "extended", "float_code", "number", "rounded", "table"]


Case = tuple[str, str]
"""Of a claim: what it is about, and a term that must never be true."""


def number(value: int, width: int) -> str:
    """A bit vector; negative values in two's complement."""
    return f"(_ bv{value % (1 << width)} {width})"


def bits(term: str, high: int, low: int) -> str:
    """Bits `high` to `low`, both included."""
    return f"((_ extract {high} {low}) {term})"


def concat(*terms: str) -> str:
    """The first term has the highest bits."""
    return terms[0] if len(terms) == 1 else f"(concat {' '.join(terms)})"


def extended(term: str, by: int, *, signed: bool = False) -> str:
    """So many bits more."""
    return f"((_ {'sign' if signed else 'zero'}_extend {by}) {term})"


def table(index: str, values: Sequence[int], width: int) -> str:
    """The entry at `index`, whose width is that of 2**width = len(values) entries."""
    if len(values) == 1:
        return number(values[0], width)
    top = len(values).bit_length() - 2
    half = len(values) // 2
    low, high = table(index, values[:half], width), table(index, values[half:], width)
    return low if low == high else f"(ite (= {bits(index, top, top)} #b1) {high} {low})"


def count(conditions: Sequence[str], width: int) -> str:
    """How many of them are true, where each implies those before it."""
    return _bisect(conditions, 0, len(conditions), width)


def _bisect(conditions: Sequence[str], least: int, most: int, width: int) -> str:
    if least == most:
        return number(least, width)
    middle = (least + most) // 2  # condition number `middle` says whether there are more than that
    more, fewer = _bisect(conditions, middle + 1, most, width), _bisect(conditions, least, middle, width)
    return f"(ite {conditions[middle]} {more} {fewer})"


def float_code(value: Fraction, source: MiniFloat) -> int:
    """The code of a positive `value` that `source`, a format with infinities, holds exactly."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    if Fraction(2) ** exponent > value:
        exponent -= 1
    mantissa = (value / Fraction(2) ** exponent - 1) * (1 << source.mantissa_bits)
    code = (exponent + source.bias << source.mantissa_bits) + mantissa.numerator
    assert mantissa.denominator == 1, value
    assert source.magnitude(code) == value
    return code


def boundary_codes(target: MiniFloat, scale: Fraction, source: MiniFloat = FLOAT32) -> list[tuple[int, bool]]:
    """Where rounding to `target`, times `scale`, goes up: the middles as codes of `source`, and whether a tie does.

    Ties go to the even code.
    """
    values = [Fraction(value) * scale for value in target.magnitudes]
    middles = [(low + high) / 2 for low, high in pairwise(values)]
    return [(float_code(middle, source), index % 2 == 1) for index, middle in enumerate(middles)]


def rounded(magnitude: str, boundaries: Sequence[tuple[int, bool]], width: int, source_bits: int) -> str:
    """The code that a magnitude, a code without its sign, rounds to. Codes of floats are ordered as their values."""
    passed = [f"({'bvuge' if tie else 'bvugt'} {magnitude} {number(code, source_bits)})" for code, tie in boundaries]
    return count(passed, width)
