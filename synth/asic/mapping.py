"""Maps Verilog to a library's cells with yosys and abc."""

import fnmatch
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...hdl.yosys import run_yosys
from ..liberty.cells import Cell, StandardCells, WireLoad
from ..liberty.expression import truth_table, variables

__all__ = ["DONT_USE", "Mapped", "Target", "check_library", "map_design", "mapping_script"]

DONT_USE = ("*lpflow*", "*probe*", "*dlclk*", "*macro_sparecell*")
"""Cells of SkyWater's library that need other supplies or serve other ends; names elsewhere do not match."""

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
_RAM = "fgmp_ram_1r1w"
_INVERTER = 0b01
_UNIVERSAL = {0b0111, 0b0001}


@dataclass(frozen=True)
class Target:
    """A library and how to map to it.

    Attributes:
        cells: the Liberty file, read.
        period: clock period in ns that sizing aims at.
        optimize: "speed" or "area".
        wire_load: model of the nets' wires, or None.
        dont_use: patterns of cells to leave alone.
    """

    cells: StandardCells
    wire_load: WireLoad | None = None
    period: float = 1.0
    optimize: str = "speed"
    dont_use: tuple[str, ...] = DONT_USE

    @property
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
    usable = [target.cells.cell(name) for name in target.cells.cell_names if name not in target.excluded]
    gates = [c for c in usable if len(c.outputs) == 1 and c.flip_flop is None and 1 <= len(c.inputs) <= 2]
    tables = {truth_table(c.pins[c.outputs[0]].function or "0", c.inputs) for c in gates if _combinational(c)}
    what = None
    if not any(c.flip_flop and c.flip_flop.next_state in c.inputs and c.outputs for c in usable):
        what = "D flip-flop"
    elif _INVERTER not in tables:
        what = "inverter"
    elif not tables & _UNIVERSAL:
        what = "NAND or NOR gate of two inputs"
    if what:
        raise InputError(f"{target.cells.source}: no {what} among {len(usable)} usable cells, expected one")


def _combinational(cell: Cell) -> bool:
    return set(variables(cell.pins[cell.outputs[0]].function or "0")) <= set(cell.inputs)


def mapping_script(verilog: str, top: str, target: Target, keep: tuple[str, ...]) -> list[str]:
    """What yosys and abc are told."""
    marks = [f"setattr -mod -set keep_hierarchy 1 {name}" for name in keep]
    return [
        "read_verilog design.v",
        *([f"blackbox {_RAM}"] if f"module {_RAM}" in verilog else []),
        f"hierarchy -check -top {top}",
        *marks,
        f"synth -flatten -noabc -top {top}",
        "dfflibmap -liberty library.lib",
        "opt_clean -purge",
        "abc -liberty library.lib -script abc.script",
        "setundef -zero",
        "opt_clean -purge",
        "tee -q -o stat.json stat -json",
        *(["setattr -mod -unset keep_hierarchy *", "flatten"] if keep else []),
        "rename -enumerate",
        "opt_clean -purge",
        "write_json netlist.json",
        _ABC.format(ps=round(target.period * 1000), area="dc2\n" if target.optimize == "area" else ""),
    ]


def map_design(verilog: str, top: str, target: Target, keep: tuple[str, ...] = ()) -> Mapped:
    """Map `top`; modules in `keep` are mapped once each and counted. Raises InputError where the library lacks a cell.

    Takes seconds for a lane, a minute or two for an engine of 16 lanes.
    """
    check_library(target)
    *script, abc = mapping_script(verilog, top, target, keep)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "design.v").write_text(verilog)
        (work / "library.lib").write_text(target.cells.without(target.excluded))
        (work / "abc.script").write_text(abc)
        (work / "script.ys").write_text("\n".join(script))
        run_yosys(work, top, "-s", "script.ys")
        statistics = json.loads((work / "stat.json").read_text())
        netlist = json.loads((work / "netlist.json").read_text())["modules"][top]
    unmapped = sorted({c["type"] for c in netlist["cells"].values() if c["type"].startswith("$")})
    if unmapped:
        raise InputError(f"{target.cells.source}: no cell for {', '.join(unmapped)}, expected one")
    parts = {name.removeprefix("\\"): m["num_cells_by_type"] for name, m in statistics["modules"].items()}
    instances = {name: _occurrences(name, top, parts) for name in parts}
    return Mapped(netlist, parts, instances)


def _occurrences(name: str, top: str, parts: dict[str, dict[str, int]]) -> int:
    if name == top:
        return 1
    return sum(cells.get(name, 0) * _occurrences(parent, top, parts) for parent, cells in parts.items() if parent != name)
