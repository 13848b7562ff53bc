"""Inputs of a unit and its expected outputs: ports as bit-parallel words, cycle by cycle."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...hdl.design import Design
from .operand_bits import Bits, integer_bits
from .words import ONES, Words, pack_bits

__all__ = ["Stimulus", "flag_words", "integer_words", "quiet_flags", "stream_words"]

_FLAGS = ("nan", "format_error", "overflow")


@dataclass(frozen=True)
class Stimulus:
    """Ports by name; arrays (cycles, bits, words), or one cycle that holds throughout.

    Attributes:
        description: for the report.
        inputs: what is driven.
        expected: (cycles at which, values (results, bits, words)) by port.
        cycles: how many; the first `warmup` are not counted.
    """

    description: str
    inputs: dict[str, Words]
    expected: dict[str, tuple[NDArray[np.int64], Words]]
    cycles: int
    warmup: int

    @property
    def words(self) -> int:
        """Streams / 64."""
        return next(iter(self.inputs.values())).shape[2]

    def one_share(self) -> dict[str, Words]:
        """The one share, called "", that every stream has in every cycle."""
        return {"": np.full((self.cycles, self.words), ONES)}


def quiet_flags(design: Design, at: NDArray[np.int64], words: int) -> dict[str, tuple[NDArray[np.int64], Words]]:
    """A unit's error flags in the cycles `at`, where nothing is wrong: low."""
    return {p.name: (at, np.zeros((len(at), 1, words), dtype=np.uint64)) for p in design.ports if p.name in _FLAGS}


def stream_words(bits: Bits) -> Words:
    """(streams, cycles, bits) to (cycles, bits, words)."""
    return pack_bits(bits.transpose(1, 2, 0))


def integer_words(values: ArrayLike, width: int) -> Words:
    """(streams, cycles) int64 to (cycles, width, words), two's complement."""
    return stream_words(integer_bits(np.asarray(values, dtype=np.int64), width))


def flag_words(total: int, streams: int, high: Iterable[int]) -> Words:
    """(total, 1, words): a bit that is 1 in the cycles `high`, in all streams."""
    bits = np.zeros((total, 1, streams), dtype=np.bool_)
    bits[list(high)] = True
    return pack_bits(bits)
