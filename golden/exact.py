"""The reference oracle: formats, quantizers, lane and selector of docs/numerics.md again, in fractions and integers.

Written for obviousness, not for speed; it shares no algorithm with the torch model or the RTL. Values are `Fraction`,
or None for NaN; infinities are the Python floats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf, isnan

from ..formats import (
    BFLOAT16,
    BLOCK_SIZE,
    E2M1,
    E4M3,
    FLOAT32,
    MAX_BLOCK_SCALE_CODE,
    MAX_STORED,
    MIN_BLOCK_SCALE_CODE,
    TENSOR_EXPONENT_LIMIT,
    MiniFloat,
    accumulator_bits,
)

__all__ = [
    "ExactBlock",
    "LaneResult",
    "StoredBlock",
    "block_scale_code",
    "decode",
    "encode",
    "lane_row",
    "quantize_e2m1",
    "select_block",
    "tensor_exponent",
]

Value = Fraction | float | None


def decode(fmt: MiniFloat, code: int) -> Value:
    """The value of `code`: a Fraction, an infinity, or None for NaN. Both zeros give 0."""
    magnitude = fmt.magnitude(code)
    if isnan(magnitude):
        return None
    negative = bool(code & fmt.sign_bit)
    if magnitude == inf:
        return -inf if negative else inf
    return -Fraction(magnitude) if negative else Fraction(magnitude)


def encode(fmt: MiniFloat, value: Fraction | float) -> int:
    """The code nearest to `value`, ties to the even code, saturating; zero gives +0."""
    sign = fmt.sign_bit if value < 0 else 0
    magnitude: Fraction | float = -value if value < 0 else value
    largest = fmt.max_finite_code
    if magnitude >= fmt.magnitude(largest):
        return sign | largest
    low, high = 0, largest  # invariant: magnitude(low) <= magnitude < magnitude(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if Fraction(fmt.magnitude(middle)) <= magnitude else (low, middle)
    below = Fraction(magnitude) - Fraction(fmt.magnitude(low))
    above = Fraction(fmt.magnitude(high)) - Fraction(magnitude)
    code = low if below < above or (below == above and low % 2 == 0) else high
    return sign | code if code else 0


def tensor_exponent(amax: Fraction) -> int:
    """Smallest e in [-47, 47] with amax <= 448 * 2**e; 0 for a zero tensor."""
    if amax == 0:
        return 0
    limit = TENSOR_EXPONENT_LIMIT
    return next((e for e in range(-limit, limit + 1) if amax <= MAX_STORED * Fraction(2) ** e), limit)


def block_scale_code(amax: Fraction, largest: int = 6) -> int:
    """The scale of a block whose largest magnitude (in stored units) is `amax`, which becomes `largest`."""
    return min(max(encode(E4M3, amax / largest), MIN_BLOCK_SCALE_CODE), MAX_BLOCK_SCALE_CODE)


def quantize_e2m1(value: Fraction, scale_code: int) -> int:
    """The E2M1 code nearest to `value` over its block scale, as an exact quotient."""
    return encode(E2M1, value / Fraction(E4M3.magnitude(scale_code)))


@dataclass(frozen=True)
class ExactBlock:
    """The selector's result for one block."""

    fp8: bool
    scale: int
    codes: tuple[int, ...]
    score: int
    nan: bool


def select_block(
    values: Sequence[Value],
    exponent: int,
    threshold: int,
    mode: str,
    static_fp8: bool = False,
    channel_codes: Sequence[int] = (0,) * BLOCK_SIZE,
    *,
    four_over_six: bool = False,
) -> ExactBlock:
    """The selector's recipe, docs/numerics.md section 4. `values` are real values as the input format gives them."""
    exponent = min(max(exponent, -TENSOR_EXPONENT_LIMIT), TENSOR_EXPONENT_LIMIT)
    v = [min(max(Fraction(0) if x is None else _scaled(x, -exponent), -MAX_STORED), MAX_STORED) for x in values]
    fractions = [Fraction(x) for x in v]
    codes8 = [encode(E4M3, x) for x in fractions]
    amax = max(abs(x) for x in fractions)
    scales = [block_scale_code(amax, largest) for largest in ((6, 4) if four_over_six else (6,))]
    candidates = [(scale, *_fp4_candidate(fractions, scale, codes8, channel_codes)) for scale in scales]
    scale, codes4, score = min(candidates, key=lambda candidate: candidate[2])  # the first of equal scores
    nan = any(x is None for x in values)
    choice = {"dynamic": score > threshold, "static": static_fp8, "all_fp4": False, "all_fp8": True}[mode]
    if nan or choice:
        emitted = tuple(0x7F if x is None else code for x, code in zip(values, codes8, strict=True))
        return ExactBlock(True, 0, emitted, score, nan)
    return ExactBlock(False, scale, tuple(codes4), score, nan)


