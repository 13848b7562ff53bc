"""What a block costs the loss if it is stored in FP4: impact scores by policy (docs/numerics.md section 5)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .blocks import MixedTensor, block_scale_codes, scale_to_stored, stored_fp4, tensor_exponent, to_blocks
from .clipping import clipped_scale_codes, tree_sum
from .codec import decode_e4m3, encode_e4m3

__all__ = ["POLICIES", "Candidates", "weight_candidates", "weight_scores"]

POLICIES = ("fisher", "quantization-error", "output-error", "random")


@dataclass(frozen=True)
class Candidates:
    """Both quantizations of a weight matrix, or of some of its rows, of which a mask picks block by block.

    `error` holds (Q4 - Q8)**2 in real units, float64 (N, B, 16).
    """

    shape: tuple[int, int]
    exponent: int
    codes4: Tensor
    scales: Tensor
    codes8: Tensor
    error: Tensor

    def pick(self, mask: Tensor) -> MixedTensor:
        """The mixed tensor with FP8 where `mask` (bool, (N, B)) is True."""
        return MixedTensor.merge(self.shape, self.exponent, mask, (self.codes4, self.scales), self.codes8)


def weight_candidates(
    weight: Tensor,
    sensitivity: Tensor | None,
    name: str = "weight",
    *,
    exponent: int | None = None,
    scales: Tensor | None = None,
) -> Candidates:
    """Quantize `weight` (N, K) both ways; with a `sensitivity` (N, K) the FP4 scales are clipped by it.

    `exponent` is the tensor exponent where `weight` is only part of its tensor; `scales` (N, B) gives the FP4 scale
    codes where they are known already. Raises InputError for NaN, naming `name` and the index.
    """
    if exponent is None:
        exponent = tensor_exponent(weight)
    blocks = to_blocks(scale_to_stored(weight, exponent, name))
    codes8 = encode_e4m3(blocks)
    if scales is not None:
        pass
    elif sensitivity is None:
        scales = block_scale_codes(blocks)
    else:
        f = to_blocks(sensitivity.float())
        scales = clipped_scale_codes(blocks.flatten(0, 1), f.flatten(0, 1)).view(blocks.shape[:2])
    codes4, q4 = stored_fp4(blocks, scales)
    error = (q4 - decode_e4m3(codes8)).double().square() * 4.0**exponent
    rows, columns = weight.shape
    return Candidates((rows, columns), exponent, codes4, scales, codes8, error)


def weight_scores(
    candidates: Candidates, policy: str, sensitivity: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """Impact scores (N, B), float64, of one weight matrix under one of `POLICIES`.

    `sensitivity` weighs each element's squared error; it broadcasts to (N, K): for "fisher" the mean squared gradient,
    for "output-error" the mean square of the activation it meets.
    """
    if policy in ("fisher", "output-error"):
        if sensitivity is None:
            raise InputError(f"policy {policy}: no sensitivity given, expected one value per weight")
        return tree_sum(to_blocks(sensitivity.double()) * candidates.error)
    if policy == "quantization-error":
        return tree_sum(candidates.error)
    if policy == "random":
        return torch.rand(candidates.error.shape[:2], generator=generator, dtype=torch.float64)
    raise InputError(f"policy: {policy!r}, expected one of {', '.join(POLICIES)}")
