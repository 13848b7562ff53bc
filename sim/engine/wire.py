"""Tensors to the bytes on the engine's streams and back: slices are put in order, no byte is rewritten."""

import numpy as np
import torch
from torch import Tensor

from ...formats import BFLOAT16, BLOCK_SIZE, FLOAT32, ceil_div
from ...golden.blocks import MixedTensor
from ...golden.packing import Packed, pack
from ...hdl.config import EngineConfig
from ...hdl.engine.config import K_TILE, STREAM_BYTES, TILE_BLOCKS
from .gemm import Gemm

__all__ = ["activation_bytes", "float_results", "operand_streams", "packed_results", "result_bytes", "weight_bytes"]


def weight_bytes(packed: Packed, config: EngineConfig, rows: int, stream: int = 0) -> bytes:
    """A stream of weights for `rows` activation rows: (row tile, N tile, K tile, row).

    With one stream these are the file's bytes, once per row tile; of several, each has every n-th row.
    """
    order = _tiled(packed.shape[0], config.lanes, _k_tiles(packed.shape[1]), 1)
    order = order[order[:, 0] % config.weight_streams == stream]
    return _records(packed, order) * ceil_div(rows, config.rows)


def operand_streams(gemm: Gemm, config: EngineConfig) -> dict[str, bytes]:
    """What each stream into the engine carries; one without a byte gets no packet and is not in it."""
    names = config.weight_stream_names
    streams = {name: weight_bytes(gemm.weight, config, gemm.rows, index) for index, name in enumerate(names)}
    streams["activations"] = activation_bytes(gemm, config)
    return {name: data for name, data in streams.items() if data}


def activation_bytes(gemm: Gemm, config: EngineConfig) -> bytes:
    """The activation stream: (row tile, K tile, row), for each N tile again where K is beyond `resident_k`."""
    columns = gemm.columns
    repeats = 1 if columns <= config.resident_k else ceil_div(gemm.outputs, config.lanes)
    order = _tiled(gemm.rows, config.rows, _k_tiles(columns), repeats)
    if isinstance(gemm.activations, MixedTensor):
        return _records(pack(gemm.activations), order)
    x = gemm.activations
    padded = torch.nn.functional.pad(x, (0, -columns % BLOCK_SIZE)).contiguous()
    size = x.element_size()
    raw = padded.view(torch.uint8).view(len(x), -1).numpy()
    starts = order[:, 0] * raw.shape[1] + order[:, 1] * K_TILE * size
    lengths = np.minimum(raw.shape[1] - order[:, 1] * K_TILE * size, K_TILE * size)
    return _gather(raw.ravel(), starts, lengths)


def result_bytes(gemm: Gemm, config: EngineConfig) -> bytes:
    """The result stream that the golden model predicts, bit for bit."""
    if gemm.output == "packed":
        packed = gemm.expected_packed()
        return _records(packed, _tiled(gemm.rows, config.rows, _k_tiles(gemm.outputs), 1))
    y = gemm.expected()
    bits = y.view(torch.int32) if y.dtype == torch.float32 else y.view(torch.int16)
    nan = (FLOAT32 if y.dtype == torch.float32 else BFLOAT16).nan_code
    bits = torch.where(y.isnan(), nan, bits.long()).to(bits.dtype)
    padded = torch.nn.functional.pad(bits, (0, -gemm.outputs % config.lanes)).numpy()
    rows, n_tiles = gemm.rows, padded.shape[1] // config.lanes
    order = _tiled(rows, config.rows, n_tiles, 1)
    return padded.reshape(rows, n_tiles, config.lanes)[order[:, 0], order[:, 1]].tobytes()


def float_results(data: bytes, gemm: Gemm, config: EngineConfig) -> Tensor:
    """The result stream of a float32 or bfloat16 GEMM as (M, N)."""
    dtype = torch.bfloat16 if gemm.output == "bfloat16" else torch.float32
    n_tiles = ceil_div(gemm.outputs, config.lanes)
    order = torch.from_numpy(_tiled(gemm.rows, config.rows, n_tiles, 1))
    result = torch.empty(gemm.rows, n_tiles, config.lanes, dtype=dtype)
    result[order[:, 0], order[:, 1]] = torch.frombuffer(bytearray(data), dtype=dtype).view(-1, config.lanes)
    return result.flatten(1)[:, : gemm.outputs]


