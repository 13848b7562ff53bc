"""Maps Verilog to a library's cells with yosys and abc."""

import fnmatch
import json
import tempfile
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...hdl.wrappers import CLOCK_GATE_MODULE
from ...hdl.wrappers import RAM_MODULE as _RAM
from ...hdl.yosys import run_yosys
from ..liberty.cells import Cell, StandardCells, WireLoad
from ..liberty.expression import truth_table, variables

__all__ = ["DONT_USE", "Mapped", "Target", "check_library", "map_design", "mapping_script", "occurrences"]

DONT_USE = ("*lpflow*", "*probe*", "*macro_sparecell*", "*__edf*", "*__sedf*", "*__sdf*", "*__sdlclk*")
"""Cells of SkyWater's library that need other supplies or serve other ends, and flip-flops with an enable or scan
input: they take more area than a multiplexer beside a plain one. Names elsewhere do not match."""

# One pass: the default script of abc with a delay target never ends on multipliers. dc2 saves a few percent of area and
# turns adders into ripple chains, so it belongs to those who want area.
_ABC = """\
strash
{area}&get -n
&dch -f
&nf -D {ps}
&put
buffer -c
topo
upsize -D {ps}
dnsize -D {ps}
"""
# Without delay tables there is nothing to size for.
_ABC_UNTIMED = """\
strash
dc2
map -a
"""
_INVERTER = (1, 0b01)
_BUFFER = (1, 0b10)
_AND_OR = {(2, table) for table in (0b0111, 0b0001, 0b1000, 0b1110)}


@dataclass(frozen=True)
class Target:
    """A library and how to map to it.

    Attributes:
        cells: the Liberty file, read.
        period: clock period in ns that sizing aims at.
        optimize: "speed" or "area".
        wire_load: model of the nets' wires, or None.
        clock_gates: whether registers that share an enable get a clock gate, where the library has one.
        dont_use: patterns of cells to leave alone.
    """

    cells: StandardCells
    wire_load: WireLoad | None = None
    period: float = 1.0
    optimize: str = "speed"
    clock_gates: bool = True
    dont_use: tuple[str, ...] = DONT_USE

    def gate_cell(self) -> Cell | None:
        """The smallest clock gate without a test pin that may be used, or the smallest one."""
        if not self.clock_gates:
            return None
        gates = [c for c in self.usable if c.clock_gate is not None]
        return min(gates, key=lambda c: (len(c.inputs), c.area), default=None)

    @property
    def usable(self) -> list[Cell]:
        """The cells that are not excluded."""
        return [self.cells.cell(name) for name in self.cells.cell_names if name not in self.excluded]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the mapping, for results."""
        return {
            "sizing_period_ns": self.period,
            "optimize": self.optimize,
            "clock_gates": self.clock_gates,
            "wire_load": self.wire_load.name if self.wire_load else None,
            "dont_use": list(self.dont_use),
        }

    @cached_property
    def excluded(self) -> frozenset[str]:
        """Names of the cells that are not used: the library's own `dont_use` and the patterns'."""
        patterns = self.dont_use
        found = {n for n in self.cells.cell_names if any(fnmatch.fnmatch(n, p) for p in patterns)}
        return frozenset(found.union(self.cells.hidden))


@dataclass(frozen=True)
class Mapped:
    """yosys' JSON of the mapped design, flat, and each module's cells by type before it was flattened.

    `instances` are how often each module occurs; `parts` are the modules' cells by type; memories are black boxes.
    """

    netlist: dict[str, Any]
    parts: dict[str, dict[str, int]]
    instances: dict[str, int]


def check_library(target: Target) -> None:
    """Raise InputError, naming the file and the cell, where the library cannot hold a synchronous design."""
    usable = target.usable
    gates = [c for c in usable if len(c.outputs) == 1 and c.flip_flop is None and 1 <= len(c.inputs) <= 2]
    tables = {
        (len(c.inputs), truth_table(c.pins[c.outputs[0]].function or "0", c.inputs))
        for c in gates
        if _reads_inputs(c, c.outputs[0])
    }
    what = None
    if not any(c.flip_flop and c.flip_flop.rising and c.flip_flop.next_state in c.inputs and c.outputs for c in usable):
        what = "D flip-flop of the rising edge"
    elif _INVERTER not in tables:
        what = "inverter"
    elif not tables & _AND_OR:
        what = "AND or OR gate of two inputs, inverted or not,"
    elif _BUFFER not in tables:
        what = "buffer"
    if what:
        raise InputError(f"{target.cells.source}: no {what} among {len(usable)} usable cells, expected one")


def mapping_script(verilog: str, top: str, target: Target, keep: tuple[str, ...]) -> list[str]:
    """The script of yosys and abc."""
    abc, genlib = _sizing(target)
    gate = _gate_rule(target)
    marks = [f"setattr -mod -set keep_hierarchy 1 {name}" for name in keep]
    return [
        "read_verilog design.v",
        *([f"blackbox {_RAM}"] if f"module {_RAM}" in verilog else []),
        f"hierarchy -check -top {top}",
        *(["read_liberty -lib library.lib", "techmap -map gate.v"] if gate and CLOCK_GATE_MODULE in verilog else []),
        *marks,
        f"synth -flatten -noabc -top {top}",
        *_gating(target),
        "dfflibmap -liberty library.lib",
        "opt_clean -purge",
        "abc -script abc.script " + ("-genlib library.genlib" if genlib else "-liberty library.lib"),
        "setundef -zero",
        "opt_clean -purge",
        "tee -q -o stat.json stat -json",
        *(["setattr -mod -unset keep_hierarchy *", "flatten"] if keep else []),
        "rename -enumerate",
        "opt_clean -purge",
        "write_json netlist.json",
        abc,
        genlib or "",
        gate or "",
    ]


def _sizing(target: Target) -> tuple[str, str | None]:
    """abc's script, and a genlib library for it in place of the Liberty file where that has no usable delays."""
    # Of tie cells, which have no inputs, no delay is expected.
    gates = [
        c
        for c in target.usable
        if c.clock_pin is None and c.inputs and c.outputs and all(map(partial(_reads_inputs, c), c.outputs))
    ]
    outputs = [c.pins[name] for c in gates for name in c.outputs]
    tables = [t for pin in outputs for arc in pin.arcs for t in arc.delay.values()]
    # abc ends without a word where a delay does not depend on the load.
    if all(pin.arcs for pin in outputs) and all(np.ptp(t.values, axis=1).any() for t in tables):
        return _ABC.format(ps=round(target.period * 1000), area="dc2\n" if target.optimize == "area" else ""), None
    lines = ["GATE _const0_ 0 z=CONST0;", "GATE _const1_ 0 z=CONST1;"]
    lines += [_genlib(cell) for cell in gates if len(cell.outputs) == 1 and 1 <= len(cell.inputs) <= 6]
    return _ABC_UNTIMED, "\n".join(lines) + "\n"


