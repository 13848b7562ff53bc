"""A unit's logic as SMT-LIB definitions: yosys flattens it and opens its registers, so that it is a pure function.

A register `r` becomes an input `r.q`, its value in a cycle, and an output `r.d`, its value in the next. Cycles are
copies of the function, one feeding the other.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..hdl.yosys import run_yosys
from .solver import Solver

__all__ = ["FLATTEN", "Definition", "Netlist", "definitions", "open_netlist"]

FLATTEN = "proc; flatten; opt_expr; opt_clean"
"""The passes between Verilog and the netlist in which everything is looked at."""


@dataclass(frozen=True)
class Definition:
    """Of a value.

    Attributes:
        number: what it is called.
        sort: of SMT-LIB, a bit vector or Bool.
        term: in terms of other values, as `(|MODULE#NUMBER| state)`; None for an input or a part of one.
        wire: the name of the wire.
    """

    number: str
    sort: str
    term: str | None
    wire: str

    def reading(self, name: Callable[[str], str]) -> str:
        """The term, with the values that it reads called as `name` says, by number."""
        assert self.term is not None
        return _READ.sub(lambda match: name(match[1]), self.term)


_LINE = re.compile(r"\((declare|define)-fun \|\w+#(\d+)\| .*?\|\w+_s\|\)+ (\(_ BitVec \d+\)|Bool) ?(.*)\) ; (.*)$")
_OUTPUT = re.compile(r"\(define-fun \|\w+_n ([^|]+)\| \(\(state \|\w+_s\|\)\) (\(_ BitVec \d+\)|Bool) (.*)\)$")
_READ = re.compile(r"\(\|\w+#(\d+)\| state\)")
_PARTS = re.compile(r"\\(\S+)(?: \[(\d+)(?::(\d+))?\])?")


def definitions(smt2: str) -> Iterator[Definition]:
    """What yosys' `write_smt2` wrote of one flat module without registers, inputs first, every use after its
    definition. Ports have their name for a number."""
    for line in smt2.splitlines():
        if match := _LINE.match(line):
            kind, number, sort, term, wire = match.groups()
            yield Definition(number, sort, term if kind == "define" else None, wire)
        elif match := _OUTPUT.match(line):
            yield Definition(match[1], match[2], match[3], match[1])


@dataclass(frozen=True)
class Netlist:
    """`inputs` and `outputs` are widths by name; registers are among both."""

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    logic: tuple[Definition, ...]

    @property
    def registers(self) -> list[str]:
        """Their names."""
        return [name.removesuffix(".q") for name in self.inputs if name.endswith(".q")]

    def cycle(self, solver: Solver, tag: str, given: Mapping[str, str]) -> dict[str, str]:
        """Define one cycle's values, all called `tag` and something; what is not `given`, by input, is free.

        Returns the terms of inputs and outputs, all of them bit vectors.
        """
        terms = {}
        for name, width in self.inputs.items():
            terms[name] = given.get(name, f"|{tag} {name}|")
            if name not in given:
                solver.tell(f"(declare-fun |{tag} {name}| () (_ BitVec {width}))")
        names: dict[str, str] = {}
        for line in self.logic:
            own = names[line.number] = f"|{tag}#{line.number}|"
            if line.term is None:
                term = self._part(line.wire, terms)
                if line.sort == "Bool":
                    term = f"(= {term} #b1)"
            else:
                term = line.reading(names.__getitem__)
            solver.tell(f"(define-fun {own} () {line.sort} {term})")
            if line.number in self.outputs:
                terms[line.number] = f"(ite {own} #b1 #b0)" if line.sort == "Bool" else own
        return terms

    def run(self, solver: Solver, tag: str, given: list[Mapping[str, str]]) -> list[dict[str, str]]:
        """So many cycles one after the other, from registers of any value."""
        cycles: list[dict[str, str]] = []
        for number, values in enumerate(given):
            before = {f"{name}.q": cycles[-1][f"{name}.d"] for name in self.registers} if cycles else {}
            cycles.append(self.cycle(solver, f"{tag}{number}", {**before, **values}))
        return cycles

    @staticmethod
    def _part(wire: str, terms: Mapping[str, str]) -> str:
        """A part of an input, `\\name [high:low]`, or several, as yosys names them."""
        parts = []
        for name, high, low in _PARTS.findall(wire):
            parts.append(f"((_ extract {high} {low or high}) {terms[name]})" if high else terms[name])
        return parts[0] if len(parts) == 1 else f"(concat {' '.join(parts)})"


def open_netlist(verilog: str, top: str) -> Netlist:
    """The module `top` of a Verilog text. What comes out of memories is free, and what goes in is an output."""
    with tempfile.TemporaryDirectory(prefix="fgmp-netlist-") as folder:
        work = Path(folder)
        (work / "unit.v").write_text(verilog)
        script = (
            f"read_verilog unit.v; hierarchy -check -top {top}; proc; blackbox *fgmp_ram_1r1w*; {FLATTEN}; memory_map"
        )
        script += "; expose -evert -evert-dff; opt_expr; opt_merge; opt_clean; write_smt2 unit.smt2"
        run_yosys(work, top, "-p", script)
        text = (work / "unit.smt2").read_text()
    ports: dict[str, dict[str, int]] = {"input": {}, "output": {}}
    for kind, name, width in re.findall(r"^; yosys-smt2-(input|output) (\S+) (\d+)$", text, re.MULTILINE):
        ports[kind][name] = int(width)
    logic = tuple(d for d in definitions(text) if d.number.isdigit() or d.number in ports["output"])
    return Netlist(ports["input"], ports["output"], logic)
