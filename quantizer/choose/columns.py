"""How the scores of every block column are distributed, in little memory and counted once."""

from collections.abc import Iterable

import numpy as np

__all__ = ["Columns"]

_STEPS = 4
"""Bits of a score's significand that tell bins apart: sixteenths of an octave."""

_DROPPED = 52 - _STEPS
_LOWEST, _OCTAVES = -160, 320
_FIRST = (1023 + _LOWEST) << _STEPS
_BINS = (_OCTAVES << _STEPS) + 1


class Columns:
    """Counts of scores by block column and bin, for all columns of several matrices of scores, one after the other."""

    def __init__(self, matrices: Iterable[np.ndarray]):
        """Count `matrices`, each float64 (rows, B) and not negative; one is in memory at a time."""
        found: list[tuple[int, np.ndarray, int]] = []
        for scores in matrices:
            columns = scores.shape[1]
            # A score of 0 is above no threshold.
            flat = (np.arange(columns) * _BINS + _bins(scores))[scores > 0]
            counts = np.bincount(flat, minlength=columns * _BINS).reshape(columns, _BINS)
            used = np.flatnonzero(counts.any(0))
            first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
            above = counts[:, first:last][:, ::-1].cumsum(1)[:, ::-1]
            found.append((first, above.astype(np.uint32), len(scores)))
        self._first = min((first for first, _, _ in found), default=0)
        width = max((first + above.shape[1] for first, above, _ in found), default=1) - self._first
        self._above = np.zeros((sum(len(above) for _, above, _ in found), width + 1), np.uint32)
        begin = 0
        for first, above, _ in found:
            part = self._above[begin : begin + len(above)]
            part[:, : first - self._first] = above[:, :1]
            part[:, first - self._first : first - self._first + above.shape[1]] = above
            begin += len(above)
        self.rows = np.concatenate([np.full(len(above), float(rows)) for _, above, rows in found] or [np.zeros(0)])
        """float64 (C,): how many scores each column has."""

    def above(self, thresholds: np.ndarray) -> np.ndarray:
        """float64 (C,): the share of each column's scores above `thresholds` (C,); uniform within a bin."""
        last = self._above.shape[1] - 1
        bits = np.ascontiguousarray(thresholds, np.float64).view(np.int64)
        index = (bits >> _DROPPED) - _FIRST - self._first
        within = np.where(index < 0, 0.0, (bits & ((1 << _DROPPED) - 1)) / (1 << _DROPPED))
        here = np.clip(index, 0, last)
        low = np.take_along_axis(self._above, here[:, None], 1)[:, 0].astype(np.float64)
        high = np.take_along_axis(self._above, np.minimum(here + 1, last)[:, None], 1)[:, 0].astype(np.float64)
        return (low + (high - low) * within) / np.maximum(self.rows, 1)


def _bins(scores: np.ndarray) -> np.ndarray:
    keys = np.ascontiguousarray(scores, np.float64).view(np.int64) >> _DROPPED
    return np.clip(keys - _FIRST, 0, _BINS - 1)
