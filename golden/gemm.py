"""The exact matrix product of stored values, and its one rounding (docs/numerics.md section 3)."""

import torch
from torch import Tensor

from ..errors import InputError
from ..formats import ACCUMULATOR_FRACTION_BITS, K_LIMIT
from .codec import round_to_bfloat16

__all__ = ["exact_gemm", "raw_gemm", "round_raw"]


def exact_gemm(a: Tensor, w: Tensor, exponent: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """`a @ w.T * 2**exponent`, every sum exact and rounded once to `dtype` (float32 or bfloat16).

    `a` (M, K) and `w` (N, K) are stored values in any float dtype; `exponent` is the sum of their tensor exponents.
    Up to K = 42,799 this is one float64 product, exact in any order; longer K goes through `raw_gemm`.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        raise InputError(f"result dtype: {dtype}, expected float32 or bfloat16")
    if a.shape[-1] > K_LIMIT:
        return round_raw(raw_gemm(a, w), exponent, dtype)
    sums = _product(a, w)
    if dtype == torch.bfloat16:
        return round_to_bfloat16(sums * 2.0**exponent).add_(0.0)
    # Adding 0 turns the -0 that a product of zeros may leave into +0.
    return sums.to(torch.float32).mul_(2.0**exponent).add_(0.0)


def raw_gemm(a: Tensor, w: Tensor) -> Tensor:
    """The accumulator's content for every output, int64 (M, N) in units of 2**-20, for any K that int64 can hold."""
    k = a.shape[-1]
    if k >= K_LIMIT * 512:
        raise InputError(f"K: {k}, expected less than {K_LIMIT * 512} (the 64-bit integers that add the parts)")
    total = torch.zeros(a.shape[0], w.shape[0], dtype=torch.int64, device=a.device)
    for start in range(0, k, K_LIMIT):
        part = slice(start, start + K_LIMIT)
        total += (_product(a[:, part], w[:, part]) * 2.0**ACCUMULATOR_FRACTION_BITS).to(torch.int64)
    return total


def round_raw(raw: Tensor, exponent: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """int64 accumulator contents times `2**(exponent - 20)`, rounded once to float32 or bfloat16."""
    # Rounding to odd (truncate, then keep "something was lost" in the last bit) makes the second rounding exact.
    high = raw >> 11
    odd = torch.where((raw & 0x7FF) != 0, high | 1, high).double() * 2048.0
    exact = torch.where(raw.abs() < 1 << 53, raw.double(), odd)
    scaled = exact * 2.0 ** (exponent - ACCUMULATOR_FRACTION_BITS)
    return scaled.to(torch.float32) if dtype == torch.float32 else round_to_bfloat16(scaled)


def _product(a: Tensor, w: Tensor) -> Tensor:
    if a.shape[-1] != w.shape[-1]:
        raise InputError(f"K: {a.shape[-1]} and {w.shape[-1]}, expected the same for both operands")
    # The bound is what makes float64 exact; random tests would not notice its violation.
    assert a.shape[-1] <= K_LIMIT
    return a.double() @ w.double().T