def _genlib(cell: Cell) -> str:
    output, inputs = cell.outputs[0], cell.inputs
    table = truth_table(cell.pins[output].function or "0", inputs)
    terms = [
        "*".join(name if i >> j & 1 else f"!{name}" for j, name in enumerate(inputs))
        for i in range(1 << len(inputs))
        if table >> i & 1
    ]
    return f"GATE {cell.name} {cell.area} {output}={'+'.join(terms) or 'CONST0'}; PIN * UNKNOWN 1 999 1 0 1 0"


def _reads_inputs(cell: Cell, output: str) -> bool:
    return set(variables(cell.pins[output].function or "0")) <= set(cell.inputs)


_SAY_NOTHING = ("cmd error", "Trap:", "Traceback", "Memory =")

_FEWEST_GATED = 8
"""A clock gate takes about as much as the clock pins of so many flip-flops save when they rest half of the time."""


def _gating(target: Target) -> list[str]:
    cell = target.gate_cell()
    if cell is None or cell.clock_gate is None:
        return []
    gate = cell.clock_gate
    enable, *test = gate.enable_pins
    ports = f"-pos {cell.name} {enable}:{gate.clock_pin}:{gate.output}"
    tie = [f"-tie_lo {pin}" for pin in test]
    return [" ".join(["clockgate", ports, f"-min_net_size {_FEWEST_GATED}", *tie]), "opt_clean -purge"]


def _gate_rule(target: Target) -> str | None:
    """The clock gate wrapper as a cell of the library, for yosys' `techmap`."""
    cell = target.gate_cell()
    if cell is None or cell.clock_gate is None:
        return None
    gate = cell.clock_gate
    enable, *test = gate.enable_pins
    pins = {gate.clock_pin: "clk", enable: "enable", gate.output: "gated_clk", **dict.fromkeys(test, "1'b0")}
    connections = ", ".join(f".{pin}({net})" for pin, net in pins.items())
    return (
        f"module {CLOCK_GATE_MODULE} (input clk, input enable, output gated_clk);\n"
        f"  {cell.name} gate ({connections});\nendmodule\n"
    )


def map_design(verilog: str, top: str, target: Target, keep: tuple[str, ...] = ()) -> Mapped:
    """Map `top`; modules in `keep` are mapped once each and counted. Raises InputError where the library lacks a cell.

    Takes seconds for a lane, a minute or two for an engine of 16 lanes.
    """
    check_library(target)
    *script, abc, genlib, gate = mapping_script(verilog, top, target, keep)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "design.v").write_text(verilog)
        (work / "library.lib").write_text(target.cells.without(target.excluded))
        (work / "abc.script").write_text(abc)
        (work / "library.genlib").write_text(genlib)
        (work / "gate.v").write_text(gate)
        (work / "script.ys").write_text("\n".join(script))
        try:
            run_yosys(work, top, "-s", "script.ys")
        except RuntimeError as error:
            # The design maps to libraries that are in order, so it is this one.
            raise InputError(f"{target.cells.source}: yosys cannot map to it: {_reason(str(error))}") from error
        statistics = json.loads((work / "stat.json").read_text())
        netlist = json.loads((work / "netlist.json").read_text())["modules"][top]
    unmapped = sorted({c["type"] for c in netlist["cells"].values() if c["type"].startswith("$")})
    if unmapped:
        raise InputError(f"{target.cells.source}: no cell for {', '.join(unmapped)}, expected one")
    parts = {name.removeprefix("\\"): m["num_cells_by_type"] for name, m in statistics["modules"].items()}
    instances = {name: occurrences(name, top, parts) for name in parts}
    return Mapped(netlist, parts, instances)


def _reason(messages: str) -> str:
    """The line that says most: an error that is not about a script or WebAssembly, else the last one before that."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    empty = [i for i, line in enumerate(lines) if any(word in line for word in _SAY_NOTHING)]
    lines = lines[: empty[0]] if empty and empty[0] else lines
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])


def occurrences(name: str, top: str, parts: dict[str, dict[str, int]]) -> int:
    """How often a module occurs below `top`; `parts` are the modules' cells by type."""
    if name == top:
        return 1
    users = {parent: cells[name] for parent, cells in parts.items() if name in cells and parent != name}
    return sum(count * occurrences(parent, top, parts) for parent, count in users.items())
