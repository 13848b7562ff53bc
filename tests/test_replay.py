"""Recorded streams: the benches that are written replay them, need nothing of fgmp, and see a planted fault."""

import hashlib
import json
import re
import subprocess
import sys

import pytest

from fgmp.__main__ import main
from fgmp.sim.replay.recording import OPERATIONS, record
from fgmp.sim.runner import tools

from .conftest import build_preset, with_long

UNITS = {
    "lane-1k": ["--count", "40", "--campaign", "random rows", "NaN codes and recovery", "rounding ties and exponents"],
    "selector-flat": ["--count", "40", "--campaign", "random heavy-tailed", "every tensor exponent"],
    "engine-4": ["--count", "4"],
    "engine-lane": ["--count", "64", "--campaign", "random mix, 70 % FP4"],
    "dot-mixed": ["--count", "64", "--campaign", "FP8xFP4"],
}


@pytest.fixture(scope="module", params=with_long(UNITS, "engine-4", "selector-flat", "dot-mixed"))
def replay(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay") / request.param
    assert main(["replay", request.param, *UNITS[request.param], "-o", str(folder)]) == 0
    return folder


def manifest(folder):
    return json.loads((folder / "replay.json").read_text())


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def in_verilator(folder):
    """Build and run the bench in SystemVerilog; its exit code and what it says."""
    name = f"replay_{manifest(folder)['unit']}"
    options = ["--binary", "--timing", "-CFLAGS", "-fcoroutines -O0", "-Wno-fatal", "--top-module", name]
    with tools("verilator"):
        code, said = run(folder, "verilator", *options, "bench.sv", *manifest(folder)["verilog"])
        assert code == 0, said
        return run(folder, folder / "obj_dir" / f"V{name}")


def in_icarus(folder):
    code, said = run(folder, "iverilog", "-g2012", "-o", "replay", "bench.sv", *manifest(folder)["verilog"])
    assert code == 0, said
    return run(folder, "vvp", "replay")


def plant(folder):
    """One wrong gate in the unit; returns what undoes it."""
    file = folder / manifest(folder)["verilog"][0]
    good = file.read_text()
    bad, times = re.subn(*FAULTS[manifest(folder)["unit"]], good, count=1)
    assert times == 1
    file.write_text(bad)
    return lambda: file.write_text(good)


FAULTS = {
    "lane_1k": (r"normalized_normalized\[\d+:0\]\) \|", "normalized_normalized[20:9]) |"),
    "selector_flat": (r"assign i_ready = .*;", "assign i_ready = 1'h1;"),
    "engine_lane": (r"(three_3 = \S+) & ", r"\1 | "),
    "dot_mixed": (r"(three_3 = \S+) & ", r"\1 | "),
    "engine_4": (r"address_there <= 1'h1;\n", "address_there <= 1'h0;\n"),
}


def wrong_answer(folder):
    """One bit of one expected beat; returns its number and what undoes it."""
    file = folder / f"{manifest(folder)['results']['name']}.hex"
    good = file.read_text()
    lines = good.split("\n")
    middle, bit = len(lines) // 2, 2
    if (checked := folder / "checked.hex").exists():
        counts = [int(line, 16) for line in checked.read_text().split()]
        middle = next(number for number in range(middle, len(counts)) if counts[number])
        bit = counts[middle] & -counts[middle]
    lines[middle] = f"{int(lines[middle], 16) ^ bit:x}"
    file.write_text("\n".join(lines))
    return middle, lambda: file.write_text(good)


def test_verilator_replays_it_and_sees_a_wrong_answer(replay):
    code, said = in_verilator(replay)
    assert code == 0, said
    beats = manifest(replay)["results"]["beats"]
    assert f"PASS: {beats} beats compared, none differs" in said
    assert "FAIL" not in said
    assert beats > 20
    beat, undo = wrong_answer(replay)
    code, said = run(replay, replay / "obj_dir" / f"Vreplay_{manifest(replay)['unit']}")
    undo()
    assert code != 0
    assert re.search(rf"FAIL: different beat +{beat}\b", said)
    assert "1 differences" in said


def in_cocotb(folder, simulator):
    """In a process that finds no fgmp."""
    return run(folder, sys.executable, "-I", "test_replay.py", simulator)


def cocotb_sees(folder, simulator):
    beats = manifest(folder)["results"]["beats"]
    code, said = in_cocotb(folder, simulator)
    assert code == 0, said
    assert f"PASS: {beats} beats compared, none differs" in said, said
    beat, undo = wrong_answer(folder)
    code, said = in_cocotb(folder, simulator)
    undo()
    assert code != 0
    assert "1 differences" in said
    assert f"beat {beat}: expected" in said


@pytest.mark.long
def test_cocotb_replays_an_engine(tmp_path):
    assert main(["replay", "engine-4", "--count", "2", "-o", str(tmp_path)]) == 0
    with tools("verilator"):
        cocotb_sees(tmp_path, "verilator")


@pytest.mark.optional
def test_icarus_replays_it_and_sees_a_fault(replay, machine):
    machine("iverilog", "apt install iverilog")
    code, said = in_icarus(replay)
    assert code == 0, said
    assert "none differs" in said
    cocotb_sees(replay, "icarus")
    undo = plant(replay)
    code, said = in_icarus(replay)
    undo()
    assert code != 0
    assert "FAIL: " in said


def test_what_is_written(replay, tmp_path):
    known = manifest(replay)
    for name, digest in known["sha256"].items():
        assert hashlib.sha256((replay / name).read_bytes()).hexdigest() == digest, name
    unit = replay.name
    again = tmp_path / "again"
    assert main(["replay", unit, *UNITS[unit], "-o", str(again)]) == 0
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {
        p.name: p.read_bytes() for p in replay.iterdir() if p.name in known["sha256"] or p.name == "replay.json"
    }
    assert "fgmp" not in re.sub(r"fgmp_\w+|by fgmp [\d.]+|Do not edit", "", (replay / "bench.sv").read_text())


@pytest.mark.parametrize("preset", ["lane-1k", "engine-4"])
def test_every_step_is_one_that_benches_know(preset):
    recording = record(build_preset(preset), count=4, seed=1)
    assert {step.operation for step in recording.steps} < set(OPERATIONS)
    assert recording.steps[-1].operation == "end"
    sent = [sum(s.value for s in recording.steps if s.operation == "send" and s.index == i)
            for i in range(len(recording.sources))]  # fmt: skip
    assert sent == [len(stream.beats) for stream in recording.sources]
    assert sum(s.value for s in recording.steps if s.operation == "expect") == len(recording.results.beats)
    assert all(len(step.line()) == 16 for step in recording.steps)


@pytest.mark.long
def test_parts_go_through_the_cocotb_bench_too(tmp_path):
    """The one port of each kind: a clock, none, several outputs of which not all have an answer."""
    for preset in ("row-order", "decoder-e2m1"):
        assert main(["replay", preset, "--count", "64", "-o", str(tmp_path / preset)]) == 0
        with tools("verilator"):
            cocotb_sees(tmp_path / preset, "verilator")


def test_bad_input_is_one_line(capsys, tmp_path):
    for arguments, message in (
        (["accumulators", "--set", "lanes=4"], "no stimulus for lanes=4 storage=banked, expected 1 and banked"),
        (["dot-mixed", "--campaign", "x"], "campaign: 'x', expected one of 'FP4xFP4', "),
        (["lane", "--count", "0"], "count: 0, expected 1 to 100000"),
        (["engine-4", "--count", "2000"], "count: 2000, expected at most 1000 GEMMs"),
        (["lane", "--seed", "-1"], "seed: -1, expected at least 0"),
        (["lane-1k", "--count", "1", "--campaign", "x"], "campaign: 'x', expected one of 'block scales"),
        (["engine-4", "--campaign", "x"], "campaign: 'x', expected none of an engine"),
    ):
        assert main(["replay", *arguments, "-o", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
