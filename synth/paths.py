"""Which outputs of a unit depend on which inputs in the same cycle: what AXI forbids, and timing budgets need."""

import json
import tempfile
from collections import defaultdict
from pathlib import Path

from ..hdl.verilog import Design
from ..hdl.yosys import run_yosys

__all__ = ["combinational_paths"]

_SCRIPT = (
    "read_verilog design.v; hierarchy -check -top {top}; proc; flatten; opt_clean; memory_collect; simplemap; opt; "
    "opt_clean; write_json netlist.json"
)


def combinational_paths(design: Design) -> dict[str, set[str]]:
    """By input port, the output ports that it reaches without a register in between; inputs without any are left out.

    Taken from yosys' netlist of the whole hierarchy, bit by bit but for arithmetic, whose every output bit counts as
    depending on every input bit.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "design.v").write_text(design.verilog)
        run_yosys(work, design.name, "-p", _SCRIPT.format(top=design.name))
        module = json.loads((work / "netlist.json").read_text())["modules"][design.name]
    reached = defaultdict[int, list[int]](list)  # by net: the nets that follow from it
    for cell in module["cells"].values():
        if _is_register(cell["type"]):
            continue
        directions = cell["port_directions"]
        memory = cell["type"].lower().startswith("$mem")  # read at once by address, written at the clock
        inputs = [p for p in cell["connections"] if directions[p] == "input" and (not memory or "RD_ADDR" in p)]
        into = [n for p in inputs for n in cell["connections"][p]]
        out = [n for p, nets in cell["connections"].items() if directions[p] == "output" for n in nets]
        for net in into:
            if isinstance(net, int):
                reached[net] += [n for n in out if isinstance(n, int)]
    outputs = defaultdict[int, set[str]](set)
    for name, port in module["ports"].items():
        if port["direction"] == "output":
            for net in port["bits"]:
                outputs[net].add(name)
    paths = {}
    for name, port in module["ports"].items():
        if port["direction"] != "input":
            continue
        seen = {net for net in port["bits"] if isinstance(net, int)}
        stack = list(seen)
        while stack:
            following = [net for net in reached[stack.pop()] if net not in seen]
            seen.update(following)
            stack += following
        found = set().union(*(outputs[net] for net in seen if net in outputs))
        if found:
            paths[name] = found
    return paths


def _is_register(kind: str) -> bool:
    kind = kind.lower()
    return "dff" in kind or "dlatch" in kind or kind.startswith("$sr")
