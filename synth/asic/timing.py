"""Static timing of a mapped design: NLDM delays and slews, rise and fall, worst arrival; an ideal clock.

Nets have the pins' capacitance and, where the library brings a default wire load model, its wire capacitance; wires
have no resistance. That is what a netlist before layout can say, and what timing analysers compute on it.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..liberty.cells import Table, WireLoad
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


class _Graph:
    """Combinational arcs sorted by level, as arrays: from net, to net, edge in, edge out, tables."""

    def __init__(self, netlist: Netlist):
        tables: list[Table] = []
        index: dict[int, int] = {}

        def number(table: Table | None) -> int:
            if table is None:
                return -1
            if id(table) not in index:
                index[id(table)] = len(tables)
                tables.append(table)
            return index[id(table)]

        shapes: dict[tuple[str, str], list[tuple[str, int, int, int, int]]] = {}
        rows: list[tuple[int, int, int, int, int, int, int]] = []
        self.launches: list[tuple[int, int, int, int]] = []
        self.checks: list[tuple[int, Instance, str]] = []
        level = levels(netlist)
        for instance in netlist.instances:
            cell = instance.cell
            for name in cell.outputs:
                if name not in instance.nets:
                    continue
                out = instance.nets[name]
                if (cell.name, name) not in shapes:
                    shapes[cell.name, name] = [
                        (arc.related, i, o, number(arc.delay.get(_EDGES[o])), number(arc.slew.get(_EDGES[o])))
                        for arc in cell.pins[name].arcs
                        for o in (0, 1)
                        if _EDGES[o] in arc.delay
                        for i in (0, 1)
                        if arc.kind == "launch"
                        or arc.sense == "non_unate"
                        or (arc.sense == "positive_unate") == (i == o)
                    ]
                for related, i, o, delay, slew in shapes[cell.name, name]:
                    if cell.flip_flop is not None:
                        self.launches.append((out, o, delay, slew))
                    elif instance.nets.get(related, 0) > CONSTANT_1:
                        rows.append((level[out], instance.nets[related], i, out, o, delay, slew))
            if cell.clock_pin is not None:
                for pin in cell.inputs:
                    if pin != cell.clock_pin and instance.nets.get(pin, 0) > CONSTANT_1:
                        self.checks.append((instance.nets[pin], instance, pin))
        rows.sort()
        self.rows = np.array(rows, dtype=np.int64).reshape(-1, 7)
        self.bank = TableBank(tables)


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
    # Arrivals from inputs and from registers are kept apart: a path's kind is where it begins.
    starts = {"input": netlist.sources(), "register": [row[0] for row in graph.launches]}
    results = {}
    launch = np.array(graph.launches, dtype=np.int64).reshape(-1, 4)
    for kind in starts:
        arrival = np.full((netlist.count, 2), -np.inf)
        came = np.full((netlist.count, 2), -1, dtype=np.int64)
        if kind == "input":
            arrival[starts["input"]] = 0.0
            slew[starts["input"]] = input_slew
        elif len(launch):
            at = graph.bank.at(launch[:, 2], np.full(len(launch), input_slew), load[launch[:, 0], launch[:, 1]])
            out_slew = graph.bank.at(launch[:, 3], np.full(len(launch), input_slew), load[launch[:, 0], launch[:, 1]])
            np.maximum.at(arrival, (launch[:, 0], launch[:, 1]), at)
            np.maximum.at(slew, (launch[:, 0], launch[:, 1]), out_slew)
        results[kind] = (arrival, came)
    # Slews do not depend on where a path begins (the worst one is taken), so they go first, with the arrivals.
    rows = graph.rows
    bounds = np.flatnonzero(np.diff(rows[:, 0], prepend=-1)) if len(rows) else np.array([], dtype=np.int64)
    for start, end in zip(bounds, [*bounds[1:], len(rows)], strict=True):
        part = rows[start:end]
        source, edge_in, target, edge_out = part[:, 1], part[:, 2], part[:, 3], part[:, 4]
        known = slew[source, edge_in]
        delay = graph.bank.at(part[:, 5], known, load[target, edge_out])
        np.maximum.at(slew, (target, edge_out), graph.bank.at(part[:, 6], known, load[target, edge_out]))
        for arrival, came in results.values():
            at = arrival[source, edge_in] + delay
            order = np.argsort(at, kind="stable")
            better = order[at[order] > arrival[target[order], edge_out[order]]]
            # Ascending order: the last assignment to a place is its largest.
            arrival[target[better], edge_out[better]] = at[better]
            came[target[better], edge_out[better]] = start + better
    return _worst(netlist, graph, results, slew, load, input_slew)


def _worst(
    netlist: Netlist, graph: _Graph, results: dict[str, Any], slew: Floats, load: Floats, clock_slew: float
) -> Timing:
    groups: dict[str, float] = {}
    best: tuple[float, str, int, int, float] | None = None
    outputs = netlist.sinks()
    for kind, (arrival, _) in results.items():
        for net, instance, pin in graph.checks:
            for edge in (0, 1):
                if arrival[net, edge] == -np.inf:
                    continue
                tables = [a.delay.get(_EDGES[edge]) for a in instance.cell.pins[pin].arcs if a.kind == "setup"]
                setup = max([t.at(clock_slew, slew[net, edge]) for t in tables if t is not None], default=0.0)
                total = float(arrival[net, edge]) + setup
                name = f"{kind} to register"
                groups[name] = max(groups.get(name, 0.0), total)
                if best is None or total > best[0]:
                    best = (total, kind, net, edge, setup)
        for net in outputs:
            edge = int(np.argmax(arrival[net]))
            total = float(arrival[net, edge])
            if total == -np.inf:
                continue
            name = f"{kind} to output"
            groups[name] = max(groups.get(name, 0.0), total)
            if best is None or total > best[0]:
                best = (total, kind, net, edge, 0.0)
    if best is None:
        return Timing(0.0, groups, (), 0.0, slew, load)
    total, kind, net, edge, setup = best
    arrival, came = results[kind]
    path = _trace(netlist, graph.rows, arrival, came, net, edge, load)
    return Timing(total, groups, path, setup, slew, load)


def _trace(
    netlist: Netlist,
    rows: NDArray[np.int64],
    arrival: Floats,
    came: NDArray[np.int64],
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
        row = int(came[net, edge])
        before = (int(rows[row, 1]), int(rows[row, 2])) if row >= 0 else None
        at = float(arrival[net, edge])
        since = at - (float(arrival[before]) if before else 0.0)
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
