"""Which outputs of a unit depend on which inputs in the same cycle: what AXI forbids, and timing budgets need."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..hdl.design import Design
from ..hdl.yosys import run_yosys

__all__ = ["combinational_paths"]

_SCRIPT = (
    "read_verilog design.v; {cut}hierarchy -check -top {top}; proc; flatten; opt_clean; memory_collect; simplemap; "
    "opt; opt_clean; write_json netlist.json"
)

Paths = dict[str, set[str]]


def combinational_paths(design: Design) -> Paths:
    """By input port, the output ports that it reaches without a register in between; inputs without any are left out.

    Taken from yosys' netlist, bit by bit but for arithmetic, whose every output bit counts as depending on every input
    bit. An engine's lane is looked at once, and then counts for all of its instances.
    """
    lane = f"{design.name}_core_lane"
    if f"module {lane}" not in design.verilog:
        return _paths(design.verilog, design.name, {})
    return _paths(design.verilog, design.name, {lane: _paths(design.verilog, lane, {})})


def _paths(verilog: str, top: str, known: Mapping[str, Paths]) -> Paths:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "design.v").write_text(verilog)
        cut = "".join(f"blackbox {name}; " for name in known)
        run_yosys(work, top, "-p", _SCRIPT.format(top=top, cut=cut))
        module = json.loads((work / "netlist.json").read_text())["modules"][top]
    reached = defaultdict[int, list[int]](list)  # by net: the nets that follow from it
    for cell in module["cells"].values():
        for source, targets in _through(cell, known):
            reached[source] += targets
    outputs = defaultdict[int, set[str]](set)
    for name, port in module["ports"].items():
        if port["direction"] == "output":
            for net in port["bits"]:
                outputs[net].add(name)
    paths: Paths = {}
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


def _through(cell: Mapping[str, Any], known: Mapping[str, Paths]) -> Iterator[tuple[int, list[int]]]:
    """Pairs of a net at a cell's input and the nets at its outputs that follow from it at once."""
    nets, directions, kind = cell["connections"], cell["port_directions"], cell["type"]

    def numbers(ports: Iterable[str]) -> list[int]:
        return [net for port in ports for net in nets[port] if isinstance(net, int)]

    if kind in known:
        for port, following in known[kind].items():
            for net in numbers([port]):
                yield net, numbers(following)
        return
    if "dff" in kind.lower() or "dlatch" in kind.lower():
        return
    memory = kind.startswith("$mem")  # read at once by address, written at the clock
    inputs = [p for p in nets if directions[p] == "input" and (not memory or "RD_ADDR" in p)]
    out = numbers(p for p in nets if directions[p] == "output")
    for net in numbers(inputs):
        yield net, out
