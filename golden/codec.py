"""Codes to values and values to codes, vectorized over torch tensors of any shape."""

import torch
from torch import Tensor

from ..formats import E2M1, E4M3, MAX_STORED

__all__ = [
    "decode_e2m1",
    "decode_e4m3",
    "encode_e2m1",
    "encode_e4m3",
    "pack_nibbles",
    "round_to_bfloat16",
    "unpack_nibbles",
]

_E2M1_VALUES = torch.tensor([sign * E2M1.magnitude(code) for sign in (1, -1) for code in range(8)], dtype=torch.float32)


def decode_e4m3(codes: Tensor) -> Tensor:
    """float32 values of uint8 E4M3 codes; NaN for 0x7F and 0xFF."""
    return codes.view(torch.float8_e4m3fn).float()


def decode_e2m1(codes: Tensor) -> Tensor:
    """float32 values of uint8 E2M1 codes (0..15, one per byte)."""
    return _E2M1_VALUES.to(codes.device)[codes.int()]


def encode_e4m3(values: Tensor) -> Tensor:
    """uint8 E4M3 codes nearest to float32 `values` (no NaN), ties to even, saturating, +0 for zero."""
    # torch's cast saturates or returns NaN beyond 448 depending on its version: clamp first.
    codes = values.clamp(-MAX_STORED, MAX_STORED).to(torch.float8_e4m3fn).view(torch.uint8)
    return torch.where(codes == E4M3.sign_bit, 0, codes)


def encode_e2m1(values: Tensor, scales: Tensor) -> Tensor:
    """uint8 E2M1 codes of float32 `values` over float32 block `scales` (broadcast), as if the quotient were exact.

    Compares with multiples of the scale instead of dividing: these are exact in float32 because a scale has four
    significant bits. Ties go to even, magnitudes beyond 6 saturate, zero gives +0.
    """
    magnitude = values.abs()
    # int32 sums: compilers vectorize them beside the float32 comparisons, and bytes they do not.
    code = (
        (magnitude > scales * 0.25).int()
        + (magnitude >= scales * 0.75).int()
        + (magnitude > scales * 1.25).int()
        + (magnitude >= scales * 1.75).int()
        + (magnitude > scales * 2.5).int()
        + (magnitude >= scales * 3.5).int()
        + (magnitude > scales * 5.0).int()
    )
    return torch.where((values < 0) & (code > 0), code + E2M1.sign_bit, code).to(torch.uint8)


def pack_nibbles(codes: Tensor) -> Tensor:
    """(..., 2n) uint8 E2M1 codes to (..., n) bytes, even element in the low nibble."""
    return codes[..., 0::2] | codes[..., 1::2] << 4


def unpack_nibbles(packed: Tensor) -> Tensor:
    """The inverse of `pack_nibbles`."""
    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)


def round_to_bfloat16(values: Tensor) -> Tensor:
    """float64 `values` (normal bfloat16 range, or zero) rounded once to bfloat16, ties to even.

    torch's own cast from float64 goes through float32 and rounds twice.
    """
    mantissa, exponent = torch.frexp(values)
    # frexp's mantissa lies in [0.5, 1): eight significant bits are its multiples of 2**-8; torch.round is half-even.
    return torch.ldexp(torch.round(mantissa * 256), exponent - 8).to(torch.bfloat16)
