"""Energy of a simulated netlist: internal power and switching by what really toggled, leakage by state.

The rules (Liberty user guide, and what OpenSTA computes; docs/silicon.md section 4):
- a net that toggles takes half of C V^2, where C is that of a rising edge, which is what the supply charges;
- an output pin that toggles takes half of its rise plus its fall table, at the related pin's slew and the pin's load;
  of several tables (related pins, `when`) those count whose pin toggled in the same cycle while `when` held, in equal
  parts; where none did, all count alike;
- an input pin that toggles takes its own table, if `when` holds; a clock pin toggles twice a cycle, behind a clock gate
  in those cycles alone in which the gate is open, and so does the gate's output;
- leakage is that of the state the cell is in.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...sim.parts.words import ONES, Words
from ..liberty.cells import Cell, InternalPower
from ..liberty.expression import compile_expression, variables
from .gates import GateEnables, gate_enables, pin_nets
from .netlist import CONSTANT_0, CONSTANT_1, Netlist
from .tables import TableBank
from .timing import Timing

__all__ = ["Energy", "PowerMeter"]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
_ZERO = np.uint64(0)


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energies in pJ per clock cycle; leakage in nW.

    Attributes:
        internal, switching: of cells; switching is that of the nets they drive.
        inputs: switching of the nets that inputs drive, which is spent outside.
        clock_pins: internal energy of clock pins and of clock gates.
        clock_net: charging the clock pins' capacitance (the tree itself belongs to layout).
        by_instance: internal, switching and clock pins by instance; what inputs switch belongs to no instance.
        toggles: mean toggles of a net and cycle.
    """

    internal: float
    switching: float
    inputs: float
    clock_pins: float
    clock_net: float
    leakage_nw: float
    cycles: int
    toggles: float
    by_instance: dict[str, float] = field(repr=False)

    @property
    def dynamic(self) -> float:
        """Energy of a cycle without leakage, the clock included."""
        return self.internal + self.switching + self.inputs + self.clock_pins + self.clock_net

    def total(self, period: float) -> float:
        """Energy of a cycle of `period` ns with leakage, in pJ."""
        return self.dynamic + self.leakage_nw * period * 1e-6


@dataclass(frozen=True)
class _Output:
    """All instances of one cell type, one of its outputs: tables of its groups, counted per group."""

    instances: NDArray[np.int64]
    output: NDArray[np.int64]
    pins: dict[str, NDArray[np.int64]]
    related: tuple[str | None, ...]
    when: tuple[str | None, ...]
    energy: Floats
    counts: Counts


@dataclass(frozen=True)
class _Input:
    """All instances of one cell type, one table of one input pin."""

    instances: NDArray[np.int64]
    pin: NDArray[np.int64]
    pins: dict[str, NDArray[np.int64]]
    when: str | None
    enables: GateEnables | None
    clocked: bool
    energy: Floats
    counts: Counts

    def edges(self, nets: Words, changed: Words, kept: Words) -> Counts:
        """How often each pin moves in this cycle, while the table holds: a clock twice, or not at all."""
        if not self.clocked:
            moved = changed[self.pin]
        elif self.enables is None:
            moved = np.broadcast_to(kept, (len(self.pin), len(kept)))
        else:
            moved = self.enables.high(nets) & kept
        if self.when is not None:
            moved = moved & _holds(self.when, self.pins, nets)
        return (2 if self.clocked else 1) * _ones(moved)


