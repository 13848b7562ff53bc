"""Plants mutants in a unit: all of them in one build, behind the input `fault_select`; number 0 is the unit itself."""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...formal.netlist import FLATTEN
from ...hdl.config import EngineConfig
from ...hdl.design import Design, Port, build_preset
from ...hdl.wrappers import RAM_MODULE, WRAPPERS
from ...hdl.yosys import run_yosys
from ...processes import exhausted, run_tool
from .choices import SELECT, SELECT_BITS

__all__ = ["Mutant", "Planted", "in_netlist", "in_source"]

_WAIVED = ("WIDTH", "UNUSED", "UNOPTFLAT", "DECLFILENAME", "CASEOVERLAP", "SYNCASYNCNET", "UNSIGNED", "CMPCONST")


@dataclass(frozen=True)
class Mutant:
    """`line` says what and where it is; `change`, as yosys commands on the flat unit `Planted.proven`, makes it."""

    number: int
    line: str
    change: str


@dataclass(frozen=True)
class Planted:
    """A unit with mutants.

    Attributes:
        faulty: with the input `fault_select`.
        proven: what mutants must be equivalent to, after the yosys commands `right`.
    """

    faulty: Design
    mutants: list[Mutant]
    proven: Design
    right: str = ""


def in_netlist(design: Design, count: int, seed: int) -> Planted:
    """`design` with `count` gates, bits and connections changed by yosys; a mutant's line is yosys' command."""
    with tempfile.TemporaryDirectory(prefix="fgmp-mutants-") as folder:
        work = Path(folder)
        (work / "unit.v").write_text(design.verilog)
        begin = f"read_verilog unit.v; hierarchy -check -top {design.name}; {FLATTEN}; write_rtlil flat.il"
        run_yosys(work, design.name, "-p", f"{begin}; mutate -list {count} -seed {seed} -o list.txt")
        lines = (work / "list.txt").read_text().splitlines()
        bits = len(lines).bit_length()
        script = ["read_rtlil flat.il", *(f"{line} -ctrl {SELECT} {bits} {i}" for i, line in enumerate(lines, 1))]
        (work / "mutate.ys").write_text("\n".join([*script, "opt_clean", "write_verilog -noattr mutated.v", ""]))
        run_yosys(work, design.name, "-s", "mutate.ys")
        faulty = _with_select(design, (work / "mutated.v").read_text(), bits)
    return Planted(faulty, [Mutant(i, line, line) for i, line in enumerate(lines, 1)], design)


def in_source(preset: str, changes: Sequence[str], name: str, count: int, seed: int) -> Planted:
    """The preset, as module `name`, with `count` operators, operands, bits, conditions and assignments of its
    description changed, or all if there are fewer."""
    design = build_preset(preset, changes, name)
    with tempfile.TemporaryDirectory(prefix="fgmp-mutants-") as folder:
        work = Path(folder)
        request = {
            "preset": preset,
            "changes": [*changes],
            "name": name,
            "count": count,
            "seed": seed,
            "folder": folder,
        }
        # Without the working directory on its path, where a file may be called like a module.
        command = [sys.executable, "-P", "-m", f"{__package__}.elaborate", json.dumps(request)]
        done = run_tool(command, cwd=work)
        if done.returncode:
            exhausted(done.stdout, folder)
            raise RuntimeError(f"{name}: its description cannot be rewritten\n{done.stdout[-2000:]}")
        lines = json.loads((work / "mutants.json").read_text())
        reads = ["read_rtlil unit.il"]
        if isinstance(design.config, EngineConfig):
            top = (work / "top.v").read_text().replace(f"module {name} (\n", f"module {name} (\n  {_INPUT},\n", 1)
            (work / "top.v").write_text(top.replace(f"{name}_core core (\n", f"{name}_core core (\n{_PASSED}", 1))
            (work / "wrappers.v").write_text("\n".join(WRAPPERS.values()))
            reads += ["read_verilog top.v wrappers.v"]
        script = [*reads, f"hierarchy -check -top {name}", f"setattr -mod -set keep_hierarchy 1 *{RAM_MODULE}*"]
        script += [*FLATTEN.split("; "), "opt_merge", "opt_clean"]
        # As in what is generated: reset defines the state.
        script += ["setattr -unset init w:*", "write_verilog -noattr mutated.v", ""]
        (work / "flatten.ys").write_text("\n".join(script))
        run_yosys(work, name, "-s", "flatten.ys")
        faulty = _with_select(design, (work / "mutated.v").read_text(), SELECT_BITS)
    mutants = [Mutant(i, line, _selected(i)) for i, line in enumerate(lines, 1)]
    return Planted(faulty, mutants, faulty, _selected(0))


_INPUT = f"input [{SELECT_BITS - 1}:0] {SELECT}"
_PASSED = f"    .{SELECT}({SELECT}),\n"


def _selected(number: int) -> str:
    hidden = f"rename -hide w:{SELECT}"  # else it would be compared
    return f"delete -input w:{SELECT}; connect -set {SELECT} {SELECT_BITS}'d{number}; {hidden}; opt_expr; opt_clean"


def _with_select(design: Design, verilog: str, bits: int) -> Design:
    waivers = "".join(f"/* verilator lint_off {name} */\n" for name in _WAIVED)
    return dataclasses.replace(
        design, verilog=waivers + verilog, ports=(*design.ports, Port(SELECT, "input", bits, {}))
    )
