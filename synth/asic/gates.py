"""Bit-parallel gate simulation: every net is a row of 64-bit words, every bit of a word an independent stream.

Zero delay: a net takes its final value at once, so there are no glitches. Every figure that comes from here says so.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...sim.parts.words import ONES, Words
from ..liberty.cells import Cell
from ..liberty.expression import compile_expression, variables
from .netlist import CONSTANT_0, CONSTANT_1, Instance, Netlist
from .timing import levels

__all__ = ["GateSimulator", "Gates", "drive", "gate_group", "pin_nets"]

_ZERO = np.uint64(0)


def drive(netlist: Netlist, inputs: Mapping[str, Words]) -> Callable[[int], dict[int, Words]]:
    """A function of the cycle that gives the netlist's input nets; ports that it has lost are left out.

    `inputs` are arrays (cycles, bits, words) by port; the last cycle holds.
    """
    ports = [(values, netlist.ports[port]) for port, values in inputs.items() if port in netlist.ports]

    def nets(cycle: int) -> dict[int, Words]:
        return {
            net: values[min(cycle, len(values) - 1), bit]
            for values, bits in ports
            for bit, net in enumerate(bits)
            if net > CONSTANT_1
        }

    return nets


@dataclass(frozen=True)
class GateEnables:
    """Clock gates in front of some cells: a cell's clock runs while each of its gates has an enable pin that is high.

    `levels` are the gates, nearest first; each has an array of nets for each of its pins, one net a cell.
    """

    levels: tuple[tuple[NDArray[np.int64], ...], ...]

    def high(self, nets: Words) -> Words:
        """Bits (cells, words): whose clock runs."""
        return reduce(np.bitwise_and, [reduce(np.bitwise_or, [nets[rows] for rows in pins]) for pins in self.levels])


def gate_enables(netlist: Netlist, instances: list[Instance], gates: Mapping[int, Instance]) -> GateEnables | None:
    """The clock gates in front of cells, or None where there are none; `gates` are the netlist's.

    Where a cell has fewer of them, or a gate has fewer pins than another, the constant that does nothing fills up.
    """
    chains = [netlist.gating(instance, gates) for instance in instances]
    levels = []
    for level in range(max(map(len, chains), default=0)):
        pins = [chain[level] if level < len(chain) else [CONSTANT_1] for chain in chains]
        width = max(map(len, pins))
        filled = [nets + [CONSTANT_0] * (width - len(nets)) for nets in pins]
        levels.append(tuple(np.array(column, dtype=np.int64) for column in zip(*filled, strict=True)))
    return GateEnables(tuple(levels)) if levels else None


@dataclass(frozen=True)
class Gates:
    """Gates of one type that are evaluated together, for one output."""

    function: Callable[[Mapping[str, Words], np.uint64, np.uint64], Words]
    inputs: tuple[tuple[str, NDArray[np.int64]], ...]
    output: NDArray[np.int64]

    def value(self, nets: Words) -> Words:
        """Their outputs (gates, words), or one value for all of them."""
        return self.function({name: nets[rows] for name, rows in self.inputs}, _ZERO, ONES)


@dataclass(frozen=True)
class _Registers:
    """All flip-flops of one type: their rows in the state array, next state, and outputs."""

    rows: slice
    next_state: Callable[[Mapping[str, Words], np.uint64, np.uint64], Words]
    inputs: tuple[tuple[str, NDArray[np.int64]], ...]
    names: tuple[str, str]
    outputs: tuple[tuple[Callable[..., Words], NDArray[np.int64]], ...]
    enables: GateEnables | None


class GateSimulator:
    """Simulates a netlist on `words` x 64 streams.

    Flip-flops start with random contents from `seed`, so a reset that does not reach one shows. `nets` holds the
    present values, one row a net.
    """

    def __init__(self, netlist: Netlist, words: int, seed: int = 0):
        self.netlist = netlist
        self.words = words
        self.nets: Words = np.zeros((netlist.count, words), dtype=np.uint64)
        self.nets[CONSTANT_1] = ONES
        self._gates = _gate_groups(netlist)
        self._registers = []
        gates = netlist.clock_gates()
        by_type: dict[tuple[str, int], list[Instance]] = defaultdict(list)
        for instance in netlist.flip_flops():
            by_type[instance.cell.name, len(netlist.gating(instance, gates))].append(instance)
        count = 0
        for instances in by_type.values():
            rows = slice(count, count + len(instances))
            self._registers.append(_register_group(instances, rows, gate_enables(netlist, instances, gates)))
            count = rows.stop
        rng = np.random.default_rng(seed)
        self._state: Words = rng.integers(0, 1 << 64, (count, words), dtype=np.uint64)

    def settle(self, inputs: Mapping[int, Words]) -> Words:
        """Drive nets (by number) and evaluate everything combinational; returns `nets`, valid until the next call."""
        nets = self.nets
        for net, value in inputs.items():
            nets[net] = value
        for group in self._registers:
            state = self._state[group.rows]
            values = {group.names[0]: state, group.names[1]: ~state}
            for function, output in group.outputs:
                nets[output] = function(values, _ZERO, ONES)
        for gate in self._gates:
            nets[gate.output] = gate.value(nets)
        return nets

    def clock(self) -> None:
        """A rising edge: flip-flops take their next state from the settled nets."""
        for group in self._registers:
            state = self._state[group.rows]
            values = {name: self.nets[rows] for name, rows in group.inputs}
            values |= {group.names[0]: state, group.names[1]: ~state}
            following = group.next_state(values, _ZERO, ONES)
            if group.enables:
                running = group.enables.high(self.nets)
                following = (following & running) | (state & ~running)
            self._state[group.rows] = following


def _gate_groups(netlist: Netlist) -> list[Gates]:
    level = levels(netlist)
    members: dict[tuple[int, str, str], list[Instance]] = defaultdict(list)
    for instance in netlist.instances:
        if instance.cell.clock_pin is None:
            for pin in instance.cell.outputs:
                if pin in instance.nets:
                    members[level[instance.nets[pin]], instance.cell.name, pin].append(instance)
    return [gate_group(gates, pin) for (_, _, pin), gates in sorted(members.items(), key=lambda item: item[0])]


def gate_group(instances: list[Instance], pin: str) -> Gates:
    """Instances of one cell, for its output `pin`. Raises InputError where that reads more than the cell's inputs."""
    cell = instances[0].cell
    text = cell.pins[pin].function or "0"
    names = variables(text)
    unknown = set(names) - set(cell.inputs)
    if unknown:
        raise InputError(f"cell {cell.name}: function {text!r} reads {min(unknown)}, expected its input pins only")
    return Gates(compile_expression(text), _rows(instances, names), pin_nets(instances, pin))


