"""Static timing of a mapped design: NLDM delays and slews, rise and fall, worst arrival; an ideal clock.

Nets have the pins' capacitance and, where the library brings a default wire load model, its wire capacitance; wires
have no resistance. That is what a netlist before layout can say, and what timing analysers compute on it.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..liberty.cells import Cell, Table, WireLoad
from .netlist import CONSTANT_1, Instance, Netlist
from .tables import TableBank

__all__ = ["PathPoint", "Timing", "analyse", "levels", "loads"]

_EDGES = ("rise", "fall")
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PathPoint:
    """One step of a path: the pin reached, its net's name, edge, arrival in ns, and the cell that drives it."""

    instance: str
    cell: str
    pin: str
    net: str
    edge: str
    arrival: float
    delay: float
    load: float


@dataclass(frozen=True)
class Timing:
    """Results: times in ns.

    Attributes:
        period: shortest clock period (the longest path with setup), or the longest path if there is no flip-flop.
        groups: longest path by kind: register to register, input to register, register to output, input to output.
        path: the points of the longest one.
        setup: the setup time included in `period`.
        slews: worst slew by net and edge; `load`: capacitance by net and edge in pF.
    """

    period: float
    groups: dict[str, float]
    path: tuple[PathPoint, ...]
    setup: float
    slews: Floats
    load: Floats


def loads(netlist: Netlist, wire_load: WireLoad | None) -> Floats:
    """Capacitance of each net in pF when it rises and when it falls: its input pins and the wire load model."""
    result = np.zeros((netlist.count, 2))
    fanout = np.zeros(netlist.count, dtype=np.int64)
    for instance in netlist.instances:
        for pin in instance.cell.inputs:
            if pin in instance.nets:
                result[instance.nets[pin]] += instance.cell.pins[pin].capacitance
                fanout[instance.nets[pin]] += 1
    for name in netlist.outputs:
        for net in netlist.ports[name]:
            fanout[net] += 1
    if wire_load is not None:
        result += wire_load.capacitance(fanout)[:, None]
    return result


class _Tables:
    """The tables of a netlist's arcs, each once; a missing one is number -1."""

    def __init__(self) -> None:
        self._tables: list[Table] = []
        self._numbers: dict[int, int] = {}

    def number(self, table: Table | None) -> int:
        """The table's row in the bank."""
        if table is None:
            return -1
        if id(table) not in self._numbers:
            self._numbers[id(table)] = len(self._tables)
            self._tables.append(table)
        return self._numbers[id(table)]

    def bank(self) -> TableBank:
        """All of them, to be looked up at once."""
        return TableBank(self._tables)


class _CellArc(NamedTuple):
    """An arc to a cell's output: from which pin and edge (0: rise) to which edge, with which tables."""

    related: str
    edge_in: int
    edge_out: int
    delay: int
    slew: int


def _cell_arcs(cell: Cell, output: str, tables: _Tables) -> list[_CellArc]:
    return [
        _CellArc(arc.related, i, o, tables.number(arc.delay.get(_EDGES[o])), tables.number(arc.slew.get(_EDGES[o])))
        for arc in cell.pins[output].arcs
        for o in (0, 1)
        if _EDGES[o] in arc.delay
        for i in (0, 1)
        if arc.kind == "launch" or arc.sense == "non_unate" or (arc.sense == "positive_unate") == (i == o)
    ]


