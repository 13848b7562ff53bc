"""Whether a change of a unit's netlist changes what it computes: SAT sweeping over wires that have the same name.

yosys puts both netlists side by side, with the registers opened: their outputs are shared free inputs, their inputs
outputs that must agree. Everything that the change does not reach is then the same logic twice, and merges. What is
left is walked from inputs to outputs. A pair of wires of the same name that is proven equal becomes one, so that
whatever reads it merges too.
"""

import re
import tempfile
import time
from pathlib import Path
from types import TracebackType

from ..hdl.design import Design
from ..hdl.yosys import run_yosys
from .netlist import FLATTEN, Definition, definitions
from .solver import Solver

__all__ = ["Equivalence"]

_PAIR_SECONDS = 2
_TRIGGER = "trigger"


class Equivalence:
    """A unit, flattened once, whose changes are tried one after the other. A context manager."""

    def __init__(self, design: Design, *, right: str = ""):
        """What changes must be equal to is the unit after the yosys commands `right`, if there are any.

        Only registers and ports keep public names: `expose` would compare every wire that has one.
        """
        self._name = design.name
        self._folder = tempfile.TemporaryDirectory(prefix="fgmp-equivalent-")
        self._work = Path(self._folder.name)
        (self._work / "unit.v").write_text(design.verilog)
        script = f"""
read_verilog unit.v; hierarchy -check -top {self._name}; proc; blackbox *fgmp_ram_1r1w*
{FLATTEN}; memory_map
select -set registers t:*dff* %co1:+[Q] t:*dff* %d
rename -hide w:* @registers %d
write_rtlil whole.il
{right}
rename {self._name} gold
select gold; write_rtlil -selected gold.il
"""
        (self._work / "begin.ys").write_text(script)
        run_yosys(self._work, self._name, "-s", "begin.ys")

    def __enter__(self) -> "Equivalence":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def holds(self, change: str, seconds: float) -> bool:
        """Whether the yosys commands `change` leave the unit as it is, as far as so many `seconds` of solving show.

        False where they do not suffice, or where it is equal only in states that are never reached. Memories are
        outside: what goes into them must agree, and what comes out is anything. A clock gate passes its clock on, and
        a value that is undefined counts as 0.
        """
        lines = self._both(change)
        return lines is not None and _Sweep(time.monotonic() + seconds).prove(lines)

    def _both(self, change: str) -> list[Definition] | None:
        """The definitions of both netlists' logic; None where `change` does not apply."""
        script = f"""
read_rtlil whole.il
{change}
rename {self._name} gate
read_rtlil gold.il
expose -evert -evert-dff -shared gold gate
miter -equiv -flatten gold gate both
hierarchy -top both; opt_expr; opt_merge; opt_expr; opt_clean
write_smt2 both.smt2
"""
        (self._work / "prove.ys").write_text(script)
        try:
            run_yosys(self._work, self._name, "-s", "prove.ys")
        except RuntimeError:
            return None
        text = (self._work / "both.smt2").read_text()
        # A register that is still inside would be free, and what it takes would not be compared.
        return None if "yosys-smt2-register" in text else list(definitions(text))


class _Sweep:
    def __init__(self, end: float):
        self._end = end
        self._same: dict[str, str] = {}  # numbers whose value another number has
        self._known: dict[tuple[str, str], str] = {}  # by sort and term
        self._wires: dict[tuple[str, str], str] = {}  # by sort and name without its side

    def prove(self, lines: list[Definition]) -> bool:
        """Whether the trigger, which says that outputs differ, can never be true."""
        with Solver(_PAIR_SECONDS) as solver:
            for line in lines:
                if line.number == _TRIGGER:
                    return solver.ask(self._read(line)) is False
                self._take(solver, line)
        raise AssertionError("yosys wrote no trigger")

    def _take(self, solver: Solver, line: Definition) -> None:
        if line.term is None:
            solver.tell(f"(declare-fun {_symbol(line.number)} () {line.sort})")
            return
        term = self._read(line)
        if (known := self._known.setdefault((line.sort, term), line.number)) != line.number:
            self._same[line.number] = known
            return
        solver.tell(f"(define-fun {_symbol(line.number)} () {line.sort} {term})")
        place = line.sort, re.sub(r"\b(gold|gate)\b|(?<=\\)(gold|gate)(?=_)", "", line.wire)
        other = self._wires.setdefault(place, line.number)
        if other == line.number or time.monotonic() > self._end:
            return
        if solver.ask(f"(not (= {_symbol(other)} {_symbol(line.number)}))") is False:
            self._same[line.number] = other

    def _read(self, line: Definition) -> str:
        return line.reading(lambda number: _symbol(self._same.get(number, number)))


def _symbol(number: str) -> str:
    """In bars: what a mutation adds has a name with colons in place of a number."""
    return f"|n{number}|"
