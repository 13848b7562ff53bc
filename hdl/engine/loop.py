"""How work is counted: nested loops, dimensions cut into tiles, and slots that are filled and freed in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, ValueLike

from ..pipeline import wire
from .config import TILE_BLOCKS, EngineConfig

__all__ = ["Extent", "Loop", "Ring", "extents", "loops"]


class Loop:
    """A loop variable: `value` runs from 0 to `final`, `last` is high at the end."""

    def __init__(self, m: Module, name: str, final: Value):
        self.value = Signal(len(final), name=name)
        self.last = wire(m, f"{name}_last", self.value == final)


def loops(m: Module, step: ValueLike, finals: Sequence[tuple[str, Value]]) -> tuple[list[Loop], Value]:
    """Loop variables, the outermost first, that move while `step` is high; and whether all stand at their end.

    `finals` are their names and last values. After the end they stand at 0 again.
    """
    levels = [Loop(m, name, final) for name, final in finals]
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


@dataclass(frozen=True)
class Extent:
    """A dimension cut into tiles: the last tile's index, and how far the last and every other tile go."""

    final_tile: Value
    last: Value
    others: int

    def final(self, is_last: Value) -> Value:
        """Last index inside a tile."""
        return Mux(is_last, self.last, self.others)


def extents(config: EngineConfig, size: Any) -> tuple[Extent, Extent, Extent]:
    """The tiles of M, N and K of a `GemmSize`."""
    return (
        Extent(size.m_tile_final, size.row_final, config.rows - 1),
        Extent(size.n_tile_final, size.lane_final, config.lanes - 1),
        Extent(size.k_tile_final, size.block_final, TILE_BLOCKS - 1),
    )


class Ring:
    """Slots of a buffer that are filled in order and freed in order."""

    def __init__(self, m: Module, name: str, slots: int, push: Value, pop: Value):
        self.newest = Signal(range(slots), name=f"{name}_newest")
        self.oldest = Signal(range(slots), name=f"{name}_oldest")
        self.filled = Signal(range(slots + 1), name=f"{name}_filled")
        self.full = wire(m, f"{name}_full", self.filled == slots)
        m.d.sync += self.filled.eq(self.filled + push - pop)
        with m.If(push):
            m.d.sync += self.newest.eq(self.newest + 1)
        with m.If(pop):
            m.d.sync += self.oldest.eq(self.oldest + 1)
