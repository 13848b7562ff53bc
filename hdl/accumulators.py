"""Accumulators: the rows' sums of one output channel or several, with one read and one write a cycle."""

from functools import reduce
from operator import or_

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .hierarchy import add_part
from .pipeline import wire
from .ram import ram
from .unit_config import BANK_ROWS, AccumulatorConfig

__all__ = ["Accumulators"]


class _Bank(wiring.Component):
    """Eight rows of sums as registers; `sums` is 0 unless the bank is `selected`.

    Attributes:
        write: store `write_sums` in the row `write_row`.
        selected: the bank holds the row that is read.
        read_row: that row.
        sums: its sums, in the same cycle.
    """

    def __init__(self, width: int):
        self._width = width
        row = range(BANK_ROWS)
        super().__init__(
            {
                "write": In(1),
                "write_row": In(row),
                "write_sums": In(width),
                "selected": In(1),
                "read_row": In(row),
                "sums": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = [Signal(self._width, name=f"row_{index}", reset_less=True) for index in range(BANK_ROWS)]
        # What goes to another bank does not reach these registers.
        arriving = wire(m, "arriving", self.write_sums & self.write.replicate(self._width))
        parts = []
        for index, register in enumerate(rows):
            with m.If(self.write & (self.write_row == index)):
                m.d.sync += register.eq(arriving)
            chosen = wire(m, f"read_{index}", self.selected & (self.read_row == index))
            parts.append(register & chosen.replicate(self._width))
        # AND and OR, not a tree of multiplexers: only the row that was read and the one that is read turn anything.
        m.d.comb += self.sums.eq(reduce(or_, parts))
        return m


class Accumulators(wiring.Component):
    """Sums by row: one is read and another written in every cycle; a row is never both at once.

    With storage "banked" they are registers in banks of eight rows. A bank that is not written has its clock gated, its
    inputs and outputs stand still. With storage "memory" they are one instance of the memory wrapper, for FPGAs and
    macros. What a row holds before it is written is undefined.

    Attributes:
        write, write_row, write_sums: store the sums of a row.
        read, read_row: fetch the sums of a row.
        sums: those, from the next cycle until the next read.
    """

    def __init__(self, config: AccumulatorConfig):
        self.config = config
        super().__init__(
            {
                "write": In(1),
                "write_row": In(range(config.rows)),
                "write_sums": In(config.width),
                "read": In(1),
                "read_row": In(range(config.rows)),
                "sums": Out(config.width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        if config.storage == "memory":
            write, read = (self.write, self.write_row, self.write_sums), (self.read, self.read_row)
            m.d.comb += self.sums.eq(ram(m, "stored_sums", config.rows, write, read))
            return m
        low = (BANK_ROWS - 1).bit_length()
        banks = config.rows // BANK_ROWS

        def among(row: Value, index: int) -> Value:
            return row[low:] == index if banks > 1 else Const(1, 1)

        parts: list[Value] = []
        for index in range(banks):
            bank = _Bank(config.width)
            write = wire(m, f"write_{index}", self.write & among(self.write_row, index))
            add_part(m, platform, f"bank_{index}", bank, kind="bank", clock_enable=write)
            m.d.comb += [
                bank.write.eq(write),
                bank.write_row.eq(self.write_row[:low]),
                bank.write_sums.eq(self.write_sums),
                bank.selected.eq(wire(m, f"selected_{index}", among(self.read_row, index))),
                bank.read_row.eq(self.read_row[:low]),
            ]
            parts.append(bank.sums)
        sums = Signal(config.width, name="held_sums", reset_less=True)
        with m.If(self.read):
            m.d.sync += sums.eq(reduce(or_, parts))
        m.d.comb += self.sums.eq(sums)
        return m
