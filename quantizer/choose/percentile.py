"""The one threshold: an exact percentile of any number of scores, of which only one part is in memory at a time.

Scores are not negative, so their float64 bit patterns, read as integers, are in the same order. The wanted rank is
found by radix: three passes over all parts, each a histogram of the next 22, 21 and 21 bits of the scores that share
the bits known so far. Nothing is sorted, no result depends on threads, and equal scores are told apart by position.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..config import check_fraction

__all__ = ["GlobalChoice", "Rank", "choose_globally", "find_rank", "fp4_count"]

_PASSES = ((42, 22), (21, 21), (0, 21))


def fp4_count(blocks: int, fraction: float) -> int:
    """How many of `blocks` become FP4: `floor(fraction * blocks + 0.5)`."""
    return math.floor(check_fraction(fraction) * blocks + 0.5)


@dataclass(frozen=True)
class Rank:
    """The score of the asked rank, and how many of the scores equal to it are within the rank."""

    value: float
    ties: int


def find_rank(parts: Callable[[], Iterable[np.ndarray]], rank: int) -> Rank:
    """The `rank`-th smallest (from 1) of all scores; rank 0 gives minus infinity.

    `parts` is called three times and yields the scores, float64 and not negative, in the same order each time.
    """
    if rank == 0:
        return Rank(-math.inf, 0)
    prefix, remaining = 0, rank
    for shift, bits in _PASSES:
        histogram = np.zeros(1 << bits, dtype=np.int64)
        for part in parts():
            keys = (np.ascontiguousarray(part, dtype=np.float64).ravel() + 0.0).view(np.int64)
            if shift + bits < 64:
                keys = keys[keys >> (shift + bits) == prefix]
            if len(keys):
                counts = np.bincount((keys >> shift) & ((1 << bits) - 1))
                histogram[: len(counts)] += counts
        cumulative = histogram.cumsum()
        found = int(np.searchsorted(cumulative, remaining))
        remaining -= int(cumulative[found - 1]) if found else 0
        prefix = prefix << bits | found
    return Rank(float(np.array(prefix, dtype=np.int64).view(np.float64)), remaining)


@dataclass(frozen=True)
class GlobalChoice:
    """Which blocks become FP4: those whose score is below the rank's, and the first of those that equal it."""

    rank: Rank
    _parts: Sequence[np.ndarray]

    @property
    def threshold(self) -> float:
        """The largest score in FP4; minus infinity if there is none."""
        return self.rank.value

    def masks(self) -> Iterator[np.ndarray]:
        """One mask per part, True = FP8, in order; each is made when asked for."""
        ties = self.rank.ties
        for part in self._parts:
            scores = np.asarray(part)
            equal = scores == self.rank.value
            within = equal & (np.cumsum(equal).reshape(scores.shape) <= ties)
            ties = max(0, ties - int(equal.sum()))
            yield ~((scores < self.rank.value) | within)


def choose_globally(parts: Sequence[np.ndarray], fp4_fraction: float) -> GlobalChoice:
    """Compare all blocks of all parts with one threshold.

    Exactly `floor(fraction * blocks + 0.5)` blocks become FP4, those with the smallest scores, equal ones by position
    (part, then row-major). Parts may be memory maps: they are read one at a time.
    """
    count = fp4_count(sum(part.size for part in parts), fp4_fraction)
    return GlobalChoice(find_rank(lambda: iter(parts), count), parts)
