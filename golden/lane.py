"""The lane's expected results for streams of block pairs, legal or not (docs/numerics.md section 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..formats import (
    ACCUMULATOR_FRACTION_BITS,
    BFLOAT16,
    BLOCK_SIZE,
    FLOAT32,
    K_LIMIT,
    TENSOR_EXPONENT_LIMIT,
    accumulator_bits,
)
from .blocks import Blocks
from .gemm import round_raw

__all__ = ["LaneExpected", "check_k", "expected_rows"]


@dataclass(frozen=True)
class LaneExpected:
    """The lane's results for R rows: `raw` int64, `float32` and `bfloat16` bit patterns (int64), and flags (bool)."""

    raw: Tensor
    float32: Tensor
    bfloat16: Tensor
    nan: Tensor
    format_error: Tensor
    overflow: Tensor


def check_k(k: int, k_max: int) -> None:
    """Raise InputError if the accumulator built for `k_max` cannot hold rows of `k` values."""
    if not 1 <= k <= k_max:
        raise InputError(f"K: {k}, expected 1 to {k_max}, what the configured accumulator holds")


def expected_rows(a: Blocks, w: Blocks, exponents: Tensor, k_max: int) -> LaneExpected:
    """Expected results for rows of block pairs (R, B, 16), one exponent (sum of both tensors', int) per row.

    Rows may be longer than `k_max` (the accumulator then wraps and flags it), as long as 64-bit integers hold the sum.
    """
    if k_max > K_LIMIT:
        raise InputError(f"k_max: {k_max}, expected at most {K_LIMIT}")
    va, vw = a.values(), w.values()
    # An FP4 block cannot hold a NaN, even where an illegal scale decodes to one.
    nan = (torch.isnan(va).any(-1) & a.fp8) | (torch.isnan(vw).any(-1) & w.fp8)
    legal = a.legal() & w.legal()
    products = va.nan_to_num(0.0) * vw.nan_to_num(0.0)
    # 16 products stay below 2**42 units: exact in float64. Whole rows may not: add blocks as integers.
    terms = (products.sum(-1) * 2.0**ACCUMULATOR_FRACTION_BITS).where(legal, 0.0).to(torch.int64)
    half = 1 << (accumulator_bits(k_max) - 1)
    partial = terms.cumsum(-1)
    raw, overflow = _wrap(partial, terms, half)
    row_nan = nan.any(-1)
    row_format = ~legal.all(-1)
    limit = 2 * TENSOR_EXPONENT_LIMIT
    clamped = exponents.clamp(-limit, limit)
    poisoned = row_nan | row_format | overflow
    float32 = torch.empty(len(raw), dtype=torch.float32)
    bfloat16 = torch.empty(len(raw), dtype=torch.bfloat16)
    for exponent in clamped.unique().tolist():
        rows = clamped == exponent
        float32[rows] = round_raw(raw[rows], exponent)
        bfloat16[rows] = round_raw(raw[rows], exponent, torch.bfloat16)
    return LaneExpected(
        raw,
        torch.where(poisoned, FLOAT32.nan_code, float32.view(torch.int32).long() & 0xFFFFFFFF),
        torch.where(poisoned, BFLOAT16.nan_code, bfloat16.view(torch.int16).long() & 0xFFFF),
        row_nan,
        row_format | (clamped != exponents),
        overflow,
    )


def _wrap(partial: Tensor, terms: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """The accumulator's final content, and whether any addition overflowed on the way."""
    wrapped = (partial + half) % (2 * half) - half
    before = torch.nn.functional.pad(wrapped[:, :-1], (1, 0))
    overflow = (before + terms != wrapped).any(-1)
    return wrapped[:, -1], overflow


assert BLOCK_SIZE * 448**2 << ACCUMULATOR_FRACTION_BITS < 1 << 53
