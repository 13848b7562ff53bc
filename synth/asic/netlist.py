"""A mapped design as arrays: pins, nets, sinks, levels; and buffer trees on nets that drive too much."""

from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from ...errors import InputError
from ...formats import ceil_div
from ..liberty.cells import Cell, StandardCells
from ..liberty.expression import truth_table

__all__ = ["CONSTANT_0", "CONSTANT_1", "Instance", "Netlist", "add_buffers", "read_netlist"]

CONSTANT_0, CONSTANT_1 = 0, 1
"""Net numbers of the constants."""

_BUFFER = 0b10
_GATED = 32
"""Flip-flops behind one clock gate, at most."""


@dataclass
class Instance:
    """A cell and the nets at its pins."""

    name: str
    cell: Cell
    nets: dict[str, int]


@dataclass(kw_only=True)
class Netlist:
    """Nets are numbered from 2; 0 and 1 are the constants.

    Attributes:
        ports: nets of each top-level port, bit 0 first; `inputs` and `outputs` are their names.
        instances: the cells.
        names: a name per net, where it has one.
        black_inputs, black_outputs: nets that enter and leave black boxes (memories), by instance and pin.
    """

    ports: dict[str, list[int]]
    inputs: list[str]
    outputs: list[str]
    instances: list[Instance]
    names: dict[int, str]
    count: int
    clock: int | None = None
    black_inputs: dict[str, list[int]] = field(default_factory=dict)
    black_outputs: dict[str, list[int]] = field(default_factory=dict)
    black_kinds: dict[str, tuple[str, dict[str, int]]] = field(default_factory=dict)
    buffers_added: int = 0

    def flip_flops(self) -> list[Instance]:
        """The sequential instances."""
        return [i for i in self.instances if i.cell.flip_flop is not None]

    def clock_gates(self) -> dict[int, Instance]:
        """The clock gates by the net that they drive."""
        return {i.nets[i.cell.clock_gate.output]: i for i in self.instances if i.cell.clock_gate is not None}

    def gating(self, instance: Instance, gates: Mapping[int, Instance]) -> list[list[int]]:
        """For each of the clock gates between the clock and a cell's clock pin, nearest first: nets that open it.

        `gates` are this netlist's.
        """
        found = []
        pin = instance.cell.clock_pin
        while pin and (gate := gates.get(instance.nets.get(pin, CONSTANT_0))) is not None:
            assert gate.cell.clock_gate is not None
            found.append([gate.nets.get(enable, CONSTANT_0) for enable in gate.cell.clock_gate.enable_pins])
            instance, pin = gate, gate.cell.clock_pin
        return found

    def area(self) -> float:
        """Sum of the cells' areas; black boxes count nothing."""
        return sum(i.cell.area for i in self.instances)

    def sources(self) -> list[int]:
        """Nets driven from outside: input ports (the clock apart) and black boxes' outputs."""
        nets = [n for name in self.inputs for n in self.ports[name] if n != self.clock]
        return nets + [n for group in self.black_outputs.values() for n in group]

    def sinks(self) -> list[int]:
        """Nets that leave: output ports and black boxes' inputs."""
        nets = [n for name in self.outputs for n in self.ports[name] if n > CONSTANT_1]
        return nets + [n for group in self.black_inputs.values() for n in group if n not in (CONSTANT_1, CONSTANT_0)]


def read_netlist(module: dict[str, Any], cells: StandardCells, *, clock: str | None = "clk") -> Netlist:
    """From yosys' JSON of one flat module. Raises InputError for cells without a function."""

    def number(bit: int | str) -> int:
        if isinstance(bit, int):
            return bit
        return CONSTANT_1 if bit == "1" else CONSTANT_0

    ports = {name: [number(b) for b in port["bits"]] for name, port in module["ports"].items()}
    inputs = [name for name, port in module["ports"].items() if port["direction"] == "input"]
    outputs = [name for name, port in module["ports"].items() if port["direction"] == "output"]
    names: dict[int, str] = {}
    for name, net in module["netnames"].items():
        for i, bit in enumerate(net["bits"]):
            if isinstance(bit, int) and (bit not in names or not net.get("hide_name")):
                names.setdefault(bit, f"{name}[{i}]" if len(net["bits"]) > 1 else name)
    netlist = Netlist(ports=ports, inputs=inputs, outputs=outputs, instances=[], names=names, count=2)
    for name, item in module["cells"].items():
        kind = item["type"]
        if kind == "$scopeinfo":
            continue
        if kind not in cells.cell_names:
            netlist.black_kinds[name] = (kind, {k: int(v, 2) for k, v in item.get("parameters", {}).items()})
            for pin, bits in item["connections"].items():
                place = netlist.black_inputs if item["port_directions"][pin] == "input" else netlist.black_outputs
                place[f"{name}.{pin}"] = [number(b) for b in bits]
            continue
        cell = cells.cell(kind)
        if not cell.outputs and cell.clock_gate is None:
            raise InputError(f"{cells.source}: cell {kind} has no output with a function, expected one")
        netlist.instances.append(Instance(name, cell, {p: number(b[0]) for p, b in item["connections"].items() if b}))
    used = [n for i in netlist.instances for n in i.nets.values()] + [n for p in ports.values() for n in p]
    used += [n for g in (netlist.black_inputs, netlist.black_outputs) for nets in g.values() for n in nets]
    netlist.count = max(used, default=1) + 1
    if clock in ports:
        netlist.clock = ports[clock][0]
        for nets in netlist.black_inputs.values():
            nets[:] = [n if n != netlist.clock else CONSTANT_0 for n in nets]
    return netlist


