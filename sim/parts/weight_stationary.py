"""The engine's order of work as a stimulus of one lane: a weight block stays while the rows of a tile stream past."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...formats import ACCUMULATOR_FRACTION_BITS
from ...golden.blocks import Blocks
from ...hdl.config import EngineLaneConfig
from ...hdl.design import Design
from .operand_bits import activation_bits, integer_bits, stored_held
from .stimulus import flag_words, quiet_flags, stream_words
from .words import Words

__all__ = ["PROLOGUE", "Tile", "flattened", "weight_stationary"]

PROLOGUE = 4
"""Cycles before the first block pair: two of reset, one to load the first weight, one to swap it in."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """The work of the streams.

    Attributes:
        a: activation blocks (streams, blocks, rows, 16).
        w: weight blocks (streams, blocks, 16).
        sums: int64 (streams, rows), what the accumulators hold before.
        first: bool (streams,), whether the first block begins the rows (then `sums` does not count).
        last: bool (streams,), whether the last block ends them.
    """

    a: Blocks
    w: Blocks
    sums: Tensor
    first: Tensor
    last: Tensor

    def __getitem__(self, streams: slice) -> "Tile":
        """Some of the streams."""
        return Tile(
            a=self.a[streams],
            w=self.w[streams],
            sums=self.sums[streams],
            first=self.first[streams],
            last=self.last[streams],
        )

    def row_order(self, kind: str) -> Tensor:
        """int64 (streams, blocks, rows): which row an engine visits when (docs/engine.md), `kind` as its `row_order`.

        "precision": first the rows of the precision that was visited last, then the others; a step that ends the rows
        takes them ascending.
        """
        fp8 = self.a.fp8
        ascending = torch.arange(fp8.shape[2]).expand(fp8.shape)
        if kind == "ascending":
            return ascending
        order = []
        latest = torch.zeros(len(fp8), dtype=torch.bool)
        for block in range(fp8.shape[1]):  # steps, which depend on each other
            bits = fp8[:, block]
            rows = torch.sort((bits != latest[:, None]).int(), dim=1, stable=True).indices
            if block == fp8.shape[1] - 1:
                rows = torch.where(self.last[:, None], ascending[:, block], rows)
            latest = bits.gather(1, rows[:, -1:])[:, 0]
            order.append(rows)
        return torch.stack(order, 1)

    def visited(self, order: Tensor) -> Blocks:
        """The activation blocks in an order of their rows."""
        streams, blocks = (torch.arange(n) for n in order.shape[:2])
        return self.a[streams[:, None, None], blocks[None, :, None], order]

    def growing_sums(self) -> tuple[Tensor, Tensor]:
        """int64 sums, exact: (streams, rows) before the first block, and (streams, blocks, rows) after each."""
        terms = (self.a.values() * self.w.values()[:, :, None]).sum(-1) * 2.0**ACCUMULATOR_FRACTION_BITS
        begin = torch.where(self.first[:, None], torch.zeros_like(self.sums), self.sums)
        return begin, begin[:, None] + terms.to(torch.int64).cumsum(1)


def weight_stationary(
    design: Design, tile: Tile, order: Tensor
) -> tuple[dict[str, Words], dict[str, tuple[NDArray[np.int64], Words]], int, int]:
    """Inputs, expected results, cycles and warmup of an engine's lane that works through the tile, its rows in `order`.

    The expected sums are the golden model's, exact in int64; flags stay low.
    """
    config = design.config
    assert isinstance(config, EngineLaneConfig)
    streams, blocks, rows = tile.a.fp8.shape
    steps = blocks * rows
    total = PROLOGUE + steps + config.latency
    begin, after = tile.growing_sums()
    before = torch.cat([begin[:, None], after[:, :-1]], 1).gather(2, order)
    after = after.gather(2, order)

    a = activation_bits(flattened(tile.visited(order)), config.formats)
    w = stored_held(tile.w, config.formats)
    inputs = {
        "rst": flag_words(total, streams, range(2)),
        "load": flag_words(total, streams, [2, *(PROLOGUE + b * rows + rows // 2 for b in range(blocks - 1))]),
        "swap": flag_words(total, streams, [3, *(PROLOGUE + b * rows - 1 for b in range(1, blocks))]),
        "term_valid": flag_words(total, streams, range(PROLOGUE + config.pipeline, total - 1)),
    }
    # A block comes while the one before it is used, and stays on the port until the next one.
    of_cycle = np.zeros(total, dtype=np.int64)
    for b in range(1, blocks):
        of_cycle[PROLOGUE + (b - 1) * rows + rows // 2 :] = b
    step_of = np.clip(np.arange(total) - PROLOGUE, 0, steps - 1)
    term_of = np.clip(np.arange(total) - PROLOGUE - config.pipeline, 0, steps - 1)
    inputs["w"] = stream_words(w[:, of_cycle])
    inputs |= {f"a_{name}": stream_words(bits[:, step_of]) for name, bits in a.items()}
    width = config.accumulator_bits
    sums = integer_bits(before.reshape(streams, steps).numpy(), width + 1)
    sums[..., width] = False
    inputs["accumulator"] = stream_words(sums[:, term_of])
    begins = np.zeros((streams, steps), dtype=np.bool_)
    begins[:, :rows] = tile.first.numpy()[:, None]
    inputs["term_first"] = stream_words(begins[:, term_of, None])
    expected_bits = integer_bits(after.reshape(streams, steps).numpy(), width + 1)
    expected_bits[..., width] = False
    at = PROLOGUE + np.arange(steps) + config.latency
    kept = at < total
    expected = {"sum": (at[kept], stream_words(expected_bits)[kept]), **quiet_flags(design, at[kept], streams // 64)}
    return inputs, expected, PROLOGUE + steps, PROLOGUE + config.latency


def flattened(blocks: Blocks) -> Blocks:
    """(streams, blocks, rows) as (streams, blocks * rows)."""
    return Blocks(blocks.fp8.flatten(1, 2), blocks.scales.flatten(1, 2), blocks.codes.flatten(1, 2))
