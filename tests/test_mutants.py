"""Mutants and units with random parameters: what is planted is found, proven equivalent or listed; runs continue."""

import ast
import json
import re
import shlex
import subprocess
import sys

import pytest

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.formal.equivalence import Equivalence
from fgmp.report.build import section_of
from fgmp.sim import random_units, regression
from fgmp.sim.engine import regression as engine_regression
from fgmp.sim.engine.checks import Bench
from fgmp.sim.engine.driver import EngineDriver
from fgmp.sim.engine.scenarios import run_scenarios
from fgmp.sim.engine.verilated import VerilatedEngine, build_library
from fgmp.sim.mutants import run
from fgmp.sim.mutants.plant import in_netlist, in_source
from fgmp.sim.mutants.reasons import _REASONS, reason
from fgmp.sim.mutants.run import run_mutants
from fgmp.sim.mutants.source import rewritten
from fgmp.sim.random_units import run_random_units
from fgmp.sim.runner import SimulationError

from .conftest import ROOT, build_preset
from .test_faults import children, wait_for


def test_mutants_stand_behind_an_input():
    design = build_preset("decoder-e2m1")
    planted = in_netlist(design, 12, 1)
    lines = [m.line for m in planted.mutants]
    assert [m.number for m in planted.mutants] == list(range(1, 13))
    assert planted.faulty.port("fault_select").width == 4
    assert "fault_select" in planted.faulty.verilog
    assert [m.line for m in in_netlist(design, 12, 1).mutants] == lines
    assert [m.line for m in in_netlist(design, 12, 2).mutants] != lines


def test_mutants_of_the_source():
    """Each says where it is, and nearly each changes what the unit does; what only planted faults use does not."""
    planted = in_source("decoder-e4m3", [], "decoder_e4m3", 1000, 1)
    assert [m.number for m in planted.mutants] == list(range(1, len(planted.mutants) + 1))
    for mutant in planted.mutants:
        file, line, rest = mutant.line.split(":", 2)
        good, wrong = rest.strip().split(" -> ")
        assert wrong
        assert re.match(r"~?\w+", good)[0] in (ROOT / file).read_text().splitlines()[int(line) - 1]
    with Equivalence(planted.proven, right=planted.right) as unit:
        assert unit.holds(planted.right, 20)
        left = [m.line for m in planted.mutants if unit.holds(m.change, 20)]
    assert [line for line in left if ":37:" not in line] == []
    assert len(left) < len(planted.mutants) // 2
    assert [m.line for m in in_source("decoder-e4m3", [], "decoder_e4m3", 5, 2).mutants] != []


def test_what_a_mistake_would_have_written():
    """Every kind of place, in a module of a few lines, with the values that are wrong."""
    source = """
from functools import reduce
from operator import or_
from amaranth.hdl import Module, Mux, Signal

def elaborate(a, b, c, out):
    m = Module()
    with m.If(c):
        m.d.sync += out.eq(Mux(a[0], a + b, ~b))
    m.d.comb += out.eq(reduce(or_, [a, b, a & b]))
    assert a + b
    return m
"""
    tree = ast.unparse(rewritten(source, "unit.py"))
    assert tree.count("__fgmp_choices__.") == 10
    for call in ("module(", "condition('unit.py:8: c', c)", "clocked('unit.py:9: ", "combined('unit.py:10: ",
                 "multiplexed(", "part('unit.py:9: a[0]', a, 0)", "binary('unit.py:9: a + b', '+', a, b)", "inverted(",
                 "joined(", "binary('unit.py:10: a & b', '&', a, b)"):  # fmt: skip
        assert f"__fgmp_choices__.{call}" in tree
    assert "assert a + b" in tree


def test_reasons_are_of_places_that_there_are():
    """Each of one place alone."""
    for file, source, change in _REASONS:
        text = (ROOT / file).read_text()
        found = [number for number, line in enumerate(text.splitlines(), 1) if line.strip() == source]
        assert len(found) == 1, source
        place = f"'{file}:{found[0]}: {change.rsplit(' -> ', 1)[0]}'"
        assert place in ast.unparse(rewritten(text, file)), change
        assert reason(f"{file}:{found[0]}: {change}")
        assert reason(f"{file}:1: {change}") is None


@pytest.mark.long
def test_mutants_of_an_engines_source(cache):
    """Its top is Verilog that the input is written into; memories stay modules, so that proofs can leave them out."""
    planted = in_source("engine-4", ["rows=8"], "engine_4", 2, 1)
    assert len(planted.mutants) == 2
    engine = VerilatedEngine(build_library(planted.faulty, cache=cache))
    (result,) = run_scenarios(Bench(engine, EngineDriver(engine, planted.faulty.config), 1), ["registers"])
    assert (result.differences, result.compared > 300) == (0, True)
    with Equivalence(planted.proven, right=planted.right) as unit:
        assert unit.holds(planted.right, 60)


@pytest.mark.long
def test_the_regression_notices_mutants_of_the_source(tmp_path):
    """The smallest lane. Its proofs know of no register's value; what they do not prove is what they cannot."""
    result = run_mutants("lane-fp8", ["pipeline=0", "k_max=16"], place="source", count=12, seed=1, out=tmp_path)
    assert result["place"] == "source"
    assert result["killed"] + result["equivalent"] + len(result["survived"]) == result["mutants"] == 12
    assert result["killed"] >= 8
    assert list(tmp_path.glob("lane_fp8-pipeline=0-k_max=16-source-12-1.json"))


