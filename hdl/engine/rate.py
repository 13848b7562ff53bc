"""How many cycles a GEMM takes, from its size, its bytes and the engine's configuration: docs/engine.md, "Rate"."""

from collections import deque
from dataclasses import dataclass
from functools import cache
from random import Random

from ...errors import InputError
from ...formats import BLOCK_SIZE, ceil_div
from .config import K_TILE, STREAM_BYTES, TILE_BLOCKS, EngineConfig
from .registers import OUTPUT_FORMATS

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
_FOLLOWED = 6
"""Row tiles that are followed one by one."""
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
    """What a GEMM takes: cycles and bytes.

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

    `stream_bytes` is how many bytes a cycle each stream of weights brings, at most 16: less where memory is slower.
    Follows the K tiles through loaders, buffers, lanes and drain, one after the other.
    Raises InputError for what the engine cannot do.
    """
    _check(config, load, stream_bytes)
    flow = _Flow(config, load, stream_bytes)
    m_tiles = _tiles(load.rows, config.rows)
    # Full row tiles soon take the same time each.
    followed = m_tiles if len(m_tiles) <= _FOLLOWED else m_tiles[: _FOLLOWED - 1] + m_tiles[-1:]
    ends = [flow.row_tile(rows) for rows in followed]
    cycles = ends[-1] + _FROM_RESULT
    if len(m_tiles) > len(followed):
        cycles += (len(m_tiles) - len(followed)) * (ends[-2] - ends[-3])
    k_tiles, n_tiles = flow.k_tiles, flow.n_tiles
    blocks = sum(k_tiles)
    sent = _raw_bytes(config, blocks) if load.raw else _record_bytes(k_tiles, load.activation_fp4)
    return GemmRate(
        cycles=round(cycles),
        products=load.rows * blocks * len(n_tiles),
        weight_bytes=load.outputs * _record_bytes(k_tiles, load.weight_fp4) * len(m_tiles),
        activation_bytes=load.rows * sent * (1 if flow.resident else len(n_tiles)),
        result_bytes=_result_bytes(config, load, len(n_tiles)),
    )


class _Flow:
    """When each K tile is loaded, computed and drained, one after the other; all times in cycles from START."""

    def __init__(self, config: EngineConfig, load: GemmLoad, stream_bytes: float):
        self._config, self._load, self._stream_bytes = config, load, stream_bytes
        self.n_tiles = _tiles(load.outputs, config.lanes)
        self.k_tiles = _tiles(ceil_div(load.columns, BLOCK_SIZE), TILE_BLOCKS)
        self.resident = len(self.k_tiles) <= config.slots
        self._groups = config.lanes // (2 * config.weight_streams)
        self._weights_loaded = self._activations_loaded = float(_BEGIN)
        # When each slot is free; a page of the packer has the rows of a row tile and 256 of N.
        self._weight_slots, self._activation_slots = deque([0.0] * 2), deque([0.0] * config.slots)
        self._pages = deque([0.0] * 2)
        self._held: list[float] = []
        self._computed = self._drained = self._sent = 0.0

    def row_tile(self, rows: int) -> float:
        """A row tile of so many rows; returns when its results have left the rounders or the packer."""
        step = _step(self._config, rows, self._load.activation_fp4)
        for index, lanes in enumerate(self.n_tiles):
            last = index == len(self.n_tiles) - 1
            for position, blocks in enumerate(self.k_tiles):
                self._load_weights(lanes, blocks)
                if index == 0 or not self.resident:
                    self._load_activations(rows, position, blocks)
                begin = max(
                    self._computed,
                    self._weights_loaded + self._groups + _WEIGHTS_TO_ROW,
                    self._held[position] + _ACTIVATIONS_TO_ROW,
                )
                self._computed = begin + blocks * step
                # The last step's weights are fetched during the step before.
                fetched = max(begin + (blocks - 2) * step, self._weights_loaded) + self._groups
                self._weight_slots.append(fetched)
                if position == len(self.k_tiles) - 1:
                    self._drain(rows, index, step)
                if last or not self.resident:
                    self._activation_slots.append(self._computed - step + rows)
        return max(self._drained, self._sent)

    def _load_weights(self, lanes: int, blocks: int) -> None:
        """The first stream's rows of a tile, those with the most."""
        rows = ceil_div(lanes, self._config.weight_streams)
        needed = rows * _bytes(blocks, self._load.weight_fp4) / self._stream_bytes
        begin = max(self._weights_loaded, self._weight_slots.popleft())
        self._weights_loaded = begin + max(needed, rows * (1 + ceil_div(blocks, 2)) + 1)

    def _load_activations(self, rows: int, position: int, blocks: int) -> None:
        config = self._config
        if self._load.raw:
            cycles = rows * _raw_bytes(config, blocks) / STREAM_BYTES + config.selector_pipeline + _SELECTOR
        else:
            needed = rows * _bytes(blocks, self._load.activation_fp4) / STREAM_BYTES
            cycles = max(needed, rows * (1 + blocks) + 1)
        self._activations_loaded = max(self._activations_loaded, self._activation_slots.popleft()) + cycles
        self._held = [*self._held[:position], self._activations_loaded]

    def _drain(self, rows: int, index: int, step: float) -> None:
        """The results of an N tile: a row needs room in the buffer, which holds as many rows as a tile may have."""
        config, load = self._config, self._load
        cycles = config.lanes // _GROUP
        self._computed = max(self._computed, self._drained - (config.rows - rows) * cycles)
        first = self._computed - max(step, rows) + config.pipeline + _TO_RESULT
        packed = load.output == "packed"
        if packed and index * config.lanes % K_TILE == 0:
            first = max(first, self._pages.popleft())
        self._drained = max(self._drained, first) + rows * cycles
        until = min((index + 1) * config.lanes, load.outputs)
        if packed and (until % K_TILE == 0 or until == load.outputs):
            blocks = (ceil_div(until, BLOCK_SIZE) - 1) % TILE_BLOCKS + 1
            begin = max(self._sent, self._drained + config.selector_pipeline + _SELECTOR)
            self._sent = begin + rows * (2 * blocks + _RECORD + (load.output_fp4 > 0))
            self._pages.append(self._sent)


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
    packed = load.output == "packed"
    if load.output not in OUTPUT_FORMATS or (packed and not config.packed_output):
        raise InputError(f"output: {load.output!r}, expected what this engine has of {', '.join(OUTPUT_FORMATS)}")
    limits = {"M": (1 << 24) - 1, "N": config.n_max if packed else (1 << 16) - 1, "K": config.k_max}
    for (name, limit), value in zip(limits.items(), (load.rows, load.outputs, load.columns), strict=True):
        if not 1 <= value <= limit:
            raise InputError(f"{name}: {value}, expected 1 to {limit} in this engine")
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


def _result_bytes(config: EngineConfig, load: GemmLoad, n_tiles: int) -> float:
    if load.output == "packed":
        return load.rows * _record_bytes(_tiles(ceil_div(load.outputs, BLOCK_SIZE), TILE_BLOCKS), load.output_fp4)
    return load.rows * n_tiles * config.lanes * (2 if load.output == "bfloat16" else 4)


assert K_TILE == TILE_BLOCKS * BLOCK_SIZE
