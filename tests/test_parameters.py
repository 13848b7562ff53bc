"""Every preset with every legal value of every parameter: lint, names, and paths from input to output.

The whole matrix takes a quarter of an hour (`make lint-matrix`); the suite takes a part of it.
"""

import os
import re
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from fgmp.errors import InputError
from fgmp.hdl.config import PRESETS, DotConfig, EngineConfig, LaneConfig, SelectorConfig
from fgmp.hdl.design import build, build_preset, write_design
from fgmp.hdl.names import KEYWORDS
from fgmp.hdl.values import VALUES as ALL_VALUES
from fgmp.sim.runner import verilator_folder
from fgmp.synth.paths import combinational_paths

from . import conftest
from .conftest import with_long

VALUES = {**ALL_VALUES, "k_max": (16, 1024, 42_784), "n_max": (16, 65_536)}


def matrix():
    """Configurations by name, each once; the big engines last."""
    found = {}
    for name, (_, config) in PRESETS.items():
        for field in fields(config):
            for value in VALUES[field.name]:
                try:
                    found.setdefault(replace(config, **{field.name: value}), f"{name} {field.name}={value}")
                except InputError:
                    continue
    return {name: config for config, name in found.items()}


MATRIX = matrix()
# One of every nineteen that is not large, and what once had a warning.
PART = [name for i, name in enumerate(MATRIX) if i % 19 == 5 and not name.startswith(("engine ", "engine-channel "))]
PART += ["dot-mixed pipeline=3", "dot-fp8 pipeline=1", "accumulators rows=8", "engine-4 accumulators=banked"]
PART += ["engine-8 weight_streams=2", "engine-8 lanes=64", "dot-fp8 signs=extended"]


def test_the_matrix_has_every_parameter_of_every_unit():
    for _, config in PRESETS.values():
        assert {field.name for field in fields(config)} <= set(VALUES)
    assert len(MATRIX) > 200
    assert set(PART) <= set(MATRIX)


def pytest_generate_tests(metafunc):
    if "variant" in metafunc.fixturenames:
        whole = metafunc.config.getoption("--whole-matrix")
        metafunc.parametrize("variant", MATRIX if whole else with_long(PART, "engine-8 lanes=64"))


def verilator(folder, *arguments):
    environment = {**os.environ, "PATH": f"{verilator_folder()}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["verilator", *arguments], cwd=folder, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout + done.stderr


def test_lints_clean(variant, tmp_path):
    design = build(MATRIX[variant], "unit")
    for name, text in design.sources.items():
        (tmp_path / name).write_text(text)
    code, said = verilator(tmp_path, "--lint-only", "-Wall", "--top-module", "unit", *design.sources)
    assert code == 0, said
    assert "%" not in said


# Names


@pytest.mark.parametrize("name", ["begin", "logic", "small", "checker", "unique0"])
def test_keywords_are_no_module_names(name):
    with pytest.raises(InputError, match=f"module name: '{name}', expected none that is a keyword"):
        build(DotConfig("fp8"), name)


def test_all_keywords_are_known(tmp_path):
    """IEEE 1800-2017 has 248; some of them are refused as a module's name by a tool that is not ours."""
    assert len(KEYWORDS) == 248
    for name in sorted(KEYWORDS)[::40]:
        (tmp_path / "unit.v").write_text(f"module {name} (input a); endmodule\n")
        code, _ = verilator(tmp_path, "--lint-only", "unit.v")
        assert code, name


@pytest.mark.parametrize("name", ["clk", "o_valid", "total", "accumulator", "FGMP_RAM_1R1W"])
def test_names_that_the_unit_has_inside(name):
    with pytest.raises(InputError, match=f"module name: '{name}', expected"):
        build(LaneConfig(64, 0), name)


@pytest.mark.parametrize("name", ["fgmp_ram_1r1w", "a-b", "", "2x", "x" * 300])
def test_other_names_that_cannot_be(name):
    with pytest.raises(InputError, match=r"^module name: ") as caught:
        build(PRESETS["engine-4"][1], name)
    assert "\n" not in str(caught.value)


# IEEE 1076-2008, 15.10.
VHDL = set(
    """
    abs access after alias all and architecture array assert assume assume_guarantee attribute begin block body buffer
    bus case component configuration constant context cover default disconnect downto else elsif end entity exit
    fairness file for force function generate generic group guarded if impure in inertial inout is label library
    linkage literal loop map mod nand new next nor not null of on open or others out package parameter port postponed
    procedure process property protected pure range record register reject release rem report restrict
    restrict_guarantee return rol ror select sequence severity shared signal sla sll sra srl strong subtype then to
    transport type unaffected units until use variable vmode vprop vunit wait when while with xnor xor
    """.split()  # noqa: SIM905
)


LARGE = ("engine", "engine-channel", "engine-8")


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in LARGE])
def test_vhdl_can_say_every_port(name):
    for port in conftest.build_preset(name).ports:
        assert re.fullmatch(r"[a-z]([a-z0-9]|_(?=[a-z0-9]))*", port.name), port.name
        assert port.name not in VHDL


def test_the_old_port_names_stay_for_one_release(tmp_path):
    from fgmp.__main__ import main

    assert main(["verilog", "lane-1k", "-o", str(tmp_path), "--double-underscores"]) == 0
    text = (tmp_path / "lane_1k.v").read_text()
    assert {"i__payload", "i__valid", "i__ready", "o__payload"} <= set(re.findall(r"\w+", text))
    assert "`o__payload`" in (tmp_path / "lane_1k.md").read_text()


