"""Recordings: every signal of a view is in them, its real numbers are the golden model's, viewers' files name them."""

import itertools
import math
import random
import re
import subprocess
from pathlib import Path

import pytest
import torch
from vcd.gtkw import decode_flags
from vcd.reader import TokenKind, tokenize

from fgmp.errors import InputError
from fgmp.golden.codec import decode_e2m1, decode_e4m3
from fgmp.golden.packing import unpack
from fgmp.golden.random_blocks import blocks_in_precisions
from fgmp.golden.selector import SiteSettings, Threshold, select
from fgmp.hdl.config import PRESETS
from fgmp.hdl.engine.registers import REGISTERS
from fgmp.sim import regression, verilated_unit
from fgmp.sim.engine.driver import EngineDriver
from fgmp.sim.engine.random_gemms import random_gemm
from fgmp.sim.engine.regression import regress_engine
from fgmp.sim.engine.verilated import VerilatedEngine, build_library
from fgmp.sim.lane_campaigns import rows_campaign
from fgmp.sim.library import recorded, recording
from fgmp.sim.regression import regress
from fgmp.sim.runner import SimulationError, tools
from fgmp.sim.selector_campaigns import BlockSet, blocks_campaign
from fgmp.sim.verilated_unit import VerilatedUnit
from fgmp.sim.waves.decoders import DECODERS
from fgmp.sim.waves.recording import has_header, trace_format
from fgmp.sim.waves.view import make_view
from fgmp.sim.waves.viewers import _surfer_item, opening_lines, view_files, view_folder

from .conftest import build_preset


class Recording:
    """A VCD file: the widths of all signals (0 of real numbers), and some values before each rise of a clock."""

    def __init__(self, path, clock, *wanted):
        self.widths, self.edges = {}, []
        scope, names, values = [], {}, {}
        with path.open("rb") as file:
            for kind, _, data in tokenize(file):
                if kind is TokenKind.SCOPE:
                    scope.append(data.ident)
                elif kind is TokenKind.UPSCOPE:
                    scope.pop()
                elif kind is TokenKind.VAR:
                    name = ".".join([*scope, data.reference])
                    self.widths[name] = 0 if data.type_.value == "real" else data.size
                    names.setdefault(data.id_code, []).append(name)
                elif kind is TokenKind.CHANGE_TIME:
                    if values.get(clock) == 0:
                        self.edges.append([values[name] for name in wanted])
                elif kind in (TokenKind.CHANGE_SCALAR, TokenKind.CHANGE_VECTOR, TokenKind.CHANGE_REAL):
                    values |= dict.fromkeys(names[data.id_code], float(data.value))

    def taken(self):
        """The wanted values after the first two where those, valid and ready, are 1; the first edge is in reset."""
        return [values for valid, ready, *values in self.edges[1:] if valid and ready]


def elements(prefix):
    return [f"{prefix}_{i}" for i in range(16)]


def random_rows(count, seed):
    """Blocks (count, 2, 16) of both precisions, legal and without NaN."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 32, generator=generator) * 30
    return blocks_in_precisions(x, torch.rand(count, 2, generator=generator) < 0.5)


@pytest.fixture(scope="module")
def lane_recording(cache, tmp_path_factory):
    """A lane's rows, with pauses, and their recording as VCD."""
    design = build_preset("lane-1k")
    a, w = random_rows(40, 1), random_rows(40, 2)
    campaign = rows_campaign(design, "rows", [(a, w, torch.full((40,), 3))], stalls=(0.3, 0.3), seed=1)
    path = tmp_path_factory.mktemp("lane") / "lane.vcd"
    VerilatedUnit(design, trace="vcd", cache=cache).run([campaign], trace_to=path)
    return design, a, w, path


@pytest.fixture(scope="module")
def engine_recording(cache, tmp_path_factory):
    """A GEMM on an engine, its result and its recording as VCD."""
    design = build_preset("engine-4")
    path = tmp_path_factory.mktemp("engine") / "engine.vcd"
    engine = VerilatedEngine(build_library(design, trace="vcd", cache=cache))
    gemm = random_gemm((5, 6, 200), random.Random(3), design.config, kind=(False, "float32"))
    engine.record(path)
    result = EngineDriver(engine, design.config).run(gemm)
    engine.stop_recording()
    return design, gemm, result, path


def assert_complete(design, recording):
    for row in make_view(design).rows:
        assert recording.widths[f"TOP.{design.name}.{row.path}"] == row.width, row.path