def _register_group(instances: list[Instance], rows: slice, enables: GateEnables | None) -> _Registers:
    cell: Cell = instances[0].cell
    flip_flop = cell.flip_flop
    if flip_flop is None:
        raise ValueError("not a flip-flop")
    names = (flip_flop.state, flip_flop.inverse)
    inputs = tuple(n for n in variables(flip_flop.next_state) if n not in names)
    outputs = []
    for pin in cell.outputs:
        there = [(k, i) for k, i in enumerate(instances) if pin in i.nets]
        if not there:
            continue
        position = np.array([k for k, _ in there])
        function = compile_expression(cell.pins[pin].function or "0")

        def read(
            values: Mapping[str, Words],
            zero: np.uint64,
            ones: np.uint64,
            function: Callable[..., Words] = function,
            position: NDArray[np.int64] = position,
        ) -> Words:
            return function({name: value[position] for name, value in values.items()}, zero, ones)

        outputs.append((read, np.array([i.nets[pin] for _, i in there])))
    next_state = compile_expression(flip_flop.next_state)
    return _Registers(rows, next_state, _rows(instances, inputs), names, tuple(outputs), enables)


def pin_nets(instances: list[Instance], pin: str) -> NDArray[np.int64]:
    """The net at a pin of each instance; what is not connected counts as the constant 0."""
    return np.array([i.nets.get(pin, 0) for i in instances], dtype=np.int64)


def _rows(instances: list[Instance], pins: tuple[str, ...]) -> tuple[tuple[str, NDArray[np.int64]], ...]:
    return tuple((pin, pin_nets(instances, pin)) for pin in pins)