@pytest.mark.long
def test_variants_have_names_of_their_own(tmp_path):
    from fgmp.__main__ import main

    folder = tmp_path / "out"
    assert main(["verilog", "engine-4", "-o", str(folder)]) == 0
    assert main(["verilog", "engine-4", "--set", "rows=16", "-o", str(folder)]) == 0
    assert main(["verilog", "engine-4", "--set", "rows=16", "--name", "mine", "-o", str(folder)]) == 0
    cores = {re.search(r"^name: (\S+)", p.read_text(), re.MULTILINE)[1] for p in folder.glob("*.core")}
    versionless = {core.rpartition(":")[0] for core in cores}
    assert versionless == {"fgmp::engine_4", "fgmp::engine_4_rows_16", "fgmp::mine", "fgmp::fgmp_ram_1r1w"}
    assert build_preset("lane", ["pipeline=4"]).name == "lane"


# Two units in one design


def two_engines_and_a_lane(folder):
    """Their files, and a top level that instantiates all of them."""
    designs = [
        build_preset("engine-4"),
        build(replace(PRESETS["engine-4"][1], rows=16), "other"),
        build_preset("engine-lane"),
        build_preset("lane-1k"),
    ]
    lines = ["module top (input clk);", "  /* verilator lint_off PINMISSING */"]
    for design in designs:
        write_design(design, folder)
        clock = "aclk" if isinstance(design.config, EngineConfig) else "clk"
        lines.append(f"  {design.name} u_{design.name} (.{clock}(clk));")
    (folder / "top.v").write_text("\n".join([*lines, "endmodule", ""]))
    return sorted(path.name for path in folder.glob("*.v"))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    return folder, two_engines_and_a_lane(folder)


@pytest.mark.long
def test_two_engines_and_a_lane_in_verilator(many):
    folder, files = many
    assert files.count("fgmp_ram_1r1w.v") == 1
    code, said = verilator(folder, "--lint-only", "-Wno-fatal", "--top-module", "top", *files)
    assert code == 0, said
    assert not re.search(r"%Error|MODDUP", said), said


@pytest.mark.long
def test_two_engines_and_a_lane_in_yosys(many):
    from fgmp.hdl.yosys import run_yosys

    folder, files = many
    reads = "; ".join(f"read_verilog {file}" for file in files)
    run_yosys(folder, "top", "-p", f"{reads}; hierarchy -check -top top")


@pytest.mark.optional
def test_two_engines_and_a_lane_in_icarus(many, machine, tmp_path):
    machine("iverilog", "apt install iverilog")
    folder, files = many
    done = subprocess.run(
        ["iverilog", "-g2005", "-s", "top", "-o", str(tmp_path / "top.vvp"), *files],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_two_engines_and_a_lane_in_fusesoc(many, tmp_path):
    """The cores are found, their dependencies resolved, and Verilator lints what FuseSoC hands it."""
    folder, _ = many
    names = [path.stem for path in folder.glob("*.core")]
    depends = ", ".join(f'"fgmp::{name}"' for name in names)
    (folder / "top.core").write_text(
        "CAPI=2:\nname: fgmp::top:1\nfilesets:\n  rtl:\n    files: [top.v]\n    file_type: verilogSource\n"
        f"    depend: [{depends}]\ntargets:\n  default:\n    filesets: [rtl]\n    toplevel: top\n"
        "  lint:\n    filesets: [rtl]\n    toplevel: top\n    default_tool: verilator\n    tools:\n"
        "      verilator:\n        mode: lint-only\n        verilator_options: [-Wno-fatal]\n"
    )
    environment = {**os.environ, "PATH": f"{verilator_folder()}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "fusesoc.main", "--cores-root", str(folder), "run", "--target", "lint", "top"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MODDUP" not in done.stdout + done.stderr


# Paths from input to output


@pytest.mark.parametrize(
    "config",
    [LaneConfig(1024), LaneConfig(1024, 0), SelectorConfig(), SelectorConfig("bfloat16", pipeline=0)],
    ids=["lane", "lane-flat", "selector", "selector-flat"],
)
def test_only_ready_passes_through_a_stream_unit(config):
    assert combinational_paths(build(config, "unit")) == {"o_ready": {"i_ready"}}


# `engine-channel` has all that `engine` has.
ENGINES = {n: config for n, (_, config) in PRESETS.items() if isinstance(config, EngineConfig) and n != "engine"}


@pytest.mark.parametrize("config", with_long(ENGINES.values(), ENGINES["engine-channel"]), ids=ENGINES)
def test_no_output_of_an_engine_depends_on_an_input_in_the_same_cycle(config):
    """With few rows and slots, which no path depends on, and in a quarter of the time."""
    assert combinational_paths(build(replace(config, rows=8, slots=2), "unit")) == {}


def test_such_a_path_is_seen():
    design = conftest.build_preset("engine-4")
    found = re.search(r"assign axi_awready = ", design.verilog)
    assert found
    faulty = design.verilog.replace(found[0], "assign axi_awready = axi_wvalid & ")
    assert combinational_paths(replace(design, verilog=faulty)) == {"s_axi_wvalid": {"s_axi_awready"}}