def packed_results(data: bytes, gemm: Gemm, config: EngineConfig) -> Packed:
    """The result stream of a packed GEMM as a packed tensor (M, N)."""
    assert gemm.output_settings is not None
    blocks = ceil_div(gemm.outputs, BLOCK_SIZE)
    parts: dict[tuple[int, int], tuple[bytes, bytes, bytes]] = {}
    position = 0
    for row, tile in _tiled(gemm.rows, config.rows, _k_tiles(gemm.outputs), 1).tolist():
        count = min(blocks - tile * TILE_BLOCKS, TILE_BLOCKS)
        mask = data[position : position + ceil_div(count, 8)]
        ends = position + np.cumsum(
            _record_bytes(np.array(count), np.array(int.from_bytes(mask, "little").bit_count()))
        )
        parts[row, tile] = mask, data[ends[0] : ends[1]], data[ends[1] : ends[2]]
        position = int(ends[2])
    ordered = [parts[key] for key in sorted(parts)]
    mask, scale, payload = (
        torch.frombuffer(bytearray(b"".join(p[i] for p in ordered) or b"\0"), dtype=torch.uint8) for i in range(3)
    )
    fp4 = sum(len(p[1]) for p in ordered)
    shape = (gemm.rows, gemm.outputs)
    return Packed(shape, gemm.output_settings.exponent, mask.view(gemm.rows, -1), scale[:fp4], payload)


def _k_tiles(columns: int) -> int:
    return ceil_div(columns, K_TILE)


def _tiled(rows: int, tile: int, columns: int, repeats: int) -> np.ndarray:
    """(row, column) pairs in the order: tile of rows, repeat, column, row of the tile."""
    parts = []
    for start in range(0, rows, tile):
        here = np.arange(start, min(start + tile, rows))
        pairs = np.stack((np.tile(here, columns), np.repeat(np.arange(columns), len(here))), 1)
        parts.append(np.tile(pairs, (repeats, 1)))
    return np.concatenate(parts)


def _record_bytes(blocks: np.ndarray, wide: np.ndarray) -> np.ndarray:
    """(..., 3): bytes of mask, scales and payload of records of so many blocks, `wide` of them in FP8."""
    narrow = blocks - wide
    mask = np.broadcast_to((blocks + 7) // 8, wide.shape)
    return np.stack((mask, narrow, BLOCK_SIZE // 2 * narrow + BLOCK_SIZE * wide), -1)


def _records(packed: Packed, order: np.ndarray) -> bytes:
    """The records of (row, K tile) pairs: each a slice of the mask, one of the scales, one of the payload."""
    rows, columns = packed.shape
    blocks, tiles = ceil_div(columns, BLOCK_SIZE), _k_tiles(columns)
    mask = packed.mask.view(rows, -1).numpy()
    fp8 = np.zeros((rows, tiles * TILE_BLOCKS), dtype=np.int64)
    fp8[:, :blocks] = np.unpackbits(mask, axis=1, bitorder="little")[:, :blocks]
    in_tile = np.minimum(blocks - np.arange(tiles) * TILE_BLOCKS, TILE_BLOCKS)
    lengths = _record_bytes(in_tile, fp8.reshape(rows, tiles, TILE_BLOCKS).sum(-1))
    # The three parts of all records lie one after the other in three areas.
    source = np.concatenate((mask.ravel(), packed.scales.numpy(), packed.payload.numpy()))
    areas = np.array([0, mask.size, mask.size + packed.scales.numel()])
    starts = areas + np.cumsum(lengths.reshape(-1, 3), 0).reshape(lengths.shape) - lengths
    row, tile = order.T
    return _gather(source, starts[row, tile].ravel(), lengths[row, tile].ravel())


def _gather(source: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> bytes:
    """The slices `source[start : start + length]`, one after the other."""
    before = np.cumsum(lengths) - lengths
    return source[np.repeat(starts - before, lengths) + np.arange(lengths.sum())].tobytes()


assert K_TILE == TILE_BLOCKS * BLOCK_SIZE
assert STREAM_BYTES == BLOCK_SIZE
