"""Every value of every parameter, in simulation against the golden model: few units, in which each value occurs.

`make verify` takes all values of `k_max` too, the neighbours of each step of the accumulator's width.
"""

from dataclasses import asdict

import pytest

from fgmp.hdl.config import PRESETS, EngineConfig, LaneConfig, SelectorConfig
from fgmp.hdl.design import build
from fgmp.hdl.values import VALUES, covering, legal_values, values_that_matter
from fgmp.sim.engine.checks import Bench
from fgmp.sim.engine.driver import EngineDriver
from fgmp.sim.engine.scenarios import SCENARIOS as ALL_SCENARIOS
from fgmp.sim.engine.scenarios import run_scenarios
from fgmp.sim.engine.verilated import VerilatedEngine, build_library
from fgmp.sim.parts.regression import regress_part
from fgmp.sim.parts.stimuli import stimuli
from fgmp.sim.regression import campaigns_of
from fgmp.sim.verilated_unit import VerilatedUnit
from fgmp.synth.asic.flow import implement, simulate
from fgmp.synth.asic.mapping import Target
from fgmp.synth.liberty.cells import StandardCells

from .conftest import ROOT, build_preset, with_long
from .test_engine import ODD
from .test_engine import SHORT as SHORT_SCENARIOS
from .test_rate import STREAMS

LIBRARY = ROOT / "tests" / "data" / "five_cells.lib"

SHORT = {**VALUES, "k_max": (16, 32, 1328, 1344, 42_784)}
KINDS = {"lane": LaneConfig(), "selector": SelectorConfig(), "engine": EngineConfig()}


# Engines that all of these scenarios are run on elsewhere: tests/test_engine.py, tests/test_rate.py, and below.
BESIDE = {"engine": [*(PRESETS[name][1] for name in ("engine", "engine-4", "engine-8")), ODD, *STREAMS.values()]}


def chosen(kind, values):
    return covering(KINDS[kind], 3, values, beside=BESIDE.get(kind, ()), tries=1000)


def units(values):
    return {f"{kind}-{index}": config for kind in KINDS for index, config in enumerate(chosen(kind, values))}


def dear(found):
    """The engines that take longest to compile: those that pack results, but for the one with the most streams."""
    packing = [unit for unit in found if getattr(unit, "packed_output", False)]
    return sorted(packing, key=lambda unit: unit.weight_streams)[:-1]


def pytest_generate_tests(metafunc):
    if "unit" in metafunc.fixturenames:
        found = units(VALUES if metafunc.config.getoption("--whole-matrix") else SHORT)
        metafunc.parametrize("unit", with_long(found.values(), *dear(found.values())), ids=found)


def test_each_value_occurs():
    for kind, preset in KINDS.items():
        for values in (VALUES, SHORT):
            found = chosen(kind, values)
            seen = set().union(*map(values_that_matter, [*found, *BESIDE.get(kind, ())]))
            assert seen >= set(legal_values(preset, values)), kind
            assert len(found) <= 22, kind
    # A depth of selectors is none where there is no selector, nor does N end anywhere if results leave as numbers.
    bare = EngineConfig(raw_input="none", packed_output=False)
    assert {name for name, _ in values_that_matter(bare)} == set(asdict(bare)) - {"selector_pipeline", "n_max"}
    assert {name for name, _ in values_that_matter(EngineConfig())} == set(asdict(bare))
    assert ("pipeline", 5) in set(legal_values(LaneConfig()))
    assert ("pipeline", 5) not in set(legal_values(EngineConfig()))


def test_every_parameter_of_every_preset_has_values():
    for name, (_, config) in PRESETS.items():
        values = set(legal_values(config))
        for parameter, value in asdict(config).items():
            known = {v for p, v in values if p == parameter}
            assert len(known) > 1, (name, parameter)
            # Accumulators are also built for one lane; a preset's longest K lies between two steps of the width.
            assert value in known or (parameter, value) == ("lanes", 1) or parameter == "k_max", (name, parameter)


def test_computes_what_golden_does(unit, cache):
    design = build(unit, "unit")
    if isinstance(unit, EngineConfig):
        engine = VerilatedEngine(build_library(design, cache=cache), seed=1)
        results = run_scenarios(Bench(engine, EngineDriver(engine, unit), 1), SHORT_SCENARIOS)
    else:
        campaigns = campaigns_of(design, count=64, share=61, model=False)
        results = VerilatedUnit(design, cache=cache).run(campaigns)
    assert [r.first for r in results if r.differences] == []
    assert all(r.compared for r in results)


PARTS = {
    name: PRESETS[name][1]
    for name in ("dot-mixed", "engine-lane", "decoder-e4m3", "accumulators", "activation-decoder", "row-order")
}


@pytest.mark.long
def test_the_engine_for_fpgas(cache):
    """All scenarios on a preset that no other test simulates."""
    design = build_preset("engine-8")
    engine = VerilatedEngine(build_library(design, cache=cache), seed=1)
    results = run_scenarios(Bench(engine, EngineDriver(engine, design.config), 1), ALL_SCENARIOS)
    assert [r.first for r in results if r.differences] == []


# Accumulators of several lanes, and in a memory: tests/test_order.py, and the engines above.
SMALL = {**SHORT, "k_max": (16, 1328, 1344), "lanes": (1,), "storage": ("banked",)}


def parts():
    return {
        f"{name}-{index}": config
        for name, preset in PARTS.items()
        for index, config in enumerate(covering(preset, 1, SMALL))
    }


@pytest.mark.parametrize("part", parts().values(), ids=parts())
def test_a_part_computes_what_golden_does(part, cache):
    """Every output whenever there is an answer, 64 streams one after the other."""
    results = regress_part(build(part, "part"), count=64 * 24, seed=1, cache=cache)
    assert [r.first for r in results if r.differences] == []
    assert all(r.compared for r in results)


@pytest.mark.parametrize("name", PARTS)
def test_gates_of_a_part_compute_what_golden_does(name, tmp_path):
    """Mapped to a small library; every output in every cycle, 64 streams at once."""
    design = build(covering(PARTS[name], 1, SMALL)[0], "part")
    unit = implement(design, Target(StandardCells(LIBRARY.read_text(), LIBRARY.name)), tmp_path)
    for activity, stimulus in stimuli(design, words=1, cycles=24, seed=1).items():
        simulate(unit, stimulus, activity)
