"""Adds many numbers at once: rows of bits, compressed by full adders to two that one adder joins.

Full adders are written on whole rows, not bit by bit: the same gates, and a simulator does a row in one step.
"""

import heapq
from collections.abc import Mapping, Sequence
from itertools import count, pairwise

from amaranth.hdl import Cat, Const, Module, Value

from .pipeline import wire

__all__ = ["Rows", "ones"]


class _Queue:
    """Values with the time at which they are ready, in gate delays: the earliest are added first (the three-greedy
    approach of Stelling et al., IEEE Transactions on Computers 47(3), 1998).
    """

    def __init__(self) -> None:
        self._order = count()
        self._heap: list[tuple[int, int, Value]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, value: Value, ready: int) -> None:
        heapq.heappush(self._heap, (ready, next(self._order), value))

    def pop(self) -> tuple[int, Value]:
        ready, _, value = heapq.heappop(self._heap)
        return ready, value


def _full_adder(m: Module, name: str, queue: _Queue) -> tuple[tuple[Value, int], tuple[Value, int]]:
    """Sum and carry, bit by bit, of the three earliest values, each with the time at which it is ready."""
    (_, x), (second, y), (third, z) = (queue.pop() for _ in range(3))
    half = wire(m, f"{name}_half", x ^ y)
    total = wire(m, f"{name}_sum", half ^ z)
    carry = wire(m, f"{name}_carry", (x & y) | (half & z))
    return (total, max(second + 2, third + 1)), (carry, third + 2)


class Rows:
    """Numbers, added modulo 2**width.

    `barriers` maps columns to signals: what is carried into such a column counts only while its signal is high. Where
    only the columns below matter, those above then stand still instead of following the sum's sign.
    """

    def __init__(self, m: Module, name: str, width: int, barriers: Mapping[int, Value] | None = None):
        self._m = m
        self._barriers = dict(sorted((barriers or {}).items()))
        self._name = name
        self._width = width
        self._queue = _Queue()

    def add(self, number: Value, at: int = 0, ready: int = 0) -> None:
        """Add a number whose lowest bit has weight 2**at; bits beyond the width are dropped."""
        missing = max(self._width - at - len(number), 0)
        self._queue.push(Cat(Const(0, at), number, Const(0, missing))[: self._width], ready)

    def two(self) -> tuple[Value, Value]:
        """Two numbers with the same sum, modulo 2**width."""
        while len(self._queue) > 2:
            total, (carry, ready) = _full_adder(self._m, self._name, self._queue)
            self._queue.push(*total)
            carried = [Const(0, 1), *carry[: self._width - 1]]
            for column, barrier in self._barriers.items():
                carried[column] &= barrier
            self._queue.push(wire(self._m, f"{self._name}_carried", Cat(carried)), ready)
        return self._queue.pop()[1], self._queue.pop()[1]

    def join(self, first: Value, second: Value, barriers: Sequence[Value] | None = None) -> Value:
        """The sum of the two rows; `barriers`, if the rows have passed a register since, as they are by then."""
        enables = [*self._barriers.values()] if barriers is None else [*barriers]
        parts: list[Value] = []
        carry: Value = Const(0, 1)
        edges = [0, *self._barriers, self._width]
        for (start, end), enable in zip(pairwise(edges), [*enables, Const(1, 1)], strict=True):
            part = first[start:end] + second[start:end] + carry
            if end == self._width:
                parts.append(part[: end - start])
            else:
                part = wire(self._m, f"{self._name}_part", part[: end - start + 1])
                parts.append(part[:-1])
                carry = wire(self._m, f"{self._name}_carry_on", part[-1] & enable)
        return Cat(parts)


def ones(m: Module, name: str, vectors: Sequence[Value]) -> list[Value]:
    """How many of the vectors have a bit set, for each of their bits: as vectors again, by weight."""
    weights = len(vectors).bit_length()
    columns = [_Queue() for _ in range(weights + 1)]
    for vector in vectors:
        columns[0].push(vector, 0)
    found = []
    for column, following in pairwise(columns):
        while len(column) > 2:
            total, carry = _full_adder(m, name, column)
            column.push(*total)
            following.push(*carry)
        if len(column) == 2:
            (_, x), (ready, y) = column.pop(), column.pop()
            column.push(wire(m, f"{name}_sum", x ^ y), ready + 1)
            following.push(wire(m, f"{name}_carry", x & y), ready + 1)
        found.append(column.pop()[1])
    return found