class _Graph:
    """The parts of delays.

    Attributes:
        rows: combinational arcs by level: level, net and edge in, net and edge out, tables of delay and slew.
        launches: arcs from clock to output: net, edge, tables of delay and slew.
        checks: data pins of flip-flops: net, instance, pin.
        bank: the tables.
    """

    def __init__(self, netlist: Netlist):
        tables = _Tables()
        arcs: dict[tuple[str, str], list[_CellArc]] = {}
        rows: list[tuple[int, ...]] = []
        launches: list[tuple[int, ...]] = []
        self.checks: list[tuple[int, Instance, str]] = []
        level = levels(netlist)
        for instance in netlist.instances:
            cell, nets = instance.cell, instance.nets
            for name in cell.outputs:
                if name not in nets:
                    continue
                out = nets[name]
                if (cell.name, name) not in arcs:
                    arcs[cell.name, name] = _cell_arcs(cell, name, tables)
                for arc in arcs[cell.name, name]:
                    if cell.flip_flop is not None:
                        launches.append((out, arc.edge_out, arc.delay, arc.slew))
                    elif nets.get(arc.related, 0) > CONSTANT_1:
                        rows.append(
                            (level[out], nets[arc.related], arc.edge_in, out, arc.edge_out, arc.delay, arc.slew)
                        )
            if cell.clock_pin is not None:
                data = (pin for pin in cell.inputs if pin != cell.clock_pin and nets.get(pin, 0) > CONSTANT_1)
                self.checks += [(nets[pin], instance, pin) for pin in data]
        rows.sort()
        self.rows = np.array(rows, dtype=np.int64).reshape(-1, 7)
        self.launches = np.array(launches, dtype=np.int64).reshape(-1, 4)
        self.bank = tables.bank()

    def by_level(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """The combinational arcs of one level after another, each with its first row's number."""
        if len(self.rows):
            bounds = np.flatnonzero(np.diff(self.rows[:, 0], prepend=-1))
            for start, end in pairwise([*bounds, len(self.rows)]):
                yield start, self.rows[start:end]


def levels(netlist: Netlist) -> dict[int, int]:
    """Level of each net driven by a combinational cell: one more than its inputs'. Raises InputError at a loop."""
    drivers: dict[int, list[int]] = {}
    waiting: dict[int, int] = {}
    users: dict[int, list[int]] = defaultdict(list)
    for number, instance in enumerate(netlist.instances):
        if instance.cell.clock_pin is None:
            drivers[number] = [instance.nets[p] for p in instance.cell.outputs if p in instance.nets]
    driven = {net for nets in drivers.values() for net in nets}
    for number in drivers:
        instance = netlist.instances[number]
        inside = {instance.nets[p] for p in instance.cell.inputs if instance.nets.get(p, 0) in driven}
        waiting[number] = len(inside)
        for net in inside:
            users[net].append(number)
    ready = [number for number, count in waiting.items() if count == 0]
    level: dict[int, int] = defaultdict(int)
    done = 0
    while ready:
        following: list[int] = []
        for number in ready:
            done += 1
            instance = netlist.instances[number]
            above = 1 + max([level[instance.nets[p]] for p in instance.cell.inputs if p in instance.nets], default=0)
            for net in drivers[number]:
                level[net] = above
                for user in users[net]:
                    waiting[user] -= 1
                    if waiting[user] == 0:
                        following.append(user)
        ready = following
    if done != len(drivers):
        raise InputError(f"netlist: {len(drivers) - done} cells stand in combinational loops, expected none")
    return level


def analyse(netlist: Netlist, wire_load: WireLoad | None, *, input_slew: float = 0.0) -> Timing:
    """Longest paths. `input_slew` in ns holds for inputs, black boxes' outputs and the clock.

    Raises InputError where a cell has no timing tables.
    """
    missing = sorted({i.cell.name for i in netlist.instances if not i.cell.has_timing})
    if missing:
        raise InputError(f"cell {missing[0]}: no timing tables, expected them for timing")
    load = loads(netlist, wire_load)
    graph = _Graph(netlist)
    slew = np.zeros((netlist.count, 2))
    slew[netlist.sources()] = input_slew
    # Arrivals from inputs and from registers are kept apart: a path's kind is where it begins.
    results = {"input": _Arrivals(netlist.count), "register": _Arrivals(netlist.count)}
    results["input"].time[netlist.sources()] = 0.0
    if len(graph.launches):
        net, edge, delay, out_slew = graph.launches.T
        clock = np.full(len(net), input_slew)
        np.maximum.at(results["register"].time, (net, edge), graph.bank.at(delay, clock, load[net, edge]))
        np.maximum.at(slew, (net, edge), graph.bank.at(out_slew, clock, load[net, edge]))
    for first, (_, source, edge_in, target, edge_out, delay, out_slew) in (
        (first, rows.T) for first, rows in graph.by_level()
    ):
        known = slew[source, edge_in]
        delays = graph.bank.at(delay, known, load[target, edge_out])
        # Slews do not depend on where a path begins: the worst one is taken.
        np.maximum.at(slew, (target, edge_out), graph.bank.at(out_slew, known, load[target, edge_out]))
        for arrivals in results.values():
            arrivals.update(first, (target, edge_out), arrivals.time[source, edge_in] + delays)
    return _worst(netlist, graph, results, slew, load, input_slew)


class _Arrivals:
    """Latest arrival of each net and edge in ns, and the row of the graph that it came by (-1: it begins there)."""

    def __init__(self, nets: int):
        self.time = np.full((nets, 2), -np.inf)
        self.came = np.full((nets, 2), -1, dtype=np.int64)

    def update(self, first: int, to: tuple[NDArray[np.int64], NDArray[np.int64]], time: Floats) -> None:
        """Take what arrives later than known, by the rows from `first` on."""
        net, edge = to
        order = np.argsort(time, kind="stable")
        later = order[time[order] > self.time[net[order], edge[order]]]
        # Ascending order: the last assignment to a place is its largest.
        self.time[net[later], edge[later]] = time[later]
        self.came[net[later], edge[later]] = first + later


@dataclass(frozen=True)
class _End:
    """The end of a path: when it must arrive (setup included), where the path began, and its last net."""

    total: float
    start: str
    net: int
    edge: int
    setup: float


def _worst(
    netlist: Netlist, graph: _Graph, results: dict[str, _Arrivals], slew: Floats, load: Floats, clock_slew: float
) -> Timing:
    groups: dict[str, float] = {}
    worst: _End | None = None
    for start, arrivals in results.items():
        for kind, ends in (
            ("register", _register_ends(graph, start, arrivals.time, slew, clock_slew)),
            ("output", _output_ends(netlist, start, arrivals.time)),
        ):
            for end in ends:
                name = f"{start} to {kind}"
                groups[name] = max(groups.get(name, 0.0), end.total)
                if worst is None or end.total > worst.total:
                    worst = end
    if worst is None:
        return Timing(0.0, groups, (), 0.0, slew, load)
    path = _trace(netlist, graph.rows, results[worst.start], worst.net, worst.edge, load)
    return Timing(worst.total, groups, path, worst.setup, slew, load)


def _register_ends(graph: _Graph, start: str, time: Floats, slew: Floats, clock_slew: float) -> Iterator[_End]:
    for net, instance, pin in graph.checks:
        for edge in (0, 1):
            if time[net, edge] == -np.inf:
                continue
            tables = [a.delay.get(_EDGES[edge]) for a in instance.cell.pins[pin].arcs if a.kind == "setup"]
            setup = max([t.at(clock_slew, slew[net, edge]) for t in tables if t is not None], default=0.0)
            yield _End(float(time[net, edge]) + setup, start, net, edge, setup)


def _output_ends(netlist: Netlist, start: str, time: Floats) -> Iterator[_End]:
    for net in netlist.sinks():
        edge = int(np.argmax(time[net]))
        if time[net, edge] != -np.inf:
            yield _End(float(time[net, edge]), start, net, edge, 0.0)


def _trace(
    netlist: Netlist,
    rows: NDArray[np.int64],
    arrivals: _Arrivals,
    net: int,
    edge: int,
    load: Floats,
) -> tuple[PathPoint, ...]:
    driver: dict[int, tuple[Instance, str]] = {}
    for instance in netlist.instances:
        for pin in instance.cell.outputs:
            if pin in instance.nets:
                driver[instance.nets[pin]] = (instance, pin)
    points: list[PathPoint] = []
    while True:
        row = int(arrivals.came[net, edge])
        before = (int(rows[row, 1]), int(rows[row, 2])) if row >= 0 else None
        at = float(arrivals.time[net, edge])
        since = at - (float(arrivals.time[before]) if before else 0.0)
        name = netlist.names.get(net, f"net {net}")
        who, pin = driver.get(net, (None, ""))
        label, cell = (who.name, who.cell.name) if who else ("input", "")
        points.append(
            PathPoint(
                instance=label,
                cell=cell,
                pin=pin,
                net=name,
                edge=_EDGES[edge],
                arrival=at,
                delay=since,
                load=float(load[net, edge]),
            )
        )
        if before is None:
            return tuple(reversed(points))
        net, edge = before
