"""Stimuli of a unit without streams, stream by stream: what it is driven with, and what it must answer, as bits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...formats import ceil_div
from ...hdl.config import EngineLaneConfig
from ...hdl.design import Design
from .operand_bits import Bits
from .stimuli import stimuli
from .words import unpack_bits

__all__ = ["STREAMS", "Vectors", "vectors_by_activity"]

STREAMS = 64
"""How many there are of each activity: the bits of a word."""
_FEWEST = 24
"""Cycles of the shortest stream: the deepest pipeline and some answers."""
_TILE_ROWS, _TILE_BLOCKS = 32, 3
"""A lane of an engine works on so many rows with one block of weights, and at least so many blocks: while one is in use
the next is loaded, and its sums go on from those of the block before."""


@dataclass(frozen=True)
class Vectors:
    """One stream, from reset on.

    Attributes:
        cycles: how many.
        inputs: bool (cycles, width) by port.
        expected: the cycles with an answer, before whose end the port has it, and bool (n, width), by port.
    """

    cycles: int
    inputs: Mapping[str, Bits]
    expected: Mapping[str, tuple[NDArray[np.int64], Bits]]


def vectors_by_activity(design: Design, *, count: int, seed: int) -> dict[str, list[Vectors]]:
    """`STREAMS` streams of each activity, of at least `count` cycles in all. Raises InputError for a unit with none."""
    cycles = max(ceil_div(count, STREAMS), _FEWEST)
    if isinstance(design.config, EngineLaneConfig):
        cycles = _TILE_ROWS * max(ceil_div(cycles, _TILE_ROWS), _TILE_BLOCKS)
    found = {}
    for name, stimulus in stimuli(design, words=1, cycles=cycles, seed=seed).items():
        cycle = np.arange(stimulus.cycles)
        inputs = {
            port: unpack_bits(words)[np.minimum(cycle, len(words) - 1)] for port, words in stimulus.inputs.items()
        }
        expected = {}
        for port, (at, words) in stimulus.expected.items():
            seen = at < stimulus.cycles
            expected[port] = at[seen], unpack_bits(words)[seen]
        found[name] = [
            Vectors(
                stimulus.cycles,
                {port: bits[..., stream] for port, bits in inputs.items()},
                {port: (at, bits[..., stream]) for port, (at, bits) in expected.items()},
            )
            for stream in range(STREAMS)
        ]
    return found