@pytest.mark.long
def test_the_regression_notices_and_a_run_continues(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_PROOF_SECONDS", 2)
    seen = []
    arguments = {"count": 6, "seed": 3, "out": tmp_path, "on_mutants": seen.append}
    result = run_mutants("selector-flat", [], **arguments)
    assert result["killed"] + result["equivalent"] + len(result["survived"]) == result["mutants"] == sum(seen) == 6
    assert result["killed"] >= 4
    assert section_of(result["schema"], result, "").good == (not result["survived"])
    monkeypatch.setattr(run, "judged", lambda design, numbers, *_: ((number, "x") for number in numbers))
    assert run_mutants("selector-flat", [], **arguments) == result
    data = json.loads((tmp_path / "selector_flat-6-3.json").read_text())
    killed = next(
        number for number, verdict in data["verdicts"].items() if verdict not in (run._UNPROVEN, "equivalent")
    )
    del data["verdicts"][killed]
    (tmp_path / "selector_flat-6-3.json").write_text(json.dumps(data))
    assert run_mutants("selector-flat", [], **arguments) == result
    assert json.loads((tmp_path / "selector_flat-6-3.json").read_text())["verdicts"][killed] == "x"


@pytest.mark.long
def test_workers_end_with_a_run_that_is_killed(tmp_path):
    """They would go on judging what was sent to them, for hours."""
    command = [sys.executable, "-m", "fgmp", "mutants", "selector-flat", "--count", "60", "-o", str(tmp_path)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        begun = wait_for(lambda: list(tmp_path.glob("*.json")) and children(tmp_path), 240)
        running.kill()
    assert begun
    assert wait_for(lambda: not children(tmp_path), 30), children(tmp_path)


def test_units_without_a_bench(capsys):
    with pytest.raises(InputError, match="preset dot-fp8: has no campaigns, expected a lane, a selector or an engine"):
        run_mutants("dot-fp8", [], count=1, seed=1, out=None)
    assert main(["simulate", "dot-fp8", "--campaign", "1"]) == 2
    assert "preset dot-fp8: has no campaigns" in capsys.readouterr().err
    assert main(["simulate", "--campaign", "0"]) == 2
    assert "campaign: 0.0, expected hours, more than 0" in capsys.readouterr().err
    assert main(["simulate", "lane", "--campaign", "1", "--set", "pipeline=2"]) == 2
    assert "given with --campaign" in capsys.readouterr().err
    assert main(["simulate", "--campaign", "1", "--count", "0"]) == 2
    assert "count: 0, expected 1 to 1000000" in capsys.readouterr().err
    for more in (["--set", "rows=16"], ["--campaign", "1"]):
        assert main(["simulate", "--model", "nowhere", *more]) == 2
        assert "--model: given with --set, --campaign" in capsys.readouterr().err
    assert main(["mutants", "--count", "0"]) == 2
    assert "count: 0, expected at least 1" in capsys.readouterr().err


def test_a_failure_is_reported_with_the_command_that_shows_it_again(monkeypatch):
    calls = []

    def regress(preset, changes, **options):
        calls.append((preset, list(changes), options["seed"], options["count"]))
        if len(calls) == 2:
            raise SimulationError("it differs")
        return []

    monkeypatch.setattr(random_units, "regress", regress)
    times = iter(range(100))
    monkeypatch.setattr(random_units.time, "monotonic", lambda: next(times))
    result = run_random_units(["lane", "selector"], 3, seed=5, count=7, say=lambda _: None)
    assert not section_of(result["schema"], result, "").good
    assert result["units"] == len(calls) == 3
    (failure,) = result["failures"]
    assert failure["problem"] == "it differs"
    preset, changes, seed, count = calls[1]
    words = shlex.split(failure["command"])
    assert words[:8] == ["fgmp", "simulate", preset, "--seed", str(seed), "--count", str(count), "--no-model"]
    assert words[8:] == ["--set", *changes]
    again = run_random_units(["lane", "selector"], 0, seed=5, count=7, say=lambda _: None)
    assert again["units"] == 1
    assert calls[3] == calls[0]


@pytest.mark.long
def test_a_random_unit_is_right():
    result = run_random_units(["selector"], 0, seed=2, count=20, say=lambda _: None)
    assert result["failures"] == []
    assert result["compared"] > 1000


def test_units_with_many_changes_have_short_names(monkeypatch):
    """Verilator shortens names of more than about 127 letters, and cocotb finds no unit then."""
    seen = []

    def build(preset, changes, module):
        seen.append(module)
        raise SimulationError("enough")

    changes = ["k_max=1328", "pipeline=1", "channel_codes=true", "raw_input=bfloat16", "selector_pipeline=3"]
    for module, regress in ((regression, regression.regress), (engine_regression, engine_regression.regress_engine)):
        monkeypatch.setattr(module, "build_preset", build)
        with pytest.raises(SimulationError, match="enough"):
            regress("engine-4", changes)
    assert seen == ["engine_4"] * 2
