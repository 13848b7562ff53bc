"""Quantization at speed: the golden arithmetic through torch.compile, in kernels that it vectorizes.

Compiled as one, the block scale would be computed again for every element, and the bytes would be gathered one by one.
E4M3 is rounded by arithmetic here, because compilers do not vectorize casts to 8-bit floats. All results are equal
to the uncompiled golden functions bit for bit; tests hold them to it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..formats import E2M1, E4M3, MAX_BLOCK_SCALE_CODE, MAX_STORED, MIN_BLOCK_SCALE_CODE
from .blocks import Blocks, block_scale_codes, to_blocks
from .clipping import tree_sum, window_costs
from .codec import decode_e4m3, encode_e2m1, pack_nibbles

__all__ = [
    "compiled_window_costs",
    "quantize_mixed",
    "quantize_nvfp4",
    "quantize_values",
    "round_columns",
    "weight_codes",
    "weight_error_sums",
]

_SCALE_LIMITS = (E4M3.magnitude(MIN_BLOCK_SCALE_CODE), E4M3.magnitude(MAX_BLOCK_SCALE_CODE))
_EXPONENT_BITS = 0x7F80_0000
_THREE_BITS = -(1 << 21)


def quantize_nvfp4(x: Tensor, exponent: int) -> tuple[Tensor, Tensor]:
    """Packed E2M1 codes (..., K / 2) and block scale codes (..., K / 16), both uint8, of a contiguous `x` (..., K).

    NaN is not looked for, and K must be a multiple of 16. The first call compiles.
    """
    factor = torch.tensor(2.0**-exponent, device=x.device)
    scale_codes, scales = _kernel(_scale)(x, factor)
    return _kernel(pack_nibbles)(_kernel(_encode)(x, factor, scales)), scale_codes


def quantize_mixed(x: Tensor, exponent: int, threshold: float) -> Blocks:
    """The same as `selector.select` for a contiguous `x` (..., K) in mode dynamic: blocks (..., B).

    `threshold` is the register's value. NaN is not looked for, and K must be a multiple of 16. The first call compiles.
    """
    factor = torch.tensor(2.0**-exponent, device=x.device)
    scale_codes, scales = _kernel(_scale)(x, factor)
    fp8 = _kernel(_decide)(x, factor, scales, torch.tensor(float(threshold), dtype=torch.float64, device=x.device))
    codes, stored_scales = _kernel(_mix)(x, factor, scales, fp8, scale_codes)
    return Blocks(fp8 != 0, stored_scales, codes.unflatten(-1, (-1, 16)))


def quantize_values(x: Tensor, exponent: int, threshold: float) -> tuple[Tensor, Tensor]:
    """What `quantize_mixed` stores, as real values in the dtype of `x`, and which blocks (..., B) are FP8: one kernel.

    It reads and writes every element once, for machines whose compiler makes one loop of it (GPUs).
    """
    factor = torch.tensor(2.0**-exponent, device=x.device)
    limit = torch.tensor(float(threshold), dtype=torch.float64, device=x.device)
    values: tuple[Tensor, Tensor] = _kernel(_values)(x, factor, factor.reciprocal(), limit)
    return values


def round_columns(
    columns: Tensor, within: Tensor, scales: Tensor, fp8: Tensor, *, fast: bool = False
) -> tuple[Tensor, Tensor]:
    """Round the 16 columns (16, n) of a block one after the other, each making up for those before it.

    `within` (16, 16) is the block's part of the error factor, `scales` (n,) are values, `fp8` (n,) tells the format.
    Returns rounded values and scaled errors, both (16, n). `fast` compiles; without fused multiplication and addition,
    which GPUs have, the results are the same.
    """
    function = _kernel(_rounded, dynamic=True) if fast else _rounded
    rounded: tuple[Tensor, Tensor] = function(columns, within, scales, fp8.int())
    return rounded


def compiled_window_costs(magnitude: Tensor, relative: Tensor, scales: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """`clipping.window_costs`, compiled."""
    return _kernel(window_costs, dynamic=True)(magnitude, relative, scales, below)


def weight_error_sums(blocks: Tensor, scales: Tensor, importance: Tensor) -> Tensor:
    """Sums (n,), float64, of `importance * (Q4 - Q8)**2` over stored-unit blocks (n, 16); `scales` (n,) are values."""
    return _kernel(_error_sums, dynamic=True)(blocks, scales, importance)


def weight_codes(blocks: Tensor, scales: Tensor, fp8: Tensor) -> Tensor:
    """Element codes (n, 16), uint8, of stored-unit blocks: E4M3 where `fp8` (n,), int32, is not 0, else E2M1."""
    return _kernel(_codes, dynamic=True)(blocks, scales, fp8)


def _scale(x: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    codes = block_scale_codes(to_blocks(x.float() * factor).clamp(-MAX_STORED, MAX_STORED))
    return codes, decode_e4m3(codes)


def _encode(x: Tensor, factor: Tensor, scales: Tensor) -> Tensor:
    return encode_e2m1(to_blocks(x * factor), scales[..., None]).flatten(-2)


def _decide(x: Tensor, factor: Tensor, scales: Tensor, threshold: Tensor) -> Tensor:
    v = to_blocks(x.float() * factor).clamp(-MAX_STORED, MAX_STORED)
    error = (_round_e2m1(v, scales[..., None]) - _round_e4m3(v)).abs() * 1024.0
    kept = (error.view(torch.int32) & _THREE_BITS).view(torch.float32)
    return (_exact_sum(kept * kept) > threshold).int()


def _values(x: Tensor, factor: Tensor, back: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    v = to_blocks(x.float() * factor).clamp(-MAX_STORED, MAX_STORED)
    scales = _round_e4m3(v.abs().amax(-1, keepdim=True) / 6).clamp(*_SCALE_LIMITS)
    fp4, wide = _round_e2m1(v, scales), _round_e4m3(v)
    kept = (((fp4 - wide).abs() * 1024.0).view(torch.int32) & _THREE_BITS).view(torch.float32)
    fp8 = _exact_sum(kept * kept) > threshold
    return (torch.where(fp8[..., None], wide, fp4) * back).to(x.dtype).flatten(-2), fp8


def _rounded(columns: Tensor, within: Tensor, scales: Tensor, fp8: Tensor) -> tuple[Tensor, Tensor]:
    left = list(columns.unbind(0))
    rounded, errors = [], []
    for j, column in enumerate(left):
        value = column.clamp(-MAX_STORED, MAX_STORED)
        rounded.append(torch.where(fp8 != 0, _round_e4m3(value), _round_e2m1(value, scales)))
        errors.append((column - rounded[j]) / within[j, j])
        for k in range(j + 1, len(left)):
            left[k] = left[k] - errors[j] * within[j, k]
    return torch.stack(rounded), torch.stack(errors)


def _exact_sum(squares: Tensor) -> Tensor:
    """Sum over 16 squares, each a float32 integer of six significant bits, in float64."""
    return squares.double().sum(-1)


def _mix(x: Tensor, factor: Tensor, scales: Tensor, fp8: Tensor, scale_codes: Tensor) -> tuple[Tensor, Tensor]:
    v = to_blocks(x.float() * factor).clamp(-MAX_STORED, MAX_STORED)
    return _codes(v, scales, fp8).flatten(-2), torch.where(fp8 != 0, 0, scale_codes.int()).to(torch.uint8)


def _error_sums(blocks: Tensor, scales: Tensor, importance: Tensor) -> Tensor:
    error = (_round_e2m1(blocks, scales[..., None]) - _round_e4m3(blocks)).double()
    return tree_sum(importance.double() * (error * error))


def _codes(v: Tensor, scales: Tensor, fp8: Tensor) -> Tensor:
    magnitude, spacing = v.abs(), scales[..., None]
    code4 = sum((magnitude > spacing * tie).int() for tie in (0.25, 1.25, 2.5, 5.0))
    code4 = code4 + sum((magnitude >= spacing * tie).int() for tie in (0.75, 1.75, 3.5))
    rounded = _round_e4m3(magnitude)
    # Above the subnormals an E4M3 code is the upper bits of the float32, but for the bias.
    normal = (rounded.view(torch.int32) >> 20) - (127 - E4M3.bias << E4M3.mantissa_bits)
    code8 = torch.where(rounded < 2.0**-6, (rounded * 512.0).int(), normal)
    sign4 = torch.where((v < 0) & (code4 > 0), E2M1.sign_bit, 0)
    sign8 = torch.where((v < 0) & (code8 > 0), E4M3.sign_bit, 0)
    return torch.where(fp8[..., None] != 0, code8 + sign8, code4 + sign4).to(torch.uint8)


def _round_e4m3(v: Tensor) -> Tensor:
    """Nearest E4M3 values of float32 in [-448, 448], ties to even."""
    power = (v.view(torch.int32) & _EXPONENT_BITS).view(torch.float32).clamp(min=2.0**-6)
    return torch.round(v * (8.0 / power)) * (power * 0.125)


def _round_e2m1(v: Tensor, scales: Tensor) -> Tensor:
    """Stored FP4 values: the E2M1 element nearest to the exact quotient, ties to even, times the scale."""
    magnitude = v.abs()
    steps = sum(torch.where(magnitude > scales * tie, up, 0.0) for tie, up in ((0.25, 0.5), (1.25, 0.5)))
    steps = steps + torch.where(magnitude > scales * 2.5, 1.0, 0.0) + torch.where(magnitude > scales * 5.0, 2.0, 0.0)
    steps = (
        steps + torch.where(magnitude >= scales * 0.75, 0.5, 0.0) + torch.where(magnitude >= scales * 1.75, 0.5, 0.0)
    )
    steps = steps + torch.where(magnitude >= scales * 3.5, 1.0, 0.0)
    return torch.where(v < 0, -steps, steps) * scales


@cache
def _kernel(function: Callable[..., Any], dynamic: bool | None = None) -> Callable[..., Any]:
    return torch.compile(function, dynamic=dynamic)