def test_a_lanes_view_holds_the_stored_values(lane_recording):
    design, a, w, path = lane_recording
    top = "TOP.lane_1k"
    wanted = [*elements(f"{top}.view.i_a_value"), *elements(f"{top}.view.i_w_value")]
    recording = Recording(path, f"{top}.clk", f"{top}.i_valid", f"{top}.i_ready", *wanted)
    assert_complete(design, recording)
    expected = torch.cat([a.values(), w.values()], dim=-1).flatten(0, 1)
    assert torch.equal(torch.tensor(recording.taken(), dtype=torch.float64), expected)


def test_a_lanes_view_holds_the_sums(lane_recording):
    _, a, w, path = lane_recording
    top = "TOP.lane_1k"
    wanted = [f"{top}.view.o_{name}" for name in ("raw_value", "float32", "bfloat16")]
    recording = Recording(path, f"{top}.clk", f"{top}.o_valid", f"{top}.o_ready", *wanted)
    sums = (a.values() * w.values()).sum(dim=(-1, -2))
    scaled = (sums * 2.0**3).float()
    expected = torch.stack([sums, scaled.double(), (sums * 2.0**3).float().bfloat16().double()], dim=-1)
    found = torch.tensor(recording.taken(), dtype=torch.float64)
    assert torch.equal(found[:, :2], expected[:, :2])
    # bfloat16 is rounded once from the sum, not from float32: never further away than its last place.
    assert torch.allclose(found[:, 2], expected[:, 2], rtol=2.0**-7, atol=0)


@pytest.mark.parametrize("name", ["selector-four-over-six", "selector"])
def test_a_selectors_view_holds_input_and_blocks(name, cache, tmp_path):
    design = build_preset(name)
    x = torch.randn(60, 16, generator=torch.Generator().manual_seed(1)) * 40
    settings = SiteSettings(0, threshold=Threshold(128, 20))
    path = tmp_path / "selector.vcd"
    campaign = blocks_campaign(design, "blocks", [BlockSet(x, settings)], stalls=(0.2, 0.2), seed=1)
    VerilatedUnit(design, trace="vcd", cache=cache).run([campaign], trace_to=path)
    top = f"TOP.{design.name}"
    recording = Recording(path, f"{top}.clk", f"{top}.i_valid", f"{top}.i_ready", *elements(f"{top}.view.i_x"))
    assert_complete(design, recording)
    assert torch.equal(torch.tensor(recording.taken()), x)
    recording = Recording(path, f"{top}.clk", f"{top}.o_valid", f"{top}.o_ready", *elements(f"{top}.view.o_value"),
                          f"{top}.view.o_precision")  # fmt: skip
    found = torch.tensor(recording.taken(), dtype=torch.float64)
    blocks = select(x, settings)
    assert torch.equal(found[:, :16], blocks.values().reshape(-1, 16))
    assert torch.equal(found[:, 16].bool(), blocks.fp8.flatten())
    assert 0 < int(blocks.fp8.sum()) < 60


@pytest.mark.long
def test_an_engines_view_holds_blocks_and_sums(engine_recording):
    design, gemm, result, path = engine_recording
    core = "TOP.engine_4.core"
    view = "TOP.engine_4.view"
    weights = Recording(path, "TOP.engine_4.aclk", f"{core}.lane_0.load", "TOP.engine_4.aresetn",
                        *elements(f"{view}.weights_value"))  # fmt: skip
    assert_complete(design, weights)
    stored = unpack(gemm.weight).values().reshape(6, -1, 16)  # channels 0 and 4 are lane 0's
    of_lane = {tuple(block.tolist()) for block in stored[[0, 4]].flatten(0, 1)}
    seen = {tuple(values) for values in weights.taken()}
    assert of_lane <= seen <= of_lane | {(0.0,) * 16}
    activations = Recording(path, "TOP.engine_4.aclk", f"{core}.activation_decoder.valid", "TOP.engine_4.aresetn",
                            *elements(f"{view}.activations_value"))  # fmt: skip
    blocks = {tuple(block.tolist()) for block in gemm.activations.values().reshape(-1, 16)}
    seen = {tuple(values) for values in activations.taken()}
    assert blocks <= seen <= blocks | {(0.0,) * 16}
    sums = Recording(path, "TOP.engine_4.aclk", f"{view}.lane_0_sum_value")
    seen = {value for (value,) in sums.edges}
    stored_sums = result.value.double() * 2.0**-(gemm.exponent)
    assert {float(v) for v in stored_sums[:, 0].float()} <= {float(torch.tensor(v).float()) for v in seen}


