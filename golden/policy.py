"""What a block costs the loss if it is stored in FP4: impact scores by policy (docs/numerics.md section 5)."""

import torch
from torch import Tensor

from .blocks import MixedTensor, block_scale_codes, scale_to_stored, stored_fp4, tensor_exponent, to_blocks
from .clipping import clipped_scale_codes, tree_sum, window_costs
from .codec import decode_e4m3, encode_e4m3
from .compiled import compiled_window_costs, weight_codes, weight_error_sums

__all__ = ["POLICIES", "mixed_blocks", "quantize_matrix", "scale_codes", "weight_impacts"]

POLICIES = ("fisher", "quantization-error", "output-error", "random")


def scale_codes(blocks: Tensor, sensitivity: Tensor | None, *, fast: bool = False) -> Tensor:
    """FP4 block scale codes (n,), uint8, of stored-unit blocks (n, 16): clipped by `sensitivity` (n, 16), or amax / 6.

    `fast` compiles the arithmetic; the result is the same.
    """
    if sensitivity is None:
        return block_scale_codes(blocks)
    return clipped_scale_codes(blocks, sensitivity, compiled_window_costs if fast else window_costs)


def weight_impacts(blocks: Tensor, scales: Tensor, importance: Tensor, exponent: int, *, fast: bool = False) -> Tensor:
    """Sums (n,), float64, of `importance * (Q4 - Q8)**2` in real units, of blocks (n, 16) in stored units.

    `scales` (n,) are FP4 scale codes, `importance` (n, 16) weighs each element's squared error.
    """
    if fast:
        sums = weight_error_sums(blocks, decode_e4m3(scales), importance)
    else:
        _, q4 = stored_fp4(blocks, scales)
        sums = tree_sum(importance.double() * (q4 - decode_e4m3(encode_e4m3(blocks))).double().square())
    return sums * 4.0**exponent


def mixed_blocks(
    blocks: Tensor, scales: Tensor, mask: Tensor, shape: tuple[int, int], exponent: int, *, fast: bool = False
) -> MixedTensor:
    """The mixed tensor of `shape` with stored-unit `blocks` (N, B, 16) in FP8 where `mask` (N, B) is True, else FP4."""
    if fast:
        codes = weight_codes(blocks.flatten(0, 1), decode_e4m3(scales).flatten(), mask.flatten().int())
        return MixedTensor(shape, exponent, mask, torch.where(mask, 0, scales), codes.view(blocks.shape))
    codes4, _ = stored_fp4(blocks, scales)
    return MixedTensor.merge(shape, exponent, mask, (codes4, scales), encode_e4m3(blocks))


def quantize_matrix(
    matrix: Tensor, mask: Tensor, sensitivity: Tensor | None = None, name: str = "matrix"
) -> MixedTensor:
    """A whole matrix (N, K) in the given formats: FP8 where `mask` (bool, (N, B)) is True, else FP4.

    With a `sensitivity` (N, K) the FP4 scales are clipped by it. Raises InputError for NaN, naming `name` and index.
    """
    exponent = tensor_exponent(matrix)
    blocks = to_blocks(scale_to_stored(matrix, exponent, name))
    f = None if sensitivity is None else to_blocks(sensitivity.float()).flatten(0, 1)
    scales = scale_codes(blocks.flatten(0, 1), f).view(mask.shape)
    return mixed_blocks(blocks, scales, mask, (matrix.shape[0], matrix.shape[1]), exponent)
