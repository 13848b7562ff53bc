"""Quantization to NVFP4 at speed: the golden functions through torch.compile, in three kernels.

Compiled as one, the block scale would be computed again for every element, and the bytes would be gathered one by one.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .blocks import block_scale_codes, to_blocks
from .codec import decode_e4m3, encode_e2m1, pack_nibbles

__all__ = ["quantize_nvfp4"]


def quantize_nvfp4(x: Tensor, exponent: int) -> tuple[Tensor, Tensor]:
    """Packed E2M1 codes (..., K / 2) and block scale codes (..., K / 16), both uint8, of a contiguous `x` (..., K).

    Bit-identical to the uncompiled golden functions; NaN is not looked for, and K must be a multiple of 16. The first
    call compiles.
    """
    scale, encode, pack = _kernels()
    factor = torch.tensor(2.0**-exponent, device=x.device)
    scale_codes, scales = scale(x, factor)
    return pack(encode(x, factor, scales)), scale_codes


def _scale(x: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    codes = block_scale_codes(to_blocks(x * factor))
    return codes, decode_e4m3(codes)


def _encode(x: Tensor, factor: Tensor, scales: Tensor) -> Tensor:
    return encode_e2m1(to_blocks(x * factor), scales[..., None]).flatten(-2)


@cache
def _kernels() -> tuple[Callable[..., Any], ...]:
    return tuple(torch.compile(f) for f in (_scale, _encode, pack_nibbles))
