"""Arithmetic of the formats in Triton kernels, for GPUs only.

Activations are quantized in one kernel that reads and writes every element once. It computes what
`compiled.quantize_values` does, bit for bit, of bfloat16 and float16 alone: they have so few bits that a quotient in
float32 tells ties from what lies beside them, once it is rounded to 16 bits.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..formats import BLOCK_SIZE, E4M3, MAX_BLOCK_SCALE_CODE, MAX_STORED, MIN_BLOCK_SCALE_CODE, SCORE_BITS

__all__ = ["quantize_values_fused", "round_block_fused"]

_LEAST_SCALE = tl.constexpr(float(E4M3.magnitude(MIN_BLOCK_SCALE_CODE)))
_LARGEST_SCALE = tl.constexpr(float(E4M3.magnitude(MAX_BLOCK_SCALE_CODE)))
_LARGEST = tl.constexpr(float(MAX_STORED))
_SIZE = tl.constexpr(BLOCK_SIZE)
_ROWS = 32
_EXPONENT = tl.constexpr(0x7F80_0000)
_ROUNDER = tl.constexpr(1.5 * 2.0**23)
"""Times a spacing: added and subtracted, it rounds a smaller magnitude to a multiple of it, ties to even."""


def quantize_values_fused(
    x: Tensor, exponent: int, threshold: float, *, blocks: int = 128, warps: int = 4
) -> tuple[Tensor, Tensor]:
    """As `compiled.quantize_values`, of a contiguous bfloat16 or float16 `x` (..., K), K a multiple of 16.

    `blocks` is how many of them a program takes, `warps` by how many warps.
    """
    if x.dtype not in (torch.bfloat16, torch.float16):
        raise TypeError(f"dtype {x.dtype}, expected bfloat16 or float16")
    values = torch.empty_like(x)
    count = x.numel() // BLOCK_SIZE
    fp8 = torch.empty(count, dtype=torch.bool, device=x.device)
    limit = min(math.floor(threshold), 1 << SCORE_BITS)  # scores are integers, and none is larger
    _quantize[(triton.cdiv(count, blocks),)](
        x, values, fp8, limit, 2.0**-exponent, 2.0**exponent, count, BLOCKS=blocks, num_warps=warps
    )
    return values, fp8.view(*x.shape[:-1], -1)


def round_block_fused(columns: Tensor, within: Tensor, fp8: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the scales of blocks, round their columns one after the other, and let each make up for those before it.

    The 16 `columns` (16, n), float32 and contiguous, are rounded in place. `within` (16, 16) is the
    block's part of the error factor, and `fp8` bool (n,) tells the format; `scales` are the legal ones, float32 (105,).
    Returns scale codes (n,), uint8, and scaled errors (16, n). It is what `compensated` does for one block, but for
    fused multiplications and additions, and the order of the sums that the scale is chosen by.
    """
    count = columns.shape[1]
    codes = torch.empty(count, dtype=torch.uint8, device=columns.device)
    errors = torch.empty_like(columns)
    grid, within = (triton.cdiv(count, _ROWS),), within.contiguous()
    _round_block[grid](
        columns, errors, codes, scales, within, fp8, count, len(scales), MIN_BLOCK_SCALE_CODE,
        ROWS=_ROWS, SCALES=triton.next_power_of_2(len(scales)), num_warps=4,
    )  # fmt: skip
    return codes, errors


@triton.jit
def _spacing(magnitude, least):  # type: ignore[no-untyped-def]
    """The power of two below a magnitude of at least `least`."""
    return (tl.maximum(magnitude, least).to(tl.int32, bitcast=True) & _EXPONENT).to(tl.float32, bitcast=True)


@triton.jit
def _e4m3(magnitude):  # type: ignore[no-untyped-def]
    rounder = _spacing(magnitude, 2.0**-6) * (_ROUNDER * 0.125)
    return (magnitude + rounder) - rounder


