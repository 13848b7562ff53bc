"""Mixed tensors as the three byte tensors of docs/numerics.md section 6, and back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..formats import BLOCK_SIZE, E4M3, MAX_BLOCK_SCALE_CODE, MIN_BLOCK_SCALE_CODE, TENSOR_EXPONENT_LIMIT, ceil_div
from .blocks import MixedTensor
from .codec import unpack_nibbles

__all__ = ["FP8_BITS", "Packed", "concatenate", "describe", "pack", "packed_sizes", "unpack"]

FP8_BITS = 8
"""Bits of a weight in plain FP8, what everything is compared with: one byte each, no mask, nothing else."""

_FP4_BYTES = BLOCK_SIZE // 2
_FP8_BYTES = BLOCK_SIZE


@dataclass(frozen=True)
class Packed:
    """A mixed tensor as stored: `mask` (N, ceil(B / 8)), `scales` and `payload` one-dimensional, all uint8."""

    shape: tuple[int, int]
    exponent: int
    mask: Tensor
    scales: Tensor
    payload: Tensor

    @property
    def bytes(self) -> int:
        """Size of the three byte tensors."""
        return self.mask.numel() + self.scales.numel() + self.payload.numel()


def pack(tensor: MixedTensor) -> Packed:
    """Pack a mixed tensor."""
    fp8 = tensor.fp8
    blocks = fp8.shape[1]
    padded = torch.nn.functional.pad(fp8, (0, -blocks % 8)).unflatten(1, (-1, 8))
    places = torch.arange(8, dtype=torch.uint8, device=fp8.device)
    mask = (padded.to(torch.uint8) << places).sum(-1, dtype=torch.uint8)
    payload = tensor.payload().view(torch.int64)[_used_halves(fp8)].view(torch.uint8)
    return Packed(tensor.shape, tensor.exponent, mask, tensor.scales[~fp8], payload)


def concatenate(parts: Sequence[Packed]) -> Packed:
    """Matrices of equal width and exponent, one below the other."""
    rows = sum(part.shape[0] for part in parts)
    joined = (torch.cat([getattr(part, name) for part in parts]) for name in ("mask", "scales", "payload"))
    return Packed((rows, parts[0].shape[1]), parts[0].exponent, *joined)


def packed_sizes(shape: tuple[int, int], fp4_blocks: int) -> tuple[tuple[int, int], int, int]:
    """Shape of the mask, number of scales and bytes of payload of a matrix (N, K) with so many FP4 blocks."""
    rows, columns = shape
    blocks = ceil_div(columns, BLOCK_SIZE)
    payload = fp4_blocks * _FP4_BYTES + (rows * blocks - fp4_blocks) * _FP8_BYTES
    return (rows, ceil_div(blocks, 8)), fp4_blocks, payload


def unpack(packed: Packed, name: str = "tensor") -> MixedTensor:
    """The inverse of `pack`.

    Raises InputError, naming `name`, where sizes do not fit the shape and mask, padding is not zero, a block scale is
    illegal, the exponent is out of range or an FP8 element is NaN.
    """
    rows, columns = packed.shape
    blocks = ceil_div(columns, BLOCK_SIZE)
    if not -TENSOR_EXPONENT_LIMIT <= packed.exponent <= TENSOR_EXPONENT_LIMIT:
        raise InputError(f"{name}: tensor exponent {packed.exponent}, expected -47 to 47")
    _expect_size(name, "mask", packed.mask, math.prod(packed_sizes(packed.shape, 0)[0]))
    device = packed.mask.device
    bits = packed.mask.view(rows, -1)[..., None] >> torch.arange(8, dtype=torch.uint8, device=device) & 1
    bits = bits.flatten(1).bool()
    if bits[:, blocks:].any():
        raise InputError(f"{name}: mask has a bit set beyond block {blocks - 1} of a row, expected 0 there")
    fp8 = bits[:, :blocks]
    fp4_blocks = int((~fp8).sum())
    _, scales_size, payload_size = packed_sizes(packed.shape, fp4_blocks)
    for part, tensor, size in (("scales", packed.scales, scales_size), ("payload", packed.payload, payload_size)):
        _expect_size(name, part, tensor, size)
        if tensor.dim() != 1:
            raise InputError(f"{name}: {part} has shape {tuple(tensor.shape)}, expected one dimension")
    illegal = (packed.scales < MIN_BLOCK_SCALE_CODE) | (packed.scales > MAX_BLOCK_SCALE_CODE)
    if illegal.any():
        where = int(illegal.nonzero()[0])
        raise InputError(f"{name}: block scale {where} has code {int(packed.scales[where])}, expected 1 to 105")
    scales = torch.zeros(fp8.shape, dtype=torch.uint8, device=device)
    scales[~fp8] = packed.scales
    halves = torch.zeros(*fp8.shape, 2, dtype=torch.int64, device=device)
    # A copy is aligned, which what a file holds need not be.
    halves[_used_halves(fp8)] = packed.payload.clone().view(torch.int64)
    slots = halves.view(torch.uint8)
    codes = torch.where(fp8[..., None], slots, unpack_nibbles(slots[..., :_FP4_BYTES]))
    nan = fp8[..., None] & (codes & 0x7F == E4M3.nan_code)
    if nan.any():
        raise InputError(f"{name}: element {tuple(nan.nonzero()[0].tolist())} is NaN, expected a number")
    if codes.flatten(1)[:, columns:].any():
        raise InputError(f"{name}: padding beyond column {columns - 1} is not zero")
    return MixedTensor(fp8, scales, codes, shape=packed.shape, exponent=packed.exponent)


def describe(tensors: Mapping[str, MixedTensor]) -> list[dict[str, Any]]:
    """Per tensor: name, shape, FP8 share, packed bytes and bits per weight."""
    layers = []
    for name, tensor in tensors.items():
        size = pack(tensor).bytes
        rows, columns = tensor.shape
        layers.append(
            {
                "name": name,
                "shape": [rows, columns],
                "tensor_exponent": tensor.exponent,
                "fp8_share": tensor.fp8_share,
                "bytes": size,
                "bits_per_weight": 8 * size / (rows * columns),
            }
        )
    return layers


def _used_halves(fp8: Tensor) -> Tensor:
    """Which 8-byte halves of the 16-byte slots are stored: bool (..., 2)."""
    return torch.stack((torch.ones_like(fp8), fp8), -1)


def _expect_size(name: str, part: str, tensor: Tensor, expected: int) -> None:
    if tensor.numel() != expected:
        raise InputError(f"{name}: {part} has {tensor.numel()} bytes, expected {expected}")
