"""The activations' quantizer as one Triton kernel, which reads and writes every element once (GPUs only).

It computes what `compiled.quantize_values` does, bit for bit, of bfloat16 and float16 alone: they have so few bits that
a quotient in float32 tells ties from what lies beside them, once it is rounded to 16 bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..formats import BLOCK_SIZE, E4M3, MAX_BLOCK_SCALE_CODE, MAX_STORED, MIN_BLOCK_SCALE_CODE

__all__ = ["quantize_values_fused"]

_LEAST_SCALE = tl.constexpr(float(E4M3.magnitude(MIN_BLOCK_SCALE_CODE)))
_LARGEST_SCALE = tl.constexpr(float(E4M3.magnitude(MAX_BLOCK_SCALE_CODE)))
_LARGEST = tl.constexpr(float(MAX_STORED))
_SIZE = tl.constexpr(BLOCK_SIZE)
_EXPONENT = tl.constexpr(0x7F80_0000)
_ROUNDER = tl.constexpr(1.5 * 2.0**23)
"""Times a spacing: added and subtracted, it rounds a smaller magnitude to a multiple of it, ties to even."""


def quantize_values_fused(x: Tensor, exponent: int, threshold: float, blocks: int = 256) -> tuple[Tensor, Tensor]:
    """As `compiled.quantize_values`, of a contiguous bfloat16 or float16 `x` (..., K), K a multiple of 16.

    `blocks` is how many of them a program takes.
    """
    if x.dtype not in (torch.bfloat16, torch.float16):
        raise TypeError(f"dtype {x.dtype}, expected bfloat16 or float16")
    values = torch.empty_like(x)
    count = x.numel() // BLOCK_SIZE
    fp8 = torch.empty(count, dtype=torch.bool, device=x.device)
    limit = torch.tensor([float(threshold)], dtype=torch.float64, device=x.device)
    _quantize[(triton.cdiv(count, blocks),)](
        x, values, fp8, limit, 2.0**-exponent, 2.0**exponent, count, BLOCKS=blocks, num_warps=4
    )
    return values, fp8.view(*x.shape[:-1], -1)


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
    chosen = score > tl.load(limit)
    stored = tl.where(chosen[:, None], wide, narrow) * back
    stored = tl.where(v < 0, -stored, stored)
    tl.store(values + places, stored.to(values.dtype.element_ty), mask=inside[:, None])
    tl.store(fp8 + block, chosen.to(tl.int8), mask=inside)