def _fp4_candidate(
    values: Sequence[Fraction], scale: int, codes8: Sequence[int], channel_codes: Sequence[int]
) -> tuple[list[int], int]:
    """E2M1 codes under a block scale, and the sum of what they are off from E4M3, cut and squared."""
    codes4 = [quantize_e2m1(x, scale) for x in values]
    score = 0
    for code4, code8, shift in zip(codes4, codes8, channel_codes, strict=True):
        q4 = _finite(E2M1, code4) * Fraction(E4M3.magnitude(scale))
        error = abs(q4 - _finite(E4M3, code8)) * 2**10
        assert error.denominator == 1
        kept = int(error)
        kept -= kept % 2 ** max(kept.bit_length() - 3, 0)
        score += kept**2 << shift
    return codes4, score


@dataclass(frozen=True)
class LaneResult:
    """The lane's result for one row."""

    raw: int
    float32: int
    bfloat16: int
    nan: bool
    format_error: bool
    overflow: bool


@dataclass(frozen=True)
class StoredBlock:
    """One block as stored: precision, scale code (ignored for FP8) and 16 element codes."""

    fp8: bool
    scale: int
    codes: tuple[int, ...]

    def legal(self) -> bool:
        """Whether the block scale is one of the legal codes."""
        return self.fp8 or MIN_BLOCK_SCALE_CODE <= self.scale <= MAX_BLOCK_SCALE_CODE

    def value(self, index: int) -> Value:
        """Stored value of one element."""
        if self.fp8:
            return decode(E4M3, self.codes[index])
        return _finite(E2M1, self.codes[index]) * Fraction(E4M3.magnitude(self.scale))


def lane_row(pairs: Sequence[tuple[StoredBlock, StoredBlock]], exponent: int, k_max: int) -> LaneResult:
    """The lane's result for one row of block pairs, docs/numerics.md section 3."""
    bits = accumulator_bits(k_max)
    raw, nan, format_error, overflow = 0, False, False, False
    for a, w in pairs:
        nan |= any(block.fp8 and decode(E4M3, code) is None for block in (a, w) for code in block.codes)
        if not (a.legal() and w.legal()):
            format_error = True
            continue
        products = [_number(a.value(i)) * _number(w.value(i)) for i in range(BLOCK_SIZE)]
        term = sum(products, Fraction(0)) * 2**20
        assert term.denominator == 1
        raw += int(term)
        if not -(2 ** (bits - 1)) <= raw < 2 ** (bits - 1):
            overflow = True
            raw = (raw + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    poisoned = nan or format_error or overflow
    clamped = min(max(exponent, -2 * TENSOR_EXPONENT_LIMIT), 2 * TENSOR_EXPONENT_LIMIT)
    value = _scaled(Fraction(raw), clamped - 20)
    float32 = 0x7FC00000 if poisoned else encode(FLOAT32, value)
    bfloat16 = 0x7FC0 if poisoned else encode(BFLOAT16, value)
    return LaneResult(raw, float32, bfloat16, nan, format_error or clamped != exponent, overflow)


def _scaled(value: Fraction | float, exponent: int) -> Fraction | float:
    return value if value in (inf, -inf) else Fraction(value) * Fraction(2) ** exponent


def _number(value: Value) -> Fraction:
    """NaN elements count 0."""
    return Fraction(0) if value is None else Fraction(value)


def _finite(fmt: MiniFloat, code: int) -> Fraction:
    value = decode(fmt, code)
    assert isinstance(value, Fraction)
    return value
