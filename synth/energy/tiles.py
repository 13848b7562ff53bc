"""A model's own operands in the engine's order of work: row tiles that stream past held weight blocks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...formats import ACCUMULATOR_FRACTION_BITS, BLOCK_SIZE, PRECISION_MODES
from ...golden.blocks import Blocks
from ...golden.precision_modes import count_precision_modes
from ...sim.capture import Capture
from ...sim.parts.weight_stationary import Tile
from ...sim.parts.words import Words, pack_bits

__all__ = ["CHANGES", "PRECISION_MODES", "ModeStreams", "mode_streams", "pair_shares", "sample_tile"]

CHANGES = "changes"
"""Cycles in which the pipeline holds pairs of more than one precision mode."""


def pair_shares(layers: Sequence[Capture]) -> dict[str, float]:
    """Share of each precision mode among all block pairs of the layers, counted exactly from their masks."""
    counts = Counter[str]()
    for layer in layers:
        counts.update(count_precision_modes(layer.activations, layer.weight))
    total = sum(counts.values())
    return {name: counts[name] / total for name in PRECISION_MODES}


def sample_tile(layers: Sequence[Capture], streams: int, blocks: int, rows: int, seed: int) -> Tile:
    """`streams` places, drawn in proportion to the work that layers do: an output channel, `rows` consecutive tokens,
    and `blocks` consecutive blocks of K with the sums that the accumulators hold before them.

    Raises InputError if no layer has so many rows and blocks. The same seed gives the same places for any precision.
    """
    rng = np.random.default_rng(seed)
    usable = [layer for layer in layers if layer.weight.fp8.shape[1] >= blocks and len(layer.x) >= rows]
    if not usable:
        raise InputError(
            f"model: no linear with {blocks} blocks of K and {rows} rows of activations, expected at least one"
        )
    work = np.array([layer.weight.fp8.numel() * len(layer.x) for layer in usable], dtype=float)
    chosen = rng.choice(len(usable), streams, p=work / work.sum())
    parts = [_places(usable[i], int((chosen == i).sum()), blocks, rows, rng) for i in np.unique(chosen)]
    mixed = torch.from_numpy(rng.permutation(streams))  # so that a part of the streams is a sample, too
    a, w = (Blocks.concatenate([part[k] for part in parts])[mixed] for k in (0, 1))
    sums, first, last = (torch.cat([part[k] for part in parts])[mixed] for k in (2, 3, 4))
    return Tile(a=a, w=w, sums=sums, first=first, last=last)


@dataclass(frozen=True)
class ModeStreams:
    """Which streams work in which precision mode in which cycle of a tile's stimulus.

    Attributes:
        steady: bits (cycles, words) by precision mode, of streams in whose pipeline there is nothing else; the other
            cycles are under `CHANGES`. Together they are all.
        changing: by precision mode, which share of its cycles is not steady.
    """

    steady: dict[str, Words]
    changing: dict[str, float]


def mode_streams(tile: Tile, order: Tensor, cycles: int, first: int, depth: int, warmup: int) -> ModeStreams:
    """Tell streams apart by the precision modes of their last `depth` + 1 pairs; the first enters in cycle `first`.

    Rows come in `order`.

    Only cycles after `warmup` count for `changing`.
    """
    fp8 = tile.a.fp8.gather(2, order).int() * 2 + tile.w.fp8[:, :, None].int()
    mode = fp8.flatten(1).numpy().T
    step = np.clip(np.arange(cycles) - first, 0, len(mode) - 1)
    steady = np.ones((cycles, mode.shape[1]), dtype=np.bool_)
    for back in range(1, depth + 1):
        steady &= mode[step] == mode[np.maximum(step - back, 0)]
    streams, changing = {}, {}
    for name, (a_fp8, w_fp8) in PRECISION_MODES.items():
        mine = mode[step] == 2 * a_fp8 + w_fp8
        counted = mine & (np.arange(cycles) > warmup)[:, None]
        streams[name] = pack_bits(steady & mine)
        changing[name] = float(1 - steady[counted].mean()) if counted.any() else 0.0
    return ModeStreams({**streams, CHANGES: pack_bits(~steady)}, changing)


def _places(
    layer: Capture, count: int, blocks: int, rows: int, rng: np.random.Generator
) -> tuple[Blocks, Blocks, Tensor, Tensor, Tensor]:
    total = layer.weight.fp8.shape[1]
    n = torch.from_numpy(rng.integers(0, layer.weight.shape[0], count))
    start = torch.from_numpy(rng.integers(0, total - blocks + 1, count))
    row = torch.from_numpy(rng.integers(0, len(layer.x) - rows + 1, count))
    k = start[:, None] + torch.arange(blocks)
    r = row[:, None] + torch.arange(rows)
    a = layer.activations[r[:, None, :].expand(-1, blocks, -1), k[:, :, None].expand(-1, -1, rows)]
    w = layer.weight[n[:, None].expand(-1, blocks), k]
    va, vw = (blocks_of.values().flatten(1) for blocks_of in (layer.activations, layer.weight))
    sums = torch.zeros(count, rows, dtype=torch.float64)
    for i in range(count):  # places, not elements: each has a row tile of its own
        before = int(start[i]) * BLOCK_SIZE
        sums[i] = va[r[i], :before] @ vw[n[i], :before]
    return a, w, (sums * 2.0**ACCUMULATOR_FRACTION_BITS).to(torch.int64), start == 0, start + blocks == total
