"""Which blocks stay in FP8: impact scores and the one global threshold (docs/numerics.md section 5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .blocks import MixedTensor, block_scale_codes, scale_to_stored, stored_fp4, tensor_exponent, to_blocks
from .clipping import clipped_scale_codes, tree_sum
from .codec import decode_e4m3, encode_e4m3

__all__ = [
    "POLICIES",
    "Candidates",
    "GlobalChoice",
    "check_fraction",
    "choose_globally",
    "weight_candidates",
    "weight_scores",
]

POLICIES = ("fisher", "quantization-error", "random")


def check_fraction(fraction: float, name: str = "FP4 fraction") -> float:
    """Return `fraction` if it lies in [0, 1], else raise InputError."""
    if not 0 <= fraction <= 1:
        raise InputError(f"{name}: {fraction}, expected a number from 0 to 1")
    return fraction


@dataclass(frozen=True)
class Candidates:
    """Both quantizations of one weight matrix, of which a mask picks block by block.

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


def weight_candidates(weight: Tensor, sensitivity: Tensor | None, name: str = "weight") -> Candidates:
    """Quantize `weight` (N, K) both ways; with a `sensitivity` (N, K) the FP4 scales are clipped by it.

    Raises InputError for NaN, naming `name` and the index.
    """
    exponent = tensor_exponent(weight)
    blocks = to_blocks(scale_to_stored(weight, exponent, name))
    codes8 = encode_e4m3(blocks)
    if sensitivity is None:
        scales = block_scale_codes(blocks)
    else:
        f = to_blocks(sensitivity.float())
        scales = clipped_scale_codes(blocks.flatten(0, 1), f.flatten(0, 1)).view(blocks.shape[:2])
    codes4, q4 = stored_fp4(blocks, scales)
    error = (q4 - decode_e4m3(codes8)).double().square() * 4.0**exponent
    rows, columns = weight.shape
    return Candidates((rows, columns), exponent, codes4, scales, codes8, error)


def weight_scores(
    candidates: Candidates, policy: str, sensitivity: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Impact scores (N, B), float64, of one weight matrix under one of `POLICIES`."""
    if policy == "fisher":
        if sensitivity is None:
            raise InputError("policy fisher: no sensitivity given, expected one value per weight")
        return tree_sum(to_blocks(sensitivity.double()) * candidates.error)
    if policy == "quantization-error":
        return tree_sum(candidates.error)
    if policy == "random":
        return torch.rand(candidates.error.shape[:2], generator=generator, dtype=torch.float64)
    raise InputError(f"policy: {policy!r}, expected one of {', '.join(POLICIES)}")


@dataclass(frozen=True)
class GlobalChoice:
    """The threshold that leaves the asked fraction of all blocks in FP4, and the masks (True = FP8) it gives."""

    threshold: float
    masks: list[Tensor]


def choose_globally(scores: Sequence[Tensor], fp4_fraction: float) -> GlobalChoice:
    """Compare all blocks of all tensors with one threshold.

    Exactly `floor(fraction * blocks + 0.5)` blocks become FP4, those with the smallest scores, equal ones by position
    (tensor, then row-major).
    """
    check_fraction(fp4_fraction)
    flat = torch.cat([s.flatten() for s in scores])
    count = math.floor(fp4_fraction * len(flat) + 0.5)
    order = torch.argsort(flat, stable=True)
    mask = torch.ones(len(flat), dtype=torch.bool)
    mask[order[:count]] = False
    threshold = flat[order[count - 1]].item() if count else -math.inf
    parts = mask.split([s.numel() for s in scores])
    return GlobalChoice(threshold, [part.view(s.shape) for part, s in zip(parts, scores, strict=True)])
