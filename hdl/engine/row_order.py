"""In which order the rows of a step are visited: by precision, so that the lanes seldom change their precision mode."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import wire
from ..unit_config import RowOrderConfig

__all__ = ["RowOrder"]


class RowOrder(wiring.Component):
    """Offers the rows of one step after the other, one a cycle.

    Rows of the precision that the last row had come first, then the others, both ascending: the direction alternates
    from step to step. Without `sort` they simply ascend.

    Attributes:
        load: take the next step: rows 0 to `row_final`, `fp8` of each, and `sort`. Only while `ready`.
        ready: a step may be loaded.
        taken: the row on offer is taken.
        valid: a row is on offer: `row`, its precision `row_fp8`, `first` and `last` of its step.
        begins: the step's first row is about to be offered; what goes with the step is to be copied.
    """

    def __init__(self, config: RowOrderConfig):
        self.config = config
        rows = config.rows
        super().__init__(
            {
                "load": In(1),
                "row_final": In(range(rows)),
                "fp8": In(rows),
                "sort": In(1),
                "ready": Out(1),
                "taken": In(1),
                "valid": Out(1),
                "row": Out(range(rows)),
                "row_fp8": Out(1),
                "first": Out(1),
                "last": Out(1),
                "begins": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = self.config.rows
        remaining = Signal(rows)
        fp8 = Signal(rows, reset_less=True)
        sort = Signal(reset_less=True)
        fresh = Signal()  # no row of the step was offered yet
        same = wire(m, "same", remaining & ~(fp8 ^ self.row_fp8.replicate(rows)))
        candidates = wire(m, "candidates", Mux(sort & same.any(), same, remaining))
        lowest = wire(m, "lowest", candidates & (~candidates + 1)[:rows])
        rest = wire(m, "rest", remaining & ~lowest)
        index = Cat(Cat(lowest[i] for i in range(rows) if i >> bit & 1).any() for bit in range((rows - 1).bit_length()))
        offer = wire(m, "offer", remaining.any() & (~self.valid | self.taken))
        # One row is left: known without knowing which is next.
        is_last = wire(m, "is_last", ~(remaining & (remaining - 1)[:rows]).any())
        m.d.comb += [self.ready.eq(~remaining.any() | (offer & is_last)), self.begins.eq(offer & fresh)]
        with m.If(offer):
            m.d.sync += [
                self.valid.eq(1),
                self.row.eq(index),
                self.row_fp8.eq((lowest & fp8).any()),
                self.first.eq(fresh),
                self.last.eq(is_last),
                remaining.eq(rest),
                fresh.eq(0),
            ]
        with m.Elif(self.taken):
            m.d.sync += self.valid.eq(0)
        with m.If(self.load):
            up_to = Cat(Const(1, 1), *(self.row_final >= i for i in range(1, rows)))
            m.d.sync += [remaining.eq(up_to), fp8.eq(self.fp8), sort.eq(self.sort), fresh.eq(1)]
        return m
