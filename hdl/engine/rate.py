"""How many cycles a GEMM takes, from its size, its bytes and the engine's configuration: docs/engine.md, "Rate"."""

from collections import deque
from dataclasses import dataclass
from functools import cache
from math import ceil
from random import Random

from ...errors import InputError
from ...formats import BLOCK_SIZE, ceil_div
from .config import K_TILE, STREAM_BYTES, TILE_BLOCKS, EngineConfig

__all__ = ["GemmLoad", "GemmRate", "gemm_rate"]

_BEGIN = 4
"""Cycles from START until the first header can be read: registers, buffers of the stream, two beats."""
_WEIGHTS_TO_ROW = 3
"""From a tile's last block to the fetch of its first, and from the last fetch of a step to the row that needs it."""
_ACTIVATIONS_TO_ROW = 5
"""From a tile's last block to its first row: precision bits, order of rows."""
_SELECTOR = 4
"""Registers around the selector."""
_SHORTEST_STEP = 4
"""Precision bits and order of rows of a step take as long."""
_SUM_DISTANCE = 3
"""Cycles until a row may come again: its sum must be written."""
_FEW_ROWS = 16
"""From so many on, rows that come again too early do not matter."""
_DRAWN_STEPS = 512
_TO_RESULT = 4
"""From a row to the result buffer, beside the dot product's registers."""
_FROM_RESULT = 6
"""From the result buffer to the stream: group of lanes, rounder, two buffers."""
_RECORD = 4
"""Cycles of a packed record of results beside two for each block, and one for the scales if there are any."""
_GROUP = 4
"""Lanes that are rounded in a cycle."""


@dataclass(frozen=True, kw_only=True)
class GemmLoad:
    """What a GEMM brings.

    Attributes:
        rows, outputs, columns: M, N and K.
        weight_fp4, activation_fp4: shares of FP4 blocks.
        raw: activations come as values.
        output: "float32", "bfloat16" or "packed" (whose blocks have the share `output_fp4` in FP4).
    """

    rows: int
    outputs: int
    columns: int
    weight_fp4: float = 0.0
    activation_fp4: float = 0.0
    raw: bool = False
    output: str = "float32"
    output_fp4: float = 0.0


@dataclass(frozen=True, kw_only=True)
class GemmRate:
    """What becomes of it.

    Attributes:
        cycles: from START to the last result.
        products: cycles in which all lanes get a block pair.
        weight_bytes, activation_bytes, result_bytes: on the streams, those of weights together.
    """

    cycles: int
    products: int
    weight_bytes: float
    activation_bytes: float
    result_bytes: float


def gemm_rate(config: EngineConfig, load: GemmLoad, *, stream_bytes: float = STREAM_BYTES) -> GemmRate:
    """Cycles and bytes of a GEMM, with results that are never refused.

    `stream_bytes` is how many bytes a cycle each stream of operands brings, at most 16: less where memory is slower.
    Follows the K tiles through loaders, buffers, lanes and drain, one after the other.
    Raises InputError for what the engine cannot do.
    """
    _check(config, load, stream_bytes)
    m_tiles = _tiles(load.rows, config.rows)
    n_tiles = _tiles(load.outputs, config.lanes)
    k_tiles = _tiles(ceil_div(load.columns, BLOCK_SIZE), TILE_BLOCKS)
    resident = len(k_tiles) <= config.slots
    groups = config.lanes // (2 * config.weight_streams)
    drained_lanes = config.lanes // _GROUP

    weights = [[_weight_tile(config, load, n, k, stream_bytes) for k in k_tiles] for n in (n_tiles[0], n_tiles[-1])]
    weights_loaded = activations_loaded = float(_BEGIN)
    weight_slots, activation_slots = deque([0.0] * 2), deque([0.0] * config.slots)  # when each of them is free
    free = drained = sent = 0.0
    pages = deque([0.0] * 2)  # of the packer, when each is free; a page has the rows of a row tile and 256 of N
    held: list[float] = []
    for m in m_tiles:
        activations = [_activation_tile(config, load, m, k, stream_bytes) for k in k_tiles]
        step = _step(config, m, load.activation_fp4)
        for index in range(len(n_tiles)):
            for position, blocks in enumerate(k_tiles):
                cycles = weights[index == len(n_tiles) - 1][position]
                weights_loaded = max(weights_loaded, weight_slots.popleft()) + cycles
                if index == 0 or not resident:
                    if not position:
                        held = []
                    activations_loaded = max(activations_loaded, activation_slots.popleft()) + activations[position]
                    held.append(activations_loaded)
                begin = max(free, weights_loaded + groups + _WEIGHTS_TO_ROW, held[position] + _ACTIVATIONS_TO_ROW)
                end = begin + blocks * step
                # The last step's weights are fetched during the step before.
                weight_slots.append(max(begin + (blocks - 2) * step, weights_loaded) + groups)
                if position == len(k_tiles) - 1:
                    # A row of results needs room in the buffer, which holds `rows` of them.
                    end = max(end, drained - (config.rows - m) * drained_lanes)
                    result = end - max(step, m) + config.pipeline + _TO_RESULT
                    if load.output == "packed" and index * config.lanes % K_TILE == 0:
                        result = max(result, pages.popleft())
                    drained = max(drained, result) + m * drained_lanes
                    until = min((index + 1) * config.lanes, load.outputs)
                    if load.output == "packed" and (until % K_TILE == 0 or until == load.outputs):
                        blocks_sent = (ceil_div(until, BLOCK_SIZE) - 1) % TILE_BLOCKS + 1
                        sent = max(sent, drained + config.selector_pipeline + _SELECTOR)
                        sent += m * (2 * blocks_sent + _RECORD + (load.output_fp4 > 0))
                        pages.append(sent)
                if not resident or index == len(n_tiles) - 1:
                    activation_slots.append(end - step + m)
                free = end
    total = max(drained, sent) + _FROM_RESULT
    repeats = 1 if resident else len(n_tiles)
    blocks = sum(k_tiles)
    return GemmRate(
        cycles=round(total),
        products=load.rows * blocks * len(n_tiles),
        weight_bytes=load.outputs * _record_bytes(k_tiles, load.weight_fp4) * len(m_tiles),
        activation_bytes=load.rows
        * (_raw_bytes(config, blocks) if load.raw else _record_bytes(k_tiles, load.activation_fp4))
        * repeats,
        result_bytes=_result_bytes(config, load, len(n_tiles)),
    )


