"""Whole matrices in mixed precision: the FP4 block scales, then the codes (docs/numerics.md section 5)."""

import torch
from torch import Tensor

from .blocks import Blocks, MixedTensor, block_scale_codes, scale_to_stored, stored_fp4, tensor_exponent, to_blocks
from .clipping import clipped_scale_codes, window_costs
from .codec import decode_e4m3, encode_e4m3
from .compiled import compiled_window_costs, weight_codes

__all__ = ["mixed_blocks", "quantize_matrix", "scale_codes"]


def scale_codes(blocks: Tensor, sensitivity: Tensor | None, *, fast: bool = False) -> Tensor:
    """FP4 block scale codes (n,), uint8, of stored-unit blocks (n, 16): clipped by `sensitivity` (n, 16), or amax / 6.

    `fast` compiles the arithmetic; the result is the same.
    """
    if sensitivity is None:
        return block_scale_codes(blocks)
    return clipped_scale_codes(blocks, sensitivity, compiled_window_costs if fast else window_costs)


def mixed_blocks(
    blocks: Tensor, scales: Tensor, fp8: Tensor, shape: tuple[int, int], exponent: int, *, fast: bool = False
) -> MixedTensor:
    """The mixed tensor of `shape` with stored-unit `blocks` (N, B, 16) in FP8 where `fp8` (N, B) is True, else FP4."""
    if fast:
        codes = weight_codes(blocks.flatten(0, 1), decode_e4m3(scales).flatten(), fp8.flatten().int())
        return Blocks(fp8, torch.where(fp8, 0, scales), codes.view(blocks.shape)).tensor(shape, exponent)
    codes4, _ = stored_fp4(blocks, scales)
    return Blocks.merge(fp8, (codes4, scales), encode_e4m3(blocks)).tensor(shape, exponent)


def quantize_matrix(
    matrix: Tensor, fp8: Tensor, sensitivity: Tensor | None = None, name: str = "matrix"
) -> MixedTensor:
    """A whole matrix (N, K) in the given formats: FP8 where `fp8` (bool, (N, B)) is True, else FP4.

    With a `sensitivity` (N, K) the FP4 scales are clipped by it. Raises InputError for NaN, naming `name` and index.
    """
    exponent = tensor_exponent(matrix)
    blocks = to_blocks(scale_to_stored(matrix, exponent, name))
    f = None if sensitivity is None else to_blocks(sensitivity.float()).flatten(0, 1)
    scales = scale_codes(blocks.flatten(0, 1), f).view(fp8.shape)
    return mixed_blocks(blocks, scales, fp8, (matrix.shape[0], matrix.shape[1]), exponent)