LARGE = {"engine", "engine-channel"}
"""Half a minute each: they differ from engine-4 and engine-8 in numbers, and in parts that no view shows."""


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - LARGE))
def test_every_preset_has_a_view(name, tmp_path):
    """Verilator reads it with the unit, without a warning: names and widths are those that there are."""
    design = build_preset(name)
    paths = []
    for suffix, text in ((".v", design.verilog), ("_view.sv", make_view(design).verilog)):
        paths.append(tmp_path / f"{design.name}{suffix}")
        paths[-1].write_text(text)
    with tools("verilator"):
        done = subprocess.run(
            ["verilator", "--lint-only", "-Wall", "--top-module", design.name, *map(str, paths)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_codes_have_the_values_of_the_golden_model():
    for decoder, decode in (("e2m1", decode_e2m1), ("e4m3", decode_e4m3)):
        texts = DECODERS[decoder].texts
        codes = torch.arange(len(texts), dtype=torch.uint8)
        for code, value in zip(texts, decode(codes).tolist(), strict=True):
            assert float(texts[code]) == pytest.approx(value, rel=1e-5, nan_ok=True)
            assert math.isnan(value) or texts[code].startswith("-") == (math.copysign(1, value) < 0)
    assert DECODERS["register"].texts == {r.offset: r.name for r in REGISTERS}


def test_gtkwaves_file_names_what_is_recorded(lane_recording, tmp_path):
    design, _, _, path = lane_recording
    recording = Recording(path, "TOP.lane_1k.clk")
    files = view_files(design)
    flags, tables, seen = "", {}, 0
    for line in files["lane_1k.gtkw"].splitlines():
        if line.startswith("@"):
            flags = decode_flags(line)
        elif line.startswith("^"):
            table = line.split(" ", 1)[1]
            tables[table] = dict(row.split(" ", 1) for row in files[table].splitlines())
            assert {"ftranslated", "hex", "rjustify"} <= set(flags)  # tables go by hexadecimal digits of the number
        elif line.startswith("+{"):
            name, _, top = line.split("} ")[1].partition("[")
            width = recording.widths[name]
            assert top == (f"{width - 1}:0]" if width > 1 else "")
            seen += 1
    assert seen == len(make_view(design).rows)
    assert tables["gtkwave/e2m1.txt"]["b"] == "-1.5"
    assert tables["gtkwave/e4m3.txt"]["7e"] == "448"
    assert tables["gtkwave/e4m3.txt"]["ff"] == "NaN"
    assert tables["gtkwave/precision.txt"] == {"0": "FP4", "1": "FP8"}


def test_surfers_file_names_what_is_recorded():
    design = build_preset("engine-4")
    files = view_files(design, "tb.dut")
    lines = files["engine_4.sucl"].splitlines()
    items = [line for line in lines if line.startswith(("variable_add", "divider_add"))]
    assert lines[: len(items)] == items  # letters depend on how many items there are
    rows = list(make_view(design).rows)
    assert [i.split(" ")[1] for i in items if i.startswith("variable_add")] == [f"tb.dut.{r.path}" for r in rows]
    formats = {}
    for focus, form in itertools.pairwise(lines):
        if focus.startswith("item_focus"):
            digits = "".join(f"{ord(letter) - ord('a'):x}" for letter in focus.split(" ")[1])
            formats[items[int(digits, 16)].split(" ")[1]] = form.split(" ")[1]
    assert formats["tb.dut.s_axi_awaddr"] == "register"
    assert formats["tb.dut.view.weights_e2m1_3"] == "e2m1"
    assert formats["tb.dut.core.format__exponent"] == "Signed"
    mapping = files[".surfer/mappings/register.txt"].splitlines()
    assert mapping[:2] == ["Name = register", "Bits = 18"]
    assert "0x20 CONTROL" in mapping
    assert {f for f in formats.values() if f[0].islower()} == {
        name.split("/")[-1].removesuffix(".txt") for name in files if name.startswith(".surfer")
    }


@pytest.mark.parametrize(
    ("index", "count", "letters"), [(0, 5, "a"), (15, 15, "p"), (15, 16, "ap"), (16, 20, "ba"), (255, 256, "app")]
)
def test_surfers_letters(index, count, letters):
    """As its documentation and source have them: one digit more from 16 items on, from 256 on."""
    assert _surfer_item(index, count) == letters


@pytest.mark.long
def test_activities_count_every_toggle(cache, tmp_path):
    path = tmp_path / "lane.saif"
    design = build_preset("lane-1k")
    a, w = random_rows(20, 1), random_rows(20, 2)
    campaign = rows_campaign(design, "rows", [(a, w, torch.zeros(20, dtype=torch.int64))], seed=1)
    (result,) = VerilatedUnit(design, trace="saif", cache=cache).run([campaign], trace_to=path)
    text = path.read_text()
    duration = int(re.search(r"\(DURATION (\d+)\)", text)[1])
    toggles = int(re.search(r"\(clk .*\(TC (\d+)\)\)", text)[1])
    # A cycle of reset before those that are counted, and half a period at the end.
    assert duration == 10 * (result.cycles + 1)
    assert toggles == 2 * (result.cycles + 1) - 1
    assert "view" not in text


@pytest.mark.optional
def test_fst(cache, tmp_path):
    if not (has_header("lz4.h") and has_header("zlib.h")):
        pytest.skip("FST needs apt install liblz4-dev zlib1g-dev")
    path = tmp_path / "lane.fst"
    results = regress("lane-1k", count=20, model=False, only=["partial sums"], waves_to=path, cache_folder=cache)
    assert [result.name for result in results] == ["partial sums"]
    assert path.stat().st_size > 1000
    assert (view_folder(path) / "lane_1k.gtkw").is_file()


@pytest.mark.long
def test_an_engines_scenarios_by_name(cache, tmp_path):
    path = tmp_path / "e.vcd"
    summary = regress_engine("engine-4", only=["TLAST on an empty beat"], waves_to=path, cache=cache)
    assert [c["name"] for c in summary["campaigns"]] == ["TLAST on an empty beat"]
    assert not summary["differences"]
    assert path.read_text()[:200].startswith("$version")
    assert {p.name for p in view_folder(path).iterdir()} >= {"engine_4.gtkw", "engine_4.sucl", "engine_4_view.sv"}
    with pytest.raises(InputError, match="scenario: 'none', expected one of 'corners of the tiles', "):
        regress_engine("engine-4", only=["none"], cache=cache)


@pytest.mark.parametrize("suffix", ["vcd", "saif"])
def test_a_full_disk_ends_a_recording_and_leaves_nothing(suffix, cache, tmp_path, monkeypatch):
    """As if more had to stay free than any disk has: Verilator's own writers abort or hang on a full one."""
    monkeypatch.setattr(verilated_unit, "RESERVE", 1 << 62)
    with pytest.raises(OSError, match="No space left on device, recordings leave 256 MiB of it free") as caught:
        regress("lane-1k", count=1, model=False, only=["idle"], waves_to=tmp_path / f"x.{suffix}", cache_folder=cache)
    assert caught.value.filename == str(tmp_path / f"x.{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_on_a_full_disk_is_what_is_said(tmp_path):
    """Whatever there is of the recording: nothing, as here, or its beginning."""
    design = build_preset("lane-1k")
    for begun in (False, True):
        path = tmp_path / "x.vcd"
        with pytest.raises(SimulationError, match="stuck\nthe recording ends early: the disk was full") as caught:
            fail_while_recording(design, path, begun)
        assert ("recorded in" in str(caught.value)) == begun
        assert path.exists() == begun


def fail_while_recording(design, path, begun):
    with recorded(design, path) as partial, recording(lambda: 0, partial):
        if begun:
            partial.write_text("changes")
        raise SimulationError("stuck")


@pytest.mark.parametrize("name", ["nothing", "layer model.layers.9.mlp.up_proj"])
def test_a_campaign_that_there_is_not(name, monkeypatch):
    monkeypatch.setattr(regression, "captured_layers", lambda: pytest.fail("the model was captured for a wrong name"))
    with pytest.raises(
        InputError, match=f"campaign: '{re.escape(name)}', expected one of 'block scales, all 105 x 105', "
    ):
        regress("lane-1k", only=[name])


def record_and_raise(design, path, error):
    with recorded(design, path) as partial:
        partial.write_text("changes")
        raise error


def test_a_failure_leaves_its_recording(tmp_path):
    path = tmp_path / "x.vcd"
    design = build_preset("lane-1k")
    with pytest.raises(SimulationError, match=r"stuck\nrecorded in .*x\.vcd"):
        record_and_raise(design, path, SimulationError("stuck"))
    assert path.read_text() == "changes"
    assert (tmp_path / "x.view" / "lane_1k.gtkw").is_file()


def test_bad_input_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="no"):
        record_and_raise(build_preset("lane-1k"), tmp_path / "x.vcd", InputError("no"))
    assert list(tmp_path.iterdir()) == []


def test_formats_by_name(tmp_path):
    assert [trace_format(tmp_path / f"x.{name}") for name in ("fst", "vcd", "saif")] == ["fst", "vcd", "saif"]
    with pytest.raises(InputError, match=r"waves: x.txt, expected a file name that ends with .fst, .vcd, .saif"):
        trace_format(Path("x.txt"))
    assert opening_lines(Path("a b/x.vcd"), "lane") == [
        "  (cd 'a b/x.view' && gtkwave ../x.vcd lane.gtkw)",
        "  (cd 'a b/x.view' && surfer ../x.vcd --command-file lane.sucl)",
    ]
    assert opening_lines(Path("x.saif"), "lane") == []
