"""Adds many numbers at once: columns of bits, compressed by full adders to two rows that one adder joins."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from itertools import count, pairwise

from amaranth.hdl import Cat, Const, Module, Value

from .pipeline import wire

__all__ = ["Columns"]


class Columns:
    """Bits by weight, added modulo 2**width.

    `barriers` maps columns to signals: what is carried into such a column counts only while its signal is high. Where
    only the columns below matter, those above then stand still instead of following the sum's sign.

    Bits join with the time at which they are ready, in gate delays; the earliest are added first (the three-greedy
    approach of Stelling et al., IEEE Transactions on Computers 47(3), 1998).
    """

    def __init__(self, m: Module, name: str, width: int, barriers: Mapping[int, Value] | None = None):
        self._m = m
        self._barriers = dict(sorted((barriers or {}).items()))
        self._name = name
        self._columns: list[list[tuple[int, int, Value]]] = [[] for _ in range(width)]
        self._order = count()

    def add(self, bits: Value | Iterable[Value], at: int, ready: int = 0) -> None:
        """Add a number whose lowest bit has weight 2**at; bits beyond the width are dropped."""
        for offset, bit in enumerate(bits):
            self._bit(at + offset, bit, ready)

    def _bit(self, column: int, bit: Value, ready: int) -> None:
        if column < len(self._columns):
            heapq.heappush(self._columns[column], (ready, next(self._order), bit))

    def rows(self) -> tuple[Value, Value]:
        """Two numbers with the same sum, modulo 2**width."""
        for column, waiting in enumerate(self._columns):
            if len(waiting) > 2 and len(waiting) % 2:
                # Full adders would end with all bits in one and make the latest carry ripple from column to column.
                (_, _, x), (second, _, y) = heapq.heappop(waiting), heapq.heappop(waiting)
                self._bit(column, wire(self._m, f"{self._name}_sum", x ^ y), second + 1)
                self._bit(column + 1, self._carry(column + 1, x & y), second + 1)
            while len(waiting) > 2:
                (_, _, x), (second, _, y), (third, _, z) = (heapq.heappop(waiting) for _ in range(3))
                half = wire(self._m, f"{self._name}_half", x ^ y)
                self._bit(column, wire(self._m, f"{self._name}_sum", half ^ z), max(second + 2, third + 1))
                self._bit(column + 1, self._carry(column + 1, (x & y) | (half & z)), third + 2)
        lowest, other = ([c[i][2] if len(c) > i else Const(0, 1) for c in self._columns] for i in (0, 1))
        return Cat(lowest), Cat(other)

    def _carry(self, column: int, carry: Value) -> Value:
        barrier = self._barriers.get(column)
        return wire(self._m, f"{self._name}_carry", carry if barrier is None else carry & barrier)

    def join(self, first: Value, second: Value, barriers: Sequence[Value] | None = None) -> Value:
        """The sum of the two rows; `barriers`, if the rows have passed a register since, as they are by then."""
        enables = [*self._barriers.values()] if barriers is None else [*barriers]
        parts: list[Value] = []
        carry: Value = Const(0, 1)
        edges = [0, *self._barriers, len(self._columns)]
        for (start, end), enable in zip(pairwise(edges), [*enables, Const(1, 1)], strict=True):
            part = first[start:end] + second[start:end] + carry
            if end == len(self._columns):
                parts.append(part[: end - start])
            else:
                part = wire(self._m, f"{self._name}_part", part[: end - start + 1])
                parts.append(part[:-1])
                carry = wire(self._m, f"{self._name}_carry", part[-1] & enable)
        return Cat(parts)
