"""How much more a netlist takes when gates have delays: glitches, by simulation of a few cycles in steps of time.

A gate's delay is the mean of its arcs at its load. It is inertial: an output follows its function once that has been
steady for as long as the delay, so that a pulse shorter than a gate does not pass it. Flip-flops answer after their own
delay, inputs at once. Wires have none.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ...sim.parts.stimulus import Stimulus
from ...sim.parts.words import Words
from .flow import Implementation
from .gates import GateSimulator, drive, gate_group
from .netlist import Instance
from .power import PowerMeter

__all__ = ["STEP", "TimedSimulator", "glitch_factors"]

STEP = 0.05
"""Of time, in ns."""


def glitch_factors(
    unit: Implementation, stimulus: Stimulus, cycles: Sequence[int], shares: Mapping[str, Words] | None = None
) -> dict[str, float]:
    """Dynamic energy with delays, as a multiple of that without, in the given cycles of the stimulus.

    By share, as in `simulate`; without `shares` there is one, called "". Shares that do not occur are left out.
    """
    assert unit.timing is not None
    netlist = unit.netlist
    shares = shares or stimulus.one_share()
    meters = {
        name: tuple(PowerMeter(netlist, unit.timing, unit.target.cells.voltage) for _ in range(2)) for name in shares
    }
    simulator = GateSimulator(netlist, stimulus.words)
    timed = TimedSimulator(unit)
    nets_in = drive(netlist, stimulus.inputs)
    chosen = set(cycles)
    before: Words | None = None
    for cycle in range(max(cycles) + 1):
        settled = simulator.settle(nets_in(cycle)).copy()
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
        gates: those of one type and delay together, with that delay in steps.
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
        self.gates = [(gate_group(instances, pin), steps) for (_, pin, steps), instances in groups.items()]
        self.launches = {steps: np.array(nets) for steps, nets in launches.items()}
        self.launches[0] = np.array(sorted(set(unit.netlist.sources())), dtype=np.int64)
        self._longest = max((steps for _, steps in self.gates), default=1)

    def _steps(self, instance: Instance, pin: str) -> int:
        """Delay of a cell's output in steps, at least one."""
        load = float(self._load[instance.nets[pin]])
        delays = [
            table.at(float(self._slews[instance.nets.get(arc.related, 0)]), load)
            for arc in instance.cell.pins[pin].arcs
            for table in arc.delay.values()
        ]
        return max(1, round(sum(delays) / len(delays) / STEP)) if delays else 1

    def states(self, before: Words, settled: Words) -> Iterator[Words]:
        """The states after each step in which something moves, up to `settled`."""
        nets = before.copy()
        history = [[gate.value(nets)] * (steps + 1) for gate, steps in self.gates]
        quiet, time = 0, 0
        last_launch = max(self.launches)
        while quiet <= self._longest + 1 or time <= last_launch:
            following = nets.copy()
            for (gate, _), past in zip(self.gates, history, strict=True):
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
                yield nets
        assert (nets == settled).all(), "delays change where a state settles"
