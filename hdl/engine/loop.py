"""Nested loops in hardware, and counters that say how full something is."""

from collections.abc import Sequence

from amaranth.hdl import Module, Signal, Value, ValueLike

from ..pipeline import wire

__all__ = ["Level", "loops"]


class Level:
    """A loop variable: `value` runs from 0 to `final`, `last` is high at the end."""

    def __init__(self, m: Module, name: str, final: Value):
        self.value = Signal(len(final), name=name)
        self.last = wire(m, f"{name}_last", self.value == final)


def loops(m: Module, step: ValueLike, finals: Sequence[tuple[str, Value]]) -> tuple[list[Level], Value]:
    """Loop variables, the outermost first, that move while `step` is high; and whether all stand at their end.

    `finals` are their names and last values. After the end they stand at 0 again.
    """
    levels = [Level(m, name, final) for name, final in finals]
    carry = Value.cast(step)
    for level in reversed(levels):
        with m.If(carry):
            with m.If(level.last):
                m.d.sync += level.value.eq(0)
            with m.Else():
                m.d.sync += level.value.eq(level.value + 1)
        carry = carry & level.last
    final = levels[0].last
    for level in levels[1:]:
        final = final & level.last
    return levels, final