@triton.jit
def _quantize(x, values, fp8, limit, factor, back, count, BLOCKS: tl.constexpr):  # type: ignore[no-untyped-def]
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block < count
    places = block[:, None] * _SIZE + tl.arange(0, _SIZE)[None, :]
    v = tl.load(x + places, mask=inside[:, None], other=0.0).to(tl.float32) * factor
    magnitude = tl.minimum(tl.abs(v), _LARGEST)
    scale = _e4m3(tl.math.div_rn(tl.max(magnitude, axis=1), 6.0))
    scale = tl.minimum(tl.maximum(scale, _LEAST_SCALE), _LARGEST_SCALE)
    quotient = magnitude * (1.0 / scale)[:, None]
    quotient = ((quotient.to(tl.int32, bitcast=True) + 128) & -256).to(tl.float32, bitcast=True)
    rounder = _spacing(quotient, 1.0) * (_ROUNDER * 0.5)
    narrow = tl.minimum((quotient + rounder) - rounder, 6.0) * scale[:, None]
    wide = _e4m3(magnitude)
    kept = ((tl.abs(narrow - wide) * 1024.0).to(tl.int32, bitcast=True) & -(1 << 21)).to(tl.float32, bitcast=True)
    score = tl.sum((kept * kept).to(tl.float64), axis=1)
    chosen = score > limit
    stored = tl.where(chosen[:, None], wide, narrow) * back
    stored = tl.where(v < 0, -stored, stored)
    tl.store(values + places, stored.to(values.dtype.element_ty), mask=inside[:, None])
    tl.store(fp8 + block, chosen.to(tl.int8), mask=inside)


@triton.jit
def _e2m1(magnitude, scale):  # type: ignore[no-untyped-def]
    """Of any float32: by comparisons, which are exact."""
    steps = tl.where(magnitude > scale * 0.25, 0.5, 0.0) + tl.where(magnitude >= scale * 0.75, 0.5, 0.0)
    steps += tl.where(magnitude > scale * 1.25, 0.5, 0.0) + tl.where(magnitude >= scale * 1.75, 0.5, 0.0)
    steps += tl.where(magnitude > scale * 2.5, 1.0, 0.0) + tl.where(magnitude >= scale * 3.5, 1.0, 0.0)
    return (steps + tl.where(magnitude > scale * 5.0, 2.0, 0.0)) * scale


@triton.jit
def _round_block(  # type: ignore[no-untyped-def]
    columns, errors, codes, scales, within, fp8, count, legal, first, ROWS: tl.constexpr, SCALES: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < count
    code = tl.arange(0, SCALES)
    choice = tl.load(scales + code, mask=code < legal, other=1.0)
    cost = tl.zeros((ROWS, SCALES), tl.float64)
    for j in range(_SIZE):
        magnitude = tl.minimum(tl.abs(tl.load(columns + j * count + row, mask=inside, other=0.0)), _LARGEST)
        own = tl.load(within + j * _SIZE + j)
        lost = magnitude.to(tl.float64)[:, None] - _e2m1(magnitude[:, None], choice[None, :]).to(tl.float64)
        cost += tl.math.div_rn(1.0, own * own).to(tl.float64) * (lost * lost)
    best = tl.argmin(tl.where((code < legal)[None, :], cost, float("inf")), axis=1)
    tl.store(codes + row, (best + first).to(tl.uint8), mask=inside)
    scale = tl.load(scales + best)
    wide = tl.load(fp8 + row, mask=inside, other=0) != 0
    for j in range(_SIZE):
        value = tl.load(columns + j * count + row, mask=inside, other=0.0)
        for i in range(j):
            value -= tl.load(errors + i * count + row, mask=inside, other=0.0) * tl.load(within + i * _SIZE + j)
        magnitude = tl.minimum(tl.abs(value), _LARGEST)
        rounded = tl.where(wide, _e4m3(magnitude), _e2m1(magnitude, scale))
        rounded = tl.where(value < 0, -rounded, rounded)
        tl.store(columns + j * count + row, rounded, mask=inside)
        tl.store(
            errors + j * count + row, tl.math.div_rn(value - rounded, tl.load(within + j * _SIZE + j)), mask=inside
        )
        tl.debug_barrier()  # what one thread wrote, another reads in the next turn