@cache
def _step(config: EngineConfig, rows: int, fp4: float) -> float:
    """Cycles from a step's first row to that of the next, on average over blocks of which the share `fp4` is FP4.

    A step that ends with the row with which the next one begins waits for that row's sum; which rows these are depends
    on the blocks' precisions. Drawn, where there are few rows.
    """
    shortest = max(config.lanes // (2 * config.weight_streams) + 1, _SHORTEST_STEP)
    if rows >= _FEW_ROWS or config.row_order == "ascending" or fp4 in (0, 1):
        return max(rows, shortest)
    draw = Random(1)
    time = begin = 0
    last = False
    visits = [-_SUM_DISTANCE] * rows
    for _ in range(_DRAWN_STEPS):
        fp8 = [draw.random() >= fp4 for _ in range(rows)]
        order = sorted(range(rows), key=lambda row: (fp8[row] != last, row))
        time = max(time, begin + shortest)
        for row in order:
            time = max(time, visits[row] + _SUM_DISTANCE)
            visits[row] = time
            if row == order[0]:
                begin = time
            time += 1
        last = fp8[order[-1]]
    return (begin - shortest) / (_DRAWN_STEPS - 1)


def _check(config: EngineConfig, load: GemmLoad, stream_bytes: float) -> None:
    for name, value in (("M", load.rows), ("N", load.outputs), ("K", load.columns)):
        if value < 1:
            raise InputError(f"{name}: {value}, expected at least 1")
    if load.columns > config.k_max:
        raise InputError(f"K: {load.columns}, expected at most {config.k_max} in this engine")
    if load.raw and config.raw_input == "none":
        raise InputError("raw activations: expected packed ones in this engine")
    for name in ("weight_fp4", "activation_fp4", "output_fp4"):
        if not 0 <= getattr(load, name) <= 1:
            raise InputError(f"{name}: {getattr(load, name)}, expected a number from 0 to 1")
    if not 0 < stream_bytes <= STREAM_BYTES:
        raise InputError(f"stream_bytes: {stream_bytes}, expected more than 0 and at most {STREAM_BYTES}")


def _tiles(size: int, tile: int) -> list[int]:
    """How far each tile of a dimension goes."""
    return [tile] * ((size - 1) // tile) + [(size - 1) % tile + 1]


def _bytes(blocks: int, fp4: float) -> float:
    """Of a record of so many blocks: mask, scales, payload."""
    return ceil_div(blocks, 8) + blocks * (fp4 * (1 + BLOCK_SIZE / 2) + (1 - fp4) * BLOCK_SIZE)


def _record_bytes(k_tiles: list[int], fp4: float) -> float:
    return sum(_bytes(blocks, fp4) for blocks in k_tiles)


def _raw_bytes(config: EngineConfig, blocks: int) -> int:
    return blocks * BLOCK_SIZE * (2 if config.raw_input == "bfloat16" else 4)


def _weight_tile(config: EngineConfig, load: GemmLoad, lanes: int, blocks: int, stream_bytes: float) -> float:
    """Cycles that a loader takes for the first stream's rows of a tile, those with the most."""
    rows = ceil_div(lanes, config.weight_streams)
    return max(rows * _bytes(blocks, load.weight_fp4) / stream_bytes, rows * (1 + ceil(blocks / 2)) + 1)


def _activation_tile(config: EngineConfig, load: GemmLoad, rows: int, blocks: int, stream_bytes: float) -> float:
    if load.raw:
        return rows * _raw_bytes(config, blocks) / stream_bytes + config.selector_pipeline + _SELECTOR
    return max(rows * _bytes(blocks, load.activation_fp4) / stream_bytes, rows * (1 + blocks) + 1)


def _result_bytes(config: EngineConfig, load: GemmLoad, n_tiles: int) -> float:
    if load.output == "packed":
        return load.rows * _record_bytes(_tiles(ceil_div(load.outputs, BLOCK_SIZE), TILE_BLOCKS), load.output_fp4)
    return load.rows * n_tiles * config.lanes * (2 if load.output == "bfloat16" else 4)


assert K_TILE == TILE_BLOCKS * BLOCK_SIZE
