"""How much more a netlist takes when gates have delays: glitches, by simulation of a few cycles in steps of time.

A gate's delay is the mean of its arcs at its load. It is inertial: an output follows its function once that has been
steady for as long as the delay, so that a pulse shorter than a gate does not pass it. Flip-flops answer after their own
delay, inputs at once. Wires have none.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..liberty.expression import compile_expression, variables
from .flow import Implementation
from .gates import GateSimulator, Words, pin_nets
from .netlist import CONSTANT_1, Instance
from .power import PowerMeter
from .stimulus import Stimulus

__all__ = ["STEP", "TimedSimulator", "glitch_factors"]

STEP = 0.05
"""Of time, in ns."""

_ZERO, _ONES = np.uint64(0), np.uint64(0xFFFF_FFFF_FFFF_FFFF)


@dataclass(frozen=True)
class _Delayed:
    """All gates of one type and one delay, for one output."""

    function: Callable[[Mapping[str, Words], np.uint64, np.uint64], Words]
    inputs: tuple[tuple[str, NDArray[np.int64]], ...]
    output: NDArray[np.int64]
    steps: int

    def value(self, nets: Words) -> Words:
        """What the gates will answer if their inputs stay."""
        found = self.function({name: nets[rows] for name, rows in self.inputs}, _ZERO, _ONES)
        return np.array(np.broadcast_to(found, (len(self.output), nets.shape[1])))


def glitch_factors(
    unit: Implementation, stimulus: Stimulus, cycles: Sequence[int], shares: Mapping[str, Words] | None = None
) -> dict[str, float]:
    """Dynamic energy with delays, as a multiple of that without, in the given cycles of the stimulus.

    By share, as in `simulate`; without `shares` there is one, called "". Shares that do not occur are left out.
    """
    assert unit.timing is not None
    netlist = unit.netlist
    words = next(iter(stimulus.inputs.values())).shape[2]
    if shares is None:
        shares = {"": np.full((stimulus.cycles, words), _ONES)}
    meters = {
        name: tuple(PowerMeter(netlist, unit.timing, unit.target.cells.voltage) for _ in range(2)) for name in shares
    }
    simulator = GateSimulator(netlist, words)
    timed = TimedSimulator(unit)
    driven = [(values, netlist.ports[port]) for port, values in stimulus.inputs.items() if port in netlist.ports]
    chosen = set(cycles)
    before: Words | None = None
    for cycle in range(max(cycles) + 1):
        drive = {n: values[min(cycle, len(values) - 1), b] for values, nets in driven for b, n in enumerate(nets)}
        settled = simulator.settle({n: w for n, w in drive.items() if n > CONSTANT_1}).copy()
        if cycle in chosen and before is not None:
            kept = {name: bits[cycle] for name, bits in shares.items()}
            for pair in meters.values():
                for meter in pair:
                    meter.start(before)
            for nets in timed.states(before, settled):
                for name, (_, with_delays) in meters.items():
                    with_delays.move(nets, kept[name])
            for name, pair in meters.items():
                for meter in pair:
                    meter.count(settled, kept[name])
        before = settled
        simulator.clock()
    found = {}
    for name, (plain, with_delays) in meters.items():
        if plain.cycles:
            found[name] = with_delays.energy().dynamic / plain.energy().dynamic
    return found


class TimedSimulator:
    """Goes from one settled state to the next in steps of time.

    Attributes:
        gates: those of one type and delay together.
        launches: nets that change by themselves, by the step in which they do.
    """

    def __init__(self, unit: Implementation):
        assert unit.timing is not None
        self._slews = unit.timing.slews.mean(axis=1)
        self._load = unit.timing.load[:, 0]
        groups: dict[tuple[str, str, int], list[Instance]] = defaultdict(list)
        launches: dict[int, list[int]] = defaultdict(list)
        for instance in unit.netlist.instances:
            for pin in instance.cell.outputs:
                if pin not in instance.nets:
                    continue
                steps = self._steps(instance, pin)
                if instance.cell.clock_pin is None:
                    groups[instance.cell.name, pin, steps].append(instance)
                else:
                    launches[steps].append(instance.nets[pin])
        self.gates = [_delayed(instances, pin, steps) for (_, pin, steps), instances in groups.items()]
        self.launches = {steps: np.array(nets) for steps, nets in launches.items()}
        self.launches[0] = np.array(sorted(set(unit.netlist.sources())), dtype=np.int64)
        self._longest = max((gate.steps for gate in self.gates), default=1)

    def _steps(self, instance: Instance, pin: str) -> int:
        """Delay of a cell's output in steps, at least one."""
        load = float(self._load[instance.nets[pin]])
        delays = [
            table.at(float(self._slews[instance.nets.get(arc.related, 0)]), load)
            for arc in instance.cell.pins[pin].arcs
            for table in arc.delay.values()
        ]
        return max(1, round(sum(delays) / len(delays) / STEP)) if delays else 1

    def states(self, before: Words, settled: Words) -> list[Words]:
        """The states after each step in which something moves, up to `settled`."""
        nets = before.copy()
        history = [[gate.value(nets)] * (gate.steps + 1) for gate in self.gates]
        found = []
        quiet, time = 0, 0
        last_launch = max(self.launches)
        while quiet <= self._longest + 1 or time <= last_launch:
            following = nets.copy()
            for gate, past in zip(self.gates, history, strict=True):
                past.append(gate.value(nets))
                del past[0]
                high, low = past[0], past[0]
                for value in past[1:]:
                    high, low = high & value, low | value
                following[gate.output] = high | (nets[gate.output] & low)
            if time in self.launches:
                rows = self.launches[time]
                following[rows] = settled[rows]
            moved = bool((following != nets).any())
            quiet = 0 if moved else quiet + 1
            nets = following
            time += 1
            if moved:
                found.append(nets)
        assert (nets == settled).all(), "delays change where a state settles"
        return found


def _delayed(instances: list[Instance], pin: str, steps: int) -> _Delayed:
    text = instances[0].cell.pins[pin].function or "0"
    inputs = tuple((name, pin_nets(instances, name)) for name in variables(text))
    return _Delayed(compile_expression(text), inputs, pin_nets(instances, pin), steps)
