"""Stimuli of what stands around a lane, in the engine's order of work: accumulators and the order of rows."""

import numpy as np
import torch
from torch import Tensor

from ...golden.blocks import Blocks
from ...hdl.config import AccumulatorConfig, ActivationDecoderConfig, RowOrderConfig
from ...hdl.design import Design
from ...hdl.operands import COMMON_MEMBERS
from .operand_bits import activation_bits, stored_held
from .stimulus import Stimulus, flag_words, integer_words, stream_words
from .weight_stationary import Tile, flattened
from .words import pack_bits

__all__ = ["accumulator_stimulus", "decoder_stimulus", "row_order_stimulus"]

_WRITE_AFTER_READ = 2
"""Cycles from the read of a row's sum to the write of the next one."""


def accumulator_stimulus(design: Design, tile: Tile, order: Tensor) -> Stimulus:
    """A read and a write a cycle, as the lane that works through `tile` makes them; a row's first block is not read.

    The rows are those of `order`. Where one comes again before its sum is written, the engine would wait and the
    stimulus does not: it then expects the sum of the visit before.
    """
    config = design.config
    assert isinstance(config, AccumulatorConfig)
    streams, blocks, rows = order.shape
    steps, delay = blocks * rows, _WRITE_AFTER_READ
    begin, after = tile.growing_sums()
    poison_free = (1 << config.width - 1) - 1
    after = after.gather(2, order).reshape(streams, steps) & poison_free
    # First what the accumulators hold before.
    written = torch.cat([begin & poison_free, after], 1)
    visited = torch.cat([torch.arange(rows).expand(streams, -1), order.reshape(streams, steps)], 1)
    total = rows + steps + delay
    cycle = np.arange(total)
    at_read = np.clip(cycle - rows, 0, steps - 1)
    at_write = np.where(cycle < rows, cycle, np.clip(cycle - delay, rows - 1, rows + steps - 1))
    enabled = np.repeat(((cycle >= rows) & (cycle < rows + steps))[None], streams, 0)
    enabled &= ~(tile.first.numpy()[:, None] & (at_read < rows)[None])
    address = design.port("read_row").width
    inputs = {
        "write": flag_words(total, streams, [c for c in range(total) if c < rows or c >= rows + delay]),
        "write_row": integer_words(visited[:, at_write], address),
        "write_sums": integer_words(written[:, at_write], config.width),
        "read": integer_words(enabled, 1),
        "read_row": integer_words(visited[:, rows + at_read], address),
    }
    read = np.arange(rows, steps)
    expected = _latest(visited, written, rows, delay)[:, read]
    return Stimulus(
        "the lane's sums",
        inputs,
        {"sums": (rows + read + 1, integer_words(expected, config.width))},
        rows + steps,
        rows + delay,
    )


def _latest(visited: Tensor, written: Tensor, rows: int, delay: int) -> Tensor:
    """int64 (streams, steps): what the row of each visit holds when it is read; the first `rows` visits only write.

    Visit v reads in cycle v and writes in cycle v + `delay`, before the reads of the next cycle.
    """
    streams, visits = visited.shape
    found = torch.zeros(streams, visits - rows, dtype=torch.int64)
    held = torch.zeros(streams, rows, dtype=torch.int64)
    held.scatter_(1, visited[:, :rows], written[:, :rows])
    for step in range(visits - rows):  # cycles, each of which sees what those before it wrote
        done = rows + step - delay - 1
        if done >= rows:
            held.scatter_(1, visited[:, done : done + 1], written[:, done : done + 1])
        found[:, step] = held.gather(1, visited[:, rows + step : rows + step + 1])[:, 0]
    return found


def decoder_stimulus(design: Design, tile: Tile, order: Tensor) -> Stimulus:
    """The activation blocks of a tile in `order`, one a cycle, as they come out of the buffer."""
    config = design.config
    assert isinstance(config, ActivationDecoderConfig)
    blocks = flattened(tile.visited(order))
    streams, steps = blocks.fp8.shape
    at = 1 + np.arange(steps)
    inputs = {
        "valid": flag_words(steps + 1, streams, range(steps)),
        "stored": stream_words(stored_held(blocks, config.formats)),
    }
    # A register that was not written yet may hold anything.
    decoded = activation_bits(blocks, config.formats)
    expected = {}
    for name, bits in decoded.items():
        written = _first_written(name, blocks)
        if written < steps:
            expected[f"decoded_{name}"] = at[written:], stream_words(bits)[written:]
    return Stimulus("the model's activations", inputs, expected, steps, 2)


def _first_written(name: str, blocks: Blocks) -> int:
    """The first block from which on every stream has had one of a member's precision, or how many blocks there are."""
    fp8 = blocks.fp8.numpy()
    if name in COMMON_MEMBERS:
        return 0
    live = ~fp8 if name.startswith("narrow_") or name in ("scale", "shift") else fp8
    return int((~np.logical_or.accumulate(live, axis=1).all(0)).sum())


def row_order_stimulus(design: Design, tile: Tile, order: Tensor, kind: str) -> Stimulus:
    """The rows' precisions, step by step without a pause; the rows must come in `order`."""
    config = design.config
    assert isinstance(config, RowOrderConfig)
    streams, blocks, rows = order.shape
    steps = blocks * rows
    begin = 3  # two cycles of reset, and one in which the first step is loaded
    total = begin + steps + 1
    loads = [begin - 1, *(begin + block * rows - 1 for block in range(1, blocks))]
    # A step's bits stand at the port from the middle of the step before.
    block_of = np.clip((np.arange(total) - begin + rows // 2) // rows, 0, blocks - 1)
    sort = torch.full((streams, blocks), kind == "precision")
    sort[:, -1] &= ~tile.last
    inputs = {
        "rst": flag_words(total, streams, range(2)),
        "load": flag_words(total, streams, loads),
        "row_final": integer_words(torch.full((streams, 1), rows - 1), (rows - 1).bit_length()),
        "fp8": pack_bits(tile.a.fp8.numpy()[:, block_of].transpose(1, 2, 0)),
        "sort": integer_words(sort.long()[:, block_of], 1),
        "taken": flag_words(total, streams, range(total)),
    }
    offered = begin + np.arange(steps)
    at = offered + 1
    place = np.arange(steps) % rows
    flags = {
        "begins": (offered, place == 0),
        "ready": (offered, place == rows - 1),
        "valid": (at, place >= 0),
        "first": (at, place == 0),
        "last": (at, place == rows - 1),
    }
    expected = {name: (when, flag_words(steps, streams, np.flatnonzero(high))) for name, (when, high) in flags.items()}
    expected |= {
        "row": (at, integer_words(order.reshape(streams, steps), (rows - 1).bit_length())),
        "row_fp8": (at, integer_words(tile.a.fp8.gather(2, order).reshape(streams, steps).long(), 1)),
    }
    return Stimulus("the rows' precisions", inputs, expected, begin + steps, begin + 1)
