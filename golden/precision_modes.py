"""How often which formats meet in a lane: block pairs by precision mode."""

from ..formats import PRECISION_MODES
from .blocks import Blocks

__all__ = ["count_precision_modes"]


def count_precision_modes(activations: Blocks, weights: Blocks) -> dict[str, int]:
    """Block pairs, M * N * B in all, by precision mode, in the product of activations (M, B) and weights (N, B)."""
    a8, w8 = activations.fp8.double(), weights.fp8.double()
    counts = {}
    for name, (a_fp8, w_fp8) in PRECISION_MODES.items():
        counts[name] = int((a8 if a_fp8 else 1 - a8).sum(0) @ (w8 if w_fp8 else 1 - w8).sum(0))
    return counts
