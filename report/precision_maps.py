"""Which blocks are FP8, small enough to travel in a page."""

import base64
from collections.abc import Iterable, Mapping
from itertools import islice

import numpy as np

from ..formats import ceil_div
from .elements import PrecisionMap, PrecisionMaps

__all__ = ["MOST_BYTES", "MOST_MAPS", "precision_maps"]

MOST_BYTES = 2_400_000
"""Of all maps of a page, before they are written in base64."""

_LEAST_CELLS = 64 * 64
"""A tensor's share of a large model's map is not less, as long as all fit."""

MOST_MAPS = 1000
"""Of a page: models of experts have ten thousands."""

_LONGEST = 16_384
"""Of a side, in cells: browsers draw no larger ones."""


def precision_maps(caption: str, shapes: Mapping[str, tuple[int, int]], masks: Iterable[np.ndarray]) -> PrecisionMaps:
    """Maps of `masks`, bool (N, blocks), in the order of `shapes`, one in memory at a time.

    A model that is small enough is shown block by block. Of a larger one, neighbors become one cell, with the share of
    them that is FP8.
    """
    if len(shapes) > MOST_MAPS:
        caption += f", the first {MOST_MAPS:,} of {len(shapes):,}"
        shapes = dict(islice(shapes.items(), MOST_MAPS))
    least = min(_LEAST_CELLS, MOST_BYTES // max(len(shapes), 1))
    blocks = sum(n * b for n, b in shapes.values())
    whole = blocks <= 8 * MOST_BYTES
    maps = []
    for (name, shape), mask in zip(shapes.items(), masks, strict=False):
        most = 8 * MOST_BYTES if whole else max(least, MOST_BYTES * mask.size // blocks)
        cell = _cell(shape, most, whole=whole)
        cells = np.packbits(mask, bitorder="little") if cell == (1, 1) else _shares(mask, cell)
        data = base64.b64encode(cells.tobytes()).decode()
        maps.append(PrecisionMap(name, shape, cell, data, float(mask.mean())))
    return PrecisionMaps(caption, maps)


def _cell(shape: tuple[int, int], most: int, *, whole: bool) -> tuple[int, int]:
    """The smallest about square cell of which `most` are enough; one block only if it may be `whole`."""
    side = 1
    while True:
        for cell in ((side, side), (side, side + 1)):
            rows, blocks = (ceil_div(size, step) for size, step in zip(shape, cell, strict=True))
            if rows * blocks <= most and max(rows, blocks) <= _LONGEST and (whole or cell != (1, 1)):
                return cell
        side += 1


def _shares(mask: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """uint8: 255 times the share in FP8 of each cell, those at the edges of what they hold."""
    rows, columns = (np.arange(0, size, step) for size, step in zip(mask.shape, cell, strict=True))
    total = np.add.reduceat(np.add.reduceat(mask.astype(np.float64), rows, 0), columns, 1)
    held = np.outer(*(np.diff([*at, size]) for at, size in zip((rows, columns), mask.shape, strict=True)))
    return np.rint(255 * total / held).astype(np.uint8)
