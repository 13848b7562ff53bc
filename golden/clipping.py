"""Sensitivity-weighted clipping: the block scale that costs the loss least (docs/numerics.md section 5)."""

import torch
from torch import Tensor

from .blocks import stored_fp4
from .codec import decode_e4m3
from .formats import MAX_BLOCK_SCALE_CODE, MIN_BLOCK_SCALE_CODE

__all__ = ["clipped_scale_codes", "tree_sum"]

# Odd codes up to here have no legal half, so nothing smaller can stand in for them.
_LAST_CODE_WITHOUT_HALF = 15


def tree_sum(x: Tensor) -> Tensor:
    """Sum over the last dimension of 16 as a balanced tree of halves: the same bits on every machine."""
    for width in (8, 4, 2, 1):
        x = x[..., :width] + x[..., width:]
    return x[..., 0]


def clipped_scale_codes(blocks: Tensor, sensitivity: Tensor) -> Tensor:
    """uint8 scale codes minimizing `sum_i f_i * (v_i - Q4(v_i; s))**2` of (n, 16) stored-unit blocks.

    `blocks` is float32, `sensitivity` (same shape) is not negative. Exact over all 105 legal codes, although few are
    tried: a scale of at least amax / 3 gives nothing that its half does not give, and once the largest element's
    clipping error alone exceeds the best cost, every smaller scale is worse.
    """
    v = blocks.double()
    f = sensitivity.double()
    f = torch.where((f == 0).all(-1, keepdim=True), 1.0, f)
    amax, position = v.abs().max(-1)
    f_of_amax = f.gather(-1, position[:, None])[:, 0]
    legal = decode_e4m3(
        torch.arange(MIN_BLOCK_SCALE_CODE, MAX_BLOCK_SCALE_CODE + 1, dtype=torch.uint8, device=v.device)
    ).double()

    code = torch.searchsorted(legal, amax / 3).clamp(_LAST_CODE_WITHOUT_HALF, MAX_BLOCK_SCALE_CODE)
    best_cost = torch.full_like(amax, torch.inf)
    best_code = code.clone()
    active = torch.arange(len(v), device=v.device)
    while len(active):
        tried = code[active]
        _, q4 = stored_fp4(blocks[active], tried.to(torch.uint8))
        cost = tree_sum(f[active] * (v[active] - q4).square())
        better = cost <= best_cost[active]  # codes descend, so an equal cost goes to the smaller scale
        best_cost[active] = torch.where(better, cost, best_cost[active])
        best_code[active] = torch.where(better, tried, best_code[active])
        code[active] -= 1
        # A float sum of non-negative terms is never below one of them, so this prunes exactly.
        following = legal[(code[active] - MIN_BLOCK_SCALE_CODE).clamp(min=0)]
        clipped = (amax[active] - 6 * following).clamp(min=0)
        reachable = (code[active] >= MIN_BLOCK_SCALE_CODE) & (f_of_amax[active] * clipped.square() <= best_cost[active])
        active = active[reachable]
    return best_code.to(torch.uint8)
