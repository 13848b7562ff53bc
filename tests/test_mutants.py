"""Mutants and units with random parameters: what is planted is found, proven equivalent or listed; runs continue."""

import json
import shlex
import subprocess
import sys

import pytest

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.report.build import section_of
from fgmp.sim import mutants, random_units, regression
from fgmp.sim.engine import regression as engine_regression
from fgmp.sim.mutants import mutated, run_mutants
from fgmp.sim.random_units import run_random_units
from fgmp.sim.runner import SimulationError

from .conftest import build_preset
from .test_faults import children, wait_for


def test_mutants_stand_behind_an_input():
    design = build_preset("decoder-e2m1")
    faulty, found = mutated(design, 12, 1)
    assert [m.number for m in found] == list(range(1, 13))
    assert faulty.port("fault_select").width == 4
    assert "fault_select" in faulty.verilog
    assert [m.line for m in mutated(design, 12, 1)[1]] == [m.line for m in found]
    assert [m.line for m in mutated(design, 12, 2)[1]] != [m.line for m in found]


def test_the_regression_notices_and_a_run_continues(tmp_path, monkeypatch):
    monkeypatch.setattr(mutants, "_PROOF_SECONDS", 2)
    seen = []
    arguments = {"count": 6, "seed": 3, "out": tmp_path, "on_mutants": seen.append}
    result = run_mutants("selector-flat", [], **arguments)
    assert result["killed"] + result["equivalent"] + len(result["survived"]) == result["mutants"] == sum(seen) == 6
    assert result["killed"] >= 4
    assert section_of(result["schema"], result, "").good == (not result["survived"])
    monkeypatch.setattr(mutants, "_judged", lambda design, numbers, *_: ((number, "x") for number in numbers))
    assert run_mutants("selector-flat", [], **arguments) == result
    data = json.loads((tmp_path / "selector_flat-6-3.json").read_text())
    killed = next(
        number for number, verdict in data["verdicts"].items() if verdict not in (mutants._UNPROVEN, "equivalent")
    )
    del data["verdicts"][killed]
    (tmp_path / "selector_flat-6-3.json").write_text(json.dumps(data))
    assert run_mutants("selector-flat", [], **arguments) == result
    assert json.loads((tmp_path / "selector_flat-6-3.json").read_text())["verdicts"][killed] == "x"


def test_workers_end_with_a_run_that_is_killed(tmp_path):
    """They would go on judging what was sent to them, for hours."""
    command = [sys.executable, "-m", "fgmp", "mutants", "selector-flat", "--count", "60", "-o", str(tmp_path)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        begun = wait_for(lambda: list(tmp_path.glob("*.json")) and children(tmp_path), 240)
        run.kill()
    assert begun
    assert wait_for(lambda: not children(tmp_path), 30), children(tmp_path)


def test_units_without_a_bench(capsys):
    with pytest.raises(InputError, match="preset dot-fp8: has no bench, expected a lane, a selector or an engine"):
        run_mutants("dot-fp8", [], count=1, seed=1, out=None)
    assert main(["simulate", "dot-fp8", "--campaign", "1"]) == 2
    assert "preset dot-fp8: has no bench" in capsys.readouterr().err
    assert main(["simulate", "--campaign", "0"]) == 2
    assert "campaign: 0.0, expected hours, more than 0" in capsys.readouterr().err
    assert main(["simulate", "lane", "--campaign", "1", "--set", "pipeline=2"]) == 2
    assert "given with --campaign" in capsys.readouterr().err
    assert main(["simulate", "--campaign", "1", "--count", "0"]) == 2
    assert "count: 0, expected 1 to 1000000" in capsys.readouterr().err
    for more in (["--set", "rows=16"], ["--campaign", "1"]):
        assert main(["simulate", "--model", "nowhere", *more]) == 2
        assert "--model: given with --set or --campaign" in capsys.readouterr().err
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
    for module, run in ((regression, regression.regress), (engine_regression, engine_regression.regress_engine)):
        monkeypatch.setattr(module, "build_preset", build)
        with pytest.raises(SimulationError, match="enough"):
            run("engine-4", changes)
    assert seen == ["engine_4"] * 2