def add_buffers(netlist: Netlist, cells: StandardCells, excluded: Set[str], limit: int = 16) -> None:
    """Put buffer trees on nets of more than `limit` sinks: abc leaves those of flip-flops and inputs as they are.

    The clock is left alone: its tree belongs to layout and is reported apart.
    """
    _clone_clock_gates(netlist)
    buffer = _buffer(cells, excluded)
    if buffer is None:
        return
    pin_in, pin_out = buffer.inputs[0], buffer.outputs[0]
    sinks: dict[int, list[tuple[Instance, str]]] = defaultdict(list)
    for instance in netlist.instances:
        for pin in instance.cell.inputs:
            if pin in instance.nets:
                sinks[instance.nets[pin]].append((instance, pin))
    clocks = {CONSTANT_0, CONSTANT_1, netlist.clock, *netlist.clock_gates()}
    for net, all_sinks in list(sinks.items()):
        if net in clocks:
            continue
        current = all_sinks
        while len(current) > limit:
            groups = ceil_div(len(current), limit)
            size = ceil_div(len(current), groups)
            above: list[tuple[Instance, str]] = []
            for start in range(0, len(current), size):
                made = Instance(f"fanout_{netlist.buffers_added}", buffer, {pin_in: net, pin_out: netlist.count})
                netlist.names[netlist.count] = f"{netlist.names.get(net, net)}.{netlist.buffers_added}"
                for instance, pin in current[start : start + size]:
                    instance.nets[pin] = netlist.count
                netlist.count += 1
                netlist.buffers_added += 1
                netlist.instances.append(made)
                above.append((made, pin_in))
            current = above


def _clone_clock_gates(netlist: Netlist) -> None:
    """Give each clock gate no more flip-flops than it can drive."""
    gates = netlist.clock_gates()
    sinks: dict[int, list[tuple[Instance, str]]] = defaultdict(list)
    for instance in netlist.instances:
        pin = instance.cell.clock_pin
        if pin and instance.nets.get(pin) in gates:
            sinks[instance.nets[pin]].append((instance, pin))
    for net, driven in sinks.items():
        gate = gates[net]
        assert gate.cell.clock_gate is not None
        limit = gate.cell.pins[gate.cell.clock_gate.output].max_capacitance
        heaviest = max(i.cell.pins[p].capacitance[0] for i, p in driven)
        fanout = int(min(max(limit / heaviest, 1), _GATED)) if heaviest else _GATED
        groups = ceil_div(len(driven), fanout)
        size = ceil_div(len(driven), groups)
        for start in range(size, len(driven), size):
            made = Instance(f"{gate.name}_clone_{start}", gate.cell, dict(gate.nets))
            made.nets[gate.cell.clock_gate.output] = netlist.count
            netlist.instances.append(made)
            for instance, pin in driven[start : start + size]:
                instance.nets[pin] = netlist.count
            netlist.count += 1


def _buffer(cells: StandardCells, excluded: Set[str]) -> Cell | None:
    """The buffer that drives 16 of its own inputs quickest."""
    best: tuple[float, Cell] | None = None
    for name in cells.cell_names:
        if name in excluded:
            continue
        cell = cells.cell(name)
        if len(cell.inputs) != 1 or len(cell.outputs) != 1 or cell.flip_flop:
            continue
        output = cell.pins[cell.outputs[0]]
        if truth_table(output.function or "0", cell.inputs) != _BUFFER or not output.arcs:
            continue
        load = 16 * cell.pins[cell.inputs[0]].capacitance[0]
        delay = max(t.at(0.1, load) for t in output.arcs[0].delay.values())
        if best is None or delay * cell.area < best[0]:
            best = (delay * cell.area, cell)
    return best[1] if best else None