class PowerMeter:
    """Counts what toggles while a simulation runs, and weighs it with the library's tables.

    Call `start` with the settled nets before the first counted cycle and `count` after each settled cycle.
    """

    def __init__(self, netlist: Netlist, timing: Timing, voltage: float):
        self._netlist = netlist
        self._load = timing.load
        self._voltage = voltage
        self._slew = timing.slews.mean(axis=1)
        self._gates = netlist.clock_gates()
        self._pulses: list[GateEnables] = []
        self._pulse_internal: list[float] = []
        self._pulse_load: list[float] = []
        self._add_gates()
        by_type: dict[str, list[int]] = defaultdict(list)
        for number, instance in enumerate(netlist.instances):
            by_type[instance.cell.name].append(number)
        self._outputs: list[_Output] = []
        self._inputs: list[_Input] = []
        self._leakage: list[tuple[NDArray[np.int64], Cell, dict[str, NDArray[np.int64]]]] = []
        for numbers in by_type.values():
            self._add_type(numbers)
        self._toggles = np.zeros(netlist.count, dtype=np.int64)
        self._high = np.zeros(netlist.count, dtype=np.int64)
        self._last: Words = np.zeros((0, 0), dtype=np.uint64)
        self._cycles = 0
        self._leak = 0.0
        self._leak_samples = 0

    def _add_type(self, numbers: list[int]) -> None:
        everything = self._netlist.instances
        cell = everything[numbers[0]].cell
        pins = {p: pin_nets([everything[n] for n in numbers], p) for p in (*cell.inputs, *cell.outputs)}
        self._leakage.append((np.array(numbers), cell, pins))
        for name in cell.outputs:
            groups = [g for g in cell.pins[name].power if g.related is None or g.related in cell.inputs]
            if groups:
                self._outputs.append(self._output(numbers, pins, name, cell, groups))
        for name in cell.inputs:
            clocked = name == cell.clock_pin
            enables = gate_enables(self._netlist, [everything[n] for n in numbers], self._gates) if clocked else None
            for group in cell.pins[name].power:
                tables = [t for t in (group.rise, group.fall) if t is not None]
                bank = TableBank(tables)
                slew = np.zeros(len(numbers)) if clocked else self._slew[pins[name]]
                energy = sum(
                    (bank.at(np.full(len(slew), i), slew, np.zeros_like(slew)) for i in range(len(tables))),
                    start=np.zeros_like(slew),
                )
                counts = np.zeros(len(numbers), dtype=np.int64)
                self._inputs.append(
                    _Input(np.array(numbers), pins[name], pins, group.when, enables, clocked, energy / 2, counts)
                )

    def _add_gates(self) -> None:
        """Clock gates' outputs: internal energy of a pulse, and the load that it charges."""
        for net, instance in self._gates.items():
            gate = instance.cell.clock_gate
            assert gate is not None
            load = float(self._load[net, 0])
            internal = 0.0
            tables = instance.cell.pins[gate.output].power
            for group in tables:
                internal += 2 * group.energy(0.0, load) / len(tables)
            own = [instance.nets.get(pin, CONSTANT_0) for pin in gate.enable_pins]
            chain = [own, *self._netlist.gating(instance, self._gates)]
            self._pulses.append(GateEnables(tuple(tuple(np.array([net]) for net in pins) for pins in chain)))
            self._pulse_internal.append(internal)
            self._pulse_load.append(load * self._voltage**2)
        self._pulse_counts = np.zeros(len(self._pulses), dtype=np.int64)

    def _output(
        self,
        numbers: list[int],
        pins: dict[str, NDArray[np.int64]],
        name: str,
        cell: Cell,
        groups: Sequence[InternalPower],
    ) -> _Output:
        energies = []
        for group in groups:
            tables = [t for t in (group.rise, group.fall) if t is not None]
            bank = TableBank(tables)
            ideal = group.related is None or group.related == cell.clock_pin
            slew = np.zeros(len(numbers)) if ideal else self._slew[pins[str(group.related)]]
            # One load for both: libraries lend energy from one edge's table to the other's in proportion to it.
            parts = (bank.at(np.full(len(slew), i), slew, self._load[pins[name], 0]) for i in range(len(tables)))
            energies.append(sum(parts, start=np.zeros_like(slew)) / 2)
        return _Output(
            np.array(numbers),
            pins[name],
            pins,
            tuple(g.related for g in groups),
            tuple(g.when for g in groups),
            np.array(energies),
            np.zeros((len(groups), len(numbers)), dtype=np.int64),
        )

    def start(self, nets: Words) -> None:
        """Remember the present values: what toggles from here on is counted."""
        self._last = nets.copy()

    def count(self, nets: Words, streams: Words | None = None) -> None:
        """Count one cycle of every stream, or of those whose bit is set in `streams` (words,)."""
        kept = np.full(nets.shape[1], ONES) if streams is None else streams
        self.move(nets, kept)
        if not kept.any():
            return
        self._high += _ones(nets & kept)
        for item in self._inputs:
            if item.clocked:
                item.counts[:] += item.edges(nets, nets, kept)
        for number, enables in enumerate(self._pulses):
            pulses = enables.high(nets)[0] & kept
            self._pulse_counts[number] += int(np.bitwise_count(pulses).sum())
        self._cycles += int(np.bitwise_count(kept).sum())

    def move(self, nets: Words, kept: Words) -> None:
        """Count what toggles on the way to `nets`, in the streams whose bit is set in `kept`, but no clock."""
        changed = (nets ^ self._last) & kept
        self._last = nets.copy()
        if not changed.any():
            return
        self._toggles += _ones(changed)
        for group in self._outputs:
            if len(group.related) == 1:
                continue  # every toggle is of this one table
            out = changed[group.output]
            for k, (related, when) in enumerate(zip(group.related, group.when, strict=True)):
                moved = out
                if related is not None:
                    moved = moved & changed[group.pins[related]]
                if when is not None:
                    moved = moved & _holds(when, group.pins, nets)
                group.counts[k] += _ones(moved)
        for item in self._inputs:
            if not item.clocked:
                item.counts[:] += item.edges(nets, changed, kept)

    def sample_leakage(self, nets: Words) -> None:
        """Add a sample of the cells' states to the mean leakage; a few in a run are enough."""
        samples = 64 * nets.shape[1]
        for numbers, cell, pins in self._leakage:
            default = next((g.power for g in cell.leakage if g.when is None), 0.0)
            covered = np.zeros(len(numbers), dtype=np.int64)
            for group in cell.leakage:
                if group.when is None or any(v not in pins for v in variables(group.when)):
                    continue
                ones = _ones(_holds(group.when, pins, nets))
                self._leak += float(ones.sum()) * group.power / samples
                covered += ones
            self._leak += default * float((samples - covered).clip(min=0).sum()) / samples
        self._leak_samples += 1

    def activity(self) -> tuple[Floats, Floats]:
        """Per net: mean toggles of a cycle, and the share of cycles in which it is high."""
        return self._toggles / self._cycles, self._high / self._cycles

    def clock_pulses(self) -> dict[int, float]:
        """Pulses of a cycle, by net: one at the clock's root, fewer behind clock gates."""
        if self._netlist.clock is None:
            return {}
        gated = zip(self._gates, (self._pulse_counts / self._cycles).tolist(), strict=True)
        return {self._netlist.clock: 1.0, **dict(gated)}

    @property
    def cycles(self) -> int:
        """How many cycles were counted, all streams together."""
        return self._cycles

    def energy(self) -> Energy:
        """The energy that was counted, per cycle of one stream. Raises ValueError if nothing was."""
        if not self._cycles:
            raise ValueError("no cycle was counted")
        netlist = self._netlist
        cycles = self._cycles
        switching = 0.5 * self._load[:, 0] * self._voltage**2 * self._toggles / cycles
        by_number = np.zeros(len(netlist.instances))
        driven = np.zeros(netlist.count, dtype=np.bool_)
        for number, instance in enumerate(netlist.instances):
            for pin in instance.cell.outputs:
                if pin in instance.nets:
                    by_number[number] += switching[instance.nets[pin]]
                    driven[instance.nets[pin]] = True
        internal = np.zeros_like(by_number)
        for group in self._outputs:
            toggles = self._toggles[group.output]
            counts = group.counts if len(group.related) > 1 else toggles[None]
            total = counts.sum(axis=0)
            share = np.where(total > 0, counts / np.maximum(total, 1), 1 / len(group.related))
            np.add.at(internal, group.instances, (share * group.energy).sum(axis=0) * toggles / cycles)
        clock_pins = np.zeros_like(by_number)
        for item in self._inputs:
            place = clock_pins if item.clocked else internal
            np.add.at(place, item.instances, item.energy * item.counts / cycles)
        clock_net = 0.0
        if netlist.clock is not None:
            clock_net = float(self._load[netlist.clock, 0] * self._voltage**2)
        rate = self._pulse_counts / cycles
        clock_net += float((rate * self._pulse_load).sum())
        gates = float((rate * self._pulse_internal).sum())
        every = by_number + internal + clock_pins
        return Energy(
            internal=float(internal.sum()),
            switching=float(switching[driven].sum()),
            inputs=float(switching[~driven].sum()),
            clock_pins=float(clock_pins.sum()) + gates,
            clock_net=clock_net,
            leakage_nw=self._leak / max(self._leak_samples, 1),
            cycles=cycles,
            toggles=float(self._toggles[CONSTANT_1 + 1 :].mean() / cycles),
            by_instance={i.name: float(e) for i, e in zip(netlist.instances, every, strict=True)},
        )


def _ones(words: Words) -> Counts:
    return np.bitwise_count(words).sum(axis=1, dtype=np.int64)


def _holds(when: str, pins: dict[str, NDArray[np.int64]], nets: Words) -> Words:
    """Words in which `when` holds; a pin that is not connected counts as 0, and so does the clock: it has fallen."""
    values = {name: nets[pins[name]] for name in variables(when) if name in pins}
    missing = set(variables(when)) - set(values)
    first = next(iter(pins.values()))
    values |= {name: np.zeros((len(first), nets.shape[1]), dtype=np.uint64) for name in missing}
    result = compile_expression(when)(values, _ZERO, ONES)
    shape = (len(first), nets.shape[1])
    return np.broadcast_to(result, shape) if np.shape(result) != shape else result
