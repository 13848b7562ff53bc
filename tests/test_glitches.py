"""Simulation with delays: pulses by hand, and what they add to a netlist's energy."""

from itertools import pairwise

import numpy as np
import pytest

from fgmp.hdl.config import RowOrderConfig
from fgmp.hdl.design import build
from fgmp.sim.parts.stimulus import Stimulus
from fgmp.synth.asic.flow import Implementation, implement
from fgmp.synth.asic.glitches import TimedSimulator, glitch_factors
from fgmp.synth.asic.mapping import Mapped, Target
from fgmp.synth.asic.timing import analyse

from .conftest import ROOT
from .test_synth import cells, five_cells

HIGH = ~np.uint64(0)


@pytest.mark.parametrize(("late", "pulses"), [(0, 0), (1, 0), (6, 2)])
def test_glitches_by_hand(late, pulses):
    """In y = NAND(q, in2) q falls while in2 rises: y has a pulse if q is later by more than a gate's delay."""
    netlist = five_cells()
    timed = TimedSimulator(Implementation(None, Target(cells()), Mapped({}, {}, {}), netlist, analyse(netlist, None)))
    data, in2, q, inverted, y, z, q2 = 3, 4, 5, 6, 7, 8, 9
    delay = next(steps for gate, steps in timed.gates if y in gate.output)
    assert delay >= 1
    timed.launches = {0: np.array([data, in2]), late * delay: np.array([q, q2])} if late else {
        0: np.array([data, in2, q, q2])
    }  # fmt: skip
    before, after = np.zeros((netlist.count, 1), dtype=np.uint64), np.zeros((netlist.count, 1), dtype=np.uint64)
    for nets, value in ((before, {q: HIGH, y: HIGH, z: HIGH}), (after, {in2: HIGH, inverted: HIGH, y: HIGH, z: HIGH})):
        for net, bits in {1: HIGH, **value}.items():
            nets[net] = bits
    states = [before, *timed.states(before, after)]
    assert sum(bool((a[y] != b[y]).any()) for a, b in pairwise(states)) == pulses
    assert (states[-1] == after).all()


def test_glitches_count_only_what_moves():
    """Logic of several levels takes more with delays; shares without a cycle are left out."""
    target = Target(cells())
    rows = build(RowOrderConfig(8), "row_order")
    unit = implement(rows, target, ROOT / "out" / "synth")
    rng = np.random.default_rng(1)
    inputs = {
        port.name: rng.integers(0, 1 << 63, (24, port.width, 1), dtype=np.uint64)
        for port in rows.ports
        if port.direction == "input" and port.name != "clk"
    }
    stimulus = Stimulus("random", inputs, {}, 24, 2)
    every = np.full((24, 1), HIGH)
    some = rng.integers(0, 1 << 63, (24, 1), dtype=np.uint64)
    factors = glitch_factors(unit, stimulus, range(4, 20), {"all": every, "some": some, "none": 0 * every})
    assert set(factors) == {"all", "some"}
    assert 1.01 < factors["all"] < 3
    assert glitch_factors(unit, stimulus, range(4, 20)) == {"": factors["all"]}
