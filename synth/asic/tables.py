"""Many lookup tables at once: NLDM tables padded to one shape, looked up by index without a loop."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..liberty.cells import Table

__all__ = ["TableBank"]

Floats = NDArray[np.float64]


class TableBank:
    """Bilinear lookup in a list of tables; entry -1 (no table) gives 0."""

    def __init__(self, tables: Sequence[Table]):
        rows = max([len(t.first) for t in tables], default=1) + 1
        columns = max([len(t.second) for t in tables], default=1) + 1
        count = len(tables) + 1
        self._first = np.full((count, rows), np.inf)
        self._second = np.full((count, columns), np.inf)
        self._values = np.zeros((count, rows, columns))
        self._rows = np.ones(count, dtype=np.int64)
        self._columns = np.ones(count, dtype=np.int64)
        for i, table in enumerate(tables):
            self._first[i, : len(table.first)] = table.first
            self._second[i, : len(table.second)] = table.second
            self._values[i, : len(table.first), : len(table.second)] = table.values
            self._rows[i], self._columns[i] = len(table.first), len(table.second)
        self._first[-1, 0] = self._second[-1, 0] = 0.0

    def at(self, index: NDArray[np.int64], first: Floats, second: Floats) -> Floats:
        """Values of the tables `index` at (first, second); the edges' segments continue beyond them."""
        i, u = self._place(self._first[index], self._rows[index], first)
        j, v = self._place(self._second[index], self._columns[index], second)
        z = self._values
        i2, j2 = np.minimum(i + 1, self._rows[index] - 1), np.minimum(j + 1, self._columns[index] - 1)
        low = (1 - v) * z[index, i, j] + v * z[index, i, j2]
        high = (1 - v) * z[index, i2, j] + v * z[index, i2, j2]
        result: Floats = (1 - u) * low + u * high
        return result

    @staticmethod
    def _place(axes: Floats, sizes: NDArray[np.int64], at: Floats) -> tuple[NDArray[np.int64], Floats]:
        low = np.clip((axes <= at[:, None]).sum(axis=1) - 1, 0, np.maximum(sizes - 2, 0))
        rows = np.arange(len(low))
        start = axes[rows, low]
        width = axes[rows, np.minimum(low + 1, axes.shape[1] - 1)] - start
        single = sizes == 1
        fraction = np.where(single, 0.0, (at - start) / np.where(single, 1.0, width))
        return low, fraction
