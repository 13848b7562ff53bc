"""Sensitivity-weighted clipping: the block scale that costs the loss least (docs/numerics.md section 5).

Exact over all 105 legal scales, although about two dozen are tried: first in float32, with an error bound; only where
that leaves more than one candidate, in float64; and scales below those are pruned by a proof.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..formats import MAX_BLOCK_SCALE_CODE, MIN_BLOCK_SCALE_CODE
from .blocks import stored_fp4
from .codec import decode_e4m3

__all__ = ["clipped_scale_codes", "tree_sum", "window_costs"]

# Odd codes up to here have no legal half, so nothing smaller can stand in for them.
_LAST_CODE_WITHOUT_HALF = 15

# Codes tried at once: from amax / 3 down, three octaves of eight.
_WINDOW = 24

# window_costs errs by less than this: 2**-24 from each of a dozen roundings, and a quotient on the wrong side
# of a tie changes an element's error by 2**-23 of its magnitude, at most 24 times its error. The absolute part covers
# sensitivities that are subnormal beside the block's largest.
_RELATIVE_SLACK = 2e-5
_ABSOLUTE_SLACK = 1e-30

# Blocks at a time: their float32 working set stays in a core's cache; a GPU wants more to do.
_CHUNK = {"cpu": 1 << 13, "cuda": 1 << 19}

WindowCosts = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def tree_sum(x: Tensor) -> Tensor:
    """Sum over the last dimension of 16 as a balanced tree of halves: the same bits on every machine."""
    for width in (8, 4, 2, 1):
        x = x[..., :width] + x[..., width:]
    return x[..., 0]


def window_costs(magnitude: Tensor, sensitivity: Tensor, scales: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """Approximate cost (J, n) of blocks (16, n), one per column, under the scales (J, n), all float32.

    The second result (n,) is what clipping alone costs at the scale `below` (n,): every smaller scale costs more.
    """
    quotient = magnitude * scales.reciprocal()[:, None]
    finer = torch.where(quotient < 2, 2.0, torch.where(quotient < 4, 1.0, 0.5))
    coarser = torch.where(quotient < 2, 0.5, torch.where(quotient < 4, 1.0, 2.0))
    rounded = (torch.round(quotient * finer) * coarser).clamp(max=6.0)
    error = magnitude - rounded * scales[:, None]
    clipped = (magnitude - 6 * below).clamp(min=0)
    return (sensitivity * error * error).sum(1), (sensitivity * clipped * clipped).sum(0)


def clipped_scale_codes(blocks: Tensor, sensitivity: Tensor, costs: WindowCosts = window_costs) -> Tensor:
    """uint8 scale codes minimizing `sum_i f_i * (v_i - Q4(v_i; s))**2` of (n, 16) stored-unit blocks.

    `blocks` is float32, `sensitivity` (same shape) float32 and not negative; where all of a block's are 0, 1 is used.
    Ties go to the smaller scale. The sum is a float64 `tree_sum`. `costs` may be a compiled `window_costs`.
    """
    chunk = _CHUNK.get(blocks.device.type, _CHUNK["cpu"])
    parts = zip(blocks.split(chunk), sensitivity.split(chunk), strict=True)
    return torch.cat([_chunk_codes(v, f, costs) for v, f in parts]) if len(blocks) else blocks.new_zeros(0).byte()


def _chunk_codes(v: Tensor, f: Tensor, costs: WindowCosts) -> Tensor:
    """The codes of (n, 16) blocks: float32 costs leave candidates, of which float64 settles the best."""
    largest = f.amax(-1, keepdim=True)
    f = torch.where(largest == 0, 1.0, f)
    relative = f / torch.where(largest == 0, 1.0, largest)
    block, code, cost, best = _candidates(v.abs().T.contiguous(), relative.T.contiguous(), costs)
    final = cost <= _bound(best[block])
    return _settle(v, f, block[final], code[final]).to(torch.uint8)


def _bound(cost: Tensor) -> Tensor:
    """A float32 cost above this belongs to a scale whose exact cost is higher."""
    return cost * (1 + _RELATIVE_SLACK) + _ABSOLUTE_SLACK


def _candidates(magnitude: Tensor, sensitivity: Tensor, costs: WindowCosts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes that may be the best of blocks (16, n): block, code, cost of each (c,); and each block's least cost (n,).

    Windows of codes are tried from above. A block drops out once what clipping alone costs below its window is more
    than its least cost.
    """
    legal = _legal_scales(magnitude.device)
    steps = torch.arange(_WINDOW, device=magnitude.device)[:, None]
    # A scale of at least amax / 3 gives nothing that its half does not give.
    top = torch.searchsorted(legal, magnitude.amax(0) / 3).clamp(_LAST_CODE_WITHOUT_HALF, MAX_BLOCK_SCALE_CODE)
    best = torch.full_like(magnitude[0], torch.inf)
    active = torch.arange(len(best), device=best.device)  # blocks still in play, beside their columns of the others
    found = []
    while len(active):
        codes = (top - steps).clamp(min=MIN_BLOCK_SCALE_CODE)  # (window, active)
        top = top - _WINDOW
        below = legal[(top - MIN_BLOCK_SCALE_CODE).clamp(min=0)]
        cost, floor = costs(magnitude, sensitivity, legal[codes - MIN_BLOCK_SCALE_CODE], below)
        best[active] = torch.minimum(best[active], cost.amin(0))
        bound = _bound(best[active])
        code, column = (cost <= bound).nonzero(as_tuple=True)
        found.append((active[column], codes[code, column], cost[code, column]))
        stay = ((top >= MIN_BLOCK_SCALE_CODE) & (floor <= bound * (1 + _RELATIVE_SLACK))).nonzero()[:, 0]
        active, top = active[stay], top[stay]
        magnitude, sensitivity = magnitude[:, stay], sensitivity[:, stay]
    block, code, cost = (torch.cat(parts) for parts in zip(*found, strict=True))
    return block, code, cost, best


def _settle(v: Tensor, f: Tensor, block: Tensor, code: Tensor) -> Tensor:
    """Of each block's candidate codes, the one of least exact cost, ties to the smaller."""
    chosen = torch.zeros(len(v), dtype=torch.int64, device=v.device)
    chosen[block] = code
    several = torch.bincount(block, minlength=len(v))[block] > 1
    if several.any():
        block, code = block[several], code[several]
        _, q4 = stored_fp4(v[block], code.to(torch.uint8))
        cost = tree_sum(f[block].double() * (v[block].double() - q4).square())
        least = torch.full((len(v),), torch.inf, dtype=torch.float64, device=v.device)
        least.scatter_reduce_(0, block, cost, "amin")
        best = cost == least[block]
        chosen[block] = MAX_BLOCK_SCALE_CODE
        chosen.scatter_reduce_(0, block[best], code[best], "amin")
    return chosen


def _legal_scales(device: torch.device) -> Tensor:
    return decode_e4m3(torch.arange(MIN_BLOCK_SCALE_CODE, MAX_BLOCK_SCALE_CODE + 1, dtype=torch.uint8, device=device))
