"""The engine in simulation: layers of every size, breaches of protocol, reset, its driver, its speed in cycles."""

import dataclasses
import importlib.util
import itertools
import json
import random
import re
import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.golden.blocks import MixedTensor
from fgmp.golden.exact import StoredBlock, lane_row
from fgmp.golden.packing import pack, unpack
from fgmp.golden.random_blocks import blocks_in_precisions
from fgmp.golden.selector import SiteSettings, Threshold
from fgmp.hdl.config import EngineConfig, preset
from fgmp.hdl.design import build
from fgmp.quantizer import FGMPConfig, quantize, save
from fgmp.quantizer.model.default_text import read_corpus
from fgmp.quantizer.model.language_model import SHIPPED_MODEL, load_model, windows
from fgmp.report.build import section_of
from fgmp.sim.engine.axi import run_axi_bench, run_axi_gemms
from fgmp.sim.engine.checks import Bench
from fgmp.sim.engine.driver import EngineDriver
from fgmp.sim.engine.gemm import Gemm
from fgmp.sim.engine.model import run_model
from fgmp.sim.engine.performance import measure
from fgmp.sim.engine.random_gemms import random_gemm, random_mixed, uniform_gemm
from fgmp.sim.engine.scenarios import SCENARIOS, run_scenarios
from fgmp.sim.engine.verilated import VerilatedEngine, build_library
from fgmp.sim.engine.wire import activation_bytes, packed_results, result_bytes, weight_bytes
from fgmp.sim.runner import SimulationError

from .conftest import ROOT, build_preset

# The big engine's library is compiled once: its tests stay with one worker.
ENGINE = pytest.mark.xdist_group("engine")
SMALL = pytest.mark.xdist_group("engine-4")
_QUICK = ["every kind of input and output", "registers"]
SHORT = [
    *_QUICK,
    "random stalls on all streams",
    "GEMMs back to back",
    "NaN and illegal scales",
    "limits",
    "the rate that is promised",
    "streams that come late",
]
ODD = EngineConfig(
    lanes=32,
    rows=8,
    slots=2,
    k_max=42_784,
    n_max=512,
    pipeline=0,
    raw_input="bfloat16",
    channel_codes=True,
    four_over_six=True,
)


def bench(design, cache, seed=1, *, random_state=False):
    library = build_library(design, random_state=random_state, cache=cache)
    engine = VerilatedEngine(library, seed=seed, random_state=random_state)
    return Bench(engine, EngineDriver(engine, design.config), seed)


@pytest.fixture(scope="module")
def small(cache):
    return bench(build_preset("engine-4"), cache)


@pytest.fixture(scope="module")
def big(cache):
    return bench(build_preset("engine"), cache)


def assert_right(results):
    assert [r.first for r in results if r.differences] == []
    assert all(r.compared for r in results)


@SMALL
@pytest.mark.parametrize("name", SCENARIOS)
def test_small_engine(name, small):
    assert_right(run_scenarios(small, [name]))


@pytest.mark.long
@ENGINE
@pytest.mark.parametrize("name", SCENARIOS)
def test_engine(name, big):
    assert_right(run_scenarios(big, [name]))


@pytest.mark.long
def test_other_parameters(cache):
    """32 lanes, so two blocks a row; bfloat16 in; channel codes and four over six; no registers in the dot product."""
    unit = bench(build(ODD, "odd_engine"), cache)
    assert_right(run_scenarios(unit, SHORT))
    # A static pattern with its last entries where few models reach.
    generator = torch.Generator().manual_seed(1)
    columns = 17_000
    x = torch.randn(3, columns, generator=generator).bfloat16()
    pattern = torch.rand(-(-columns // 16), generator=generator) > 0.5
    codes = torch.zeros(len(pattern), 16, dtype=torch.uint8)
    settings = SiteSettings(0, Threshold(0, 0), "static", static_fp8=pattern, channel_codes=codes)
    gemm = Gemm(pack(random_mixed(5, columns, 0.7, generator)), x, settings=settings)
    assert torch.equal(unit.driver.run(gemm).value, gemm.expected())


@pytest.mark.long
def test_order_of_rows_changes_nothing_but_time(cache):
    """Values, events and what is read are the same in either order; a row that comes again at once waits."""
    configs = [
        EngineConfig(lanes=4, rows=16, slots=2, k_max=1024, raw_input="none", packed_output=False, row_order=order)
        for order in ("precision", "ascending")
    ]
    units = [bench(build(config, f"engine_{config.row_order}"), cache) for config in configs]
    generator = torch.Generator().manual_seed(7)
    chance = random.Random(7)
    for rows in (1, 2, 3, 15, 16, 17, 40):
        columns, outputs = chance.choice((16, 48, 272, 528)), chance.randint(1, 9)
        weight = pack(random_mixed(outputs, columns, chance.random(), generator))
        gemm = Gemm(weight, random_mixed(rows, columns, chance.random(), generator))
        results = [unit.driver.run(gemm) for unit in units]
        assert all(torch.equal(result.value, gemm.expected()) for result in results)
        kept = [
            {name: value for name, value in result.counters.items() if not name.startswith(("stall", "cycles", "span"))}
            for result in results
        ]
        assert kept[0] == kept[1]
        assert results[0].events == results[1].events
    # Row 0 is the only one in FP8: it ends a step and begins the next one.
    fp8 = torch.zeros(16, 4, dtype=torch.bool)
    fp8[0] = True
    x = torch.randn(16, 64, generator=generator) * 30
    gemm = Gemm(pack(random_mixed(4, 64, 0.5, generator)), blocks_in_precisions(x, fp8).tensor((16, 64), 0))
    first, second = (unit.driver.run(gemm) for unit in units)
    assert torch.equal(first.value, gemm.expected())
    assert torch.equal(second.value, gemm.expected())
    assert first.counters["stall_sums"] > 0 == second.counters["stall_sums"]


@SMALL
def test_engines_of_one_library_end_in_any_order(small, cache):
    """Each has a context of its own: what one leaves behind must not matter to another."""
    design = build_preset("engine-4")
    others = [bench(design, cache, seed) for seed in (2, 3)]
    for unit in others:
        assert_right(run_scenarios(unit, ["registers"]))
        unit.engine.close()
        assert_right(run_scenarios(small, ["registers"]))
    last = bench(design, cache)
    bench(design, cache).engine.close()
    last.engine.close()


@SMALL
@settings(max_examples=150)
@given(st.integers(1, 17), st.integers(1, 9), st.integers(1, 513), st.integers(1, 1 << 20))
def test_layers_of_any_size(small, rows, outputs, columns, seed):
    """One tile to two tiles plus one, in each direction."""
    gemm = random_gemm((rows, outputs, columns), random.Random(seed), small.config)
    assert small.driver.run(gemm).data == result_bytes(gemm, small.config)


@SMALL
def test_results_are_those_of_the_scalar_reference(small):
    """A third, exact implementation agrees, so that driver and golden model do not share a mistake of order."""
    gemm = random_gemm((11, 6, 40), random.Random(4), small.config, kind=(False, "float32"))
    gemm = dataclasses.replace(gemm, relu=False)
    value = small.driver.run(gemm).value.view(torch.int32)
    assert isinstance(gemm.activations, MixedTensor)
    a, w = (_arbiters(t) for t in (gemm.activations, unpack(gemm.weight)))
    for row, column in itertools.product(range(11), range(6)):
        expected = lane_row(list(zip(a[row], w[column], strict=True)), gemm.exponent, small.config.k_max)
        assert int(value[row, column]) & 0xFFFFFFFF == expected.float32


def _arbiters(tensor):
    """Rows of blocks as the reference oracle takes them."""
    mask, scales, codes = (part.tolist() for part in (tensor.fp8, tensor.scales, tensor.codes))
    return [
        [StoredBlock(f, s, tuple(c)) for f, s, c in zip(*row, strict=True)]
        for row in zip(mask, scales, codes, strict=True)
    ]


@SMALL
def test_reset_from_a_random_state(cache):
    """Registers and memories hold anything before reset."""
    design = build_preset("engine-4")
    for seed in range(1, 9):
        unit = bench(design, cache, seed, random_state=True)
        assert_right(run_scenarios(unit, _QUICK))


@SMALL
def test_a_missing_reset_is_found(cache):
    design = build_preset("engine-4")
    broken = dataclasses.replace(design, verilog=design.verilog.replace(".rst(~aresetn)", ".rst(aresetn & ~aresetn)"))

    def fails(seed):
        try:
            return any(r.differences for r in run_scenarios(bench(broken, cache, seed, random_state=True), _QUICK))
        except (SimulationError, InputError):
            return True

    assert any(fails(seed) for seed in range(1, 4))


@pytest.mark.long
@SMALL
def test_the_checks_see_a_wrong_engine(cache):
    """Connections of the generated Verilog are cut; the comparison must notice."""
    design = build_preset("engine-4")
    text = design.verilog
    assert ".swap(" in text
    cut = [
        re.sub(r"(_core_lane lane_.*?\.term_first\()", r"\1 1'h0 & ", text, flags=re.DOTALL),
        re.sub(r"(_core_lane lane_.*?\.swap\()", r"\1 1'h0 & ", text, flags=re.DOTALL),
        text.replace("memory[read_address]", "memory[~read_address]"),
    ]
    for verilog in cut:
        assert verilog != text
        unit = bench(dataclasses.replace(design, verilog=verilog), cache)
        try:
            results = run_scenarios(unit, _QUICK[:1])
        except (SimulationError, InputError):
            continue
        assert any(r.differences for r in results)


@pytest.mark.long
@SMALL
def test_axi_models_that_are_not_ours(cache):
    assert_right([run_axi_bench(build_preset("engine-4"), "AXI", gemms=8, seed=3, cache=cache)])


@pytest.mark.long
@SMALL
def test_the_axi_bench_sees_differences_and_fp8_reads(cache):
    design = build_preset("engine-4")
    gemm = uniform_gemm(4, 4, 64, 0.5, 1)
    with pytest.raises(SimulationError, match="reads for an FP4 block"):
        run_axi_gemms(design, "AXI", {"only FP4": gemm}, cache=cache)
    wrong = dataclasses.replace(gemm, _cache={"expected": gemm.expected() + 1})
    assert run_axi_gemms(design, "AXI", {"wrong": wrong}, cache=cache).differences == 1


@pytest.mark.long
@ENGINE
def test_utilization(big):
    """The numbers that the design promises, on the standard gemm."""
    rows = {row["fp4_fraction"]: row for row in measure(big.engine, big.driver)}
    assert set(rows) == {0.0, 0.5, 0.7, 1.0}
    for row in rows.values():
        assert row["differences"] == 0
        assert row["products"] == 64 * 256 // 16 * 1024 // 16
        assert 0.99 <= row["inner_utilization"] <= 1
    assert rows[0.0]["utilization"] >= 0.93
    assert rows[0.7]["utilization"] >= 0.95


@pytest.mark.long
@ENGINE
def test_a_step_lasts_as_long_as_the_page_says(small, big):
    """With one row, and weights that are all there, fetching the next weights is all that takes time."""
    said = r"A step takes at least `lanes / \(2 \* weight_streams\) \+ (\d)` cycles, and never fewer than (\d)\."
    ((extra, least),) = re.findall(said, (ROOT / "docs" / "engine.md").read_text())
    for unit in (small, big):
        gemm = uniform_gemm(1, unit.config.lanes, 256, 0.7, seed=1)
        span = unit.driver.run(gemm).counters["span"]
        assert span - 1 == 15 * max(unit.config.lanes // 2 + int(extra), int(least))


@pytest.mark.long
@ENGINE
def test_weight_stream_carries_the_bytes_of_the_file(big):
    for rows, tiles in ((1, 1), (64, 1), (65, 2), (200, 4)):
        packed = pack(random_mixed(40, 600, 0.7, torch.Generator().manual_seed(rows)))
        assert len(weight_bytes(packed, big.config, rows)) == packed.bytes * tiles


@pytest.mark.long
@ENGINE
def test_packed_results_are_the_next_layers_activations(big):
    """Two layers without the host touching a byte: the result stream of one is the activation stream of the next."""
    generator = torch.Generator().manual_seed(5)
    settings = SiteSettings(3, Threshold(100, 14))
    weights = [pack(random_mixed(n, k, 0.7, generator)) for n, k in ((300, 96), (20, 300))]
    first = Gemm(weights[0], random_mixed(70, 96, 0.5, generator), output="packed", output_settings=settings)
    between = big.driver.run(first)
    packed = packed_results(between.data, first, big.config)
    assert torch.equal(packed.payload, first.expected_packed().payload)
    second = Gemm(weights[1], unpack(packed))
    assert activation_bytes(second, big.config) == between.data
    assert torch.equal(big.driver.run(second).value, second.expected())


@pytest.mark.long
@ENGINE
def test_interrupt_and_events(big):
    driver, engine = big.driver, big.engine
    gemm = big.small_gemm()
    driver.write("INTERRUPT_ENABLE", 0)
    sent = driver.start(gemm)
    driver.write("INTERRUPT_ENABLE", 0)
    assert engine.run(5000) == 5000  # nobody is told
    assert driver.read("STATUS") == 0
    assert "done" in driver.events()
    driver.write("INTERRUPT_ENABLE", 1)
    assert driver.read("STATUS") == 4
    assert driver.finish(gemm, sent).data == result_bytes(gemm, big.config)
    assert driver.read("STATUS") == 0


def test_driver_refuses_what_the_engine_cannot_do(cache):
    unit = bench(build_preset("engine-4"), cache)
    packed = pack(random_mixed(4, 1040, 0.5, torch.Generator().manual_seed(1)))
    blocks = random_mixed(2, 1040, 0.5, torch.Generator().manual_seed(2))
    with pytest.raises(InputError, match="K: 1040, expected at most 1024 in this engine"):
        unit.driver.run(Gemm(packed, blocks))
    settings = SiteSettings(0, Threshold(1, 1))
    with pytest.raises(InputError, match="raw activations: float32, expected none"):
        unit.driver.run(Gemm(pack(random_mixed(4, 16, 0.5, torch.Generator())), torch.zeros(2, 16), settings=settings))
    with pytest.raises(InputError, match="output: packed, expected float32 or bfloat16"):
        unit.driver.run(uniform_like("packed", settings))
    with pytest.raises(InputError, match="SHAPE"):
        EngineDriver(unit.engine, preset("engine-8"))
    with pytest.raises(SimulationError, match="no end after 100 cycles"):
        unit.driver.run(uniform_gemm(8, 64, 1024, 0.5, 1), limit=100)


def uniform_like(output, settings):
    gemm = uniform_gemm(2, 4, 16, 0.5, 1)
    return Gemm(gemm.weight, gemm.activations, output=output, output_settings=settings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"output": "int8"}, "output: 'int8', expected one of float32, bfloat16, packed"),
        ({"output": "packed"}, "output_settings: expected one for packed results"),
        ({"settings": SiteSettings(0, Threshold(0, 0))}, "settings: expected one for raw activations"),
        ({"weight": pack(random_mixed(2, 32, 0.5, torch.Generator()))}, "K: 16 and 32, expected the same"),
    ],
)
def test_wrong_jobs(values, message):
    gemm = uniform_gemm(2, 4, 16, 0.5, 1)
    with pytest.raises(InputError, match=message):
        Gemm(**{"weight": gemm.weight, "activations": gemm.activations, **values})


@pytest.fixture(scope="module")
def quantized_model(tmp_path_factory):
    language_model = load_model(SHIPPED_MODEL)
    samples = windows(language_model, read_corpus().train, 4, "training text")
    model = quantize(language_model.model, FGMPConfig(threshold_samples=2), samples, progress=False)
    folder = tmp_path_factory.mktemp("model") / "quantized"
    save(model, folder, tokenizer=language_model.tokenizer)
    return folder


@pytest.mark.long
@ENGINE
def test_model_in_the_loop(quantized_model, cache):
    run = run_model(quantized_model, tokens=32, generate=2, cache=cache)
    assert run.differences == 0
    assert run.perplexity == run.golden_perplexity
    assert len(run.layers) == 21
    assert all(layer.tally.compared >= 3 * 32 * layer.shape[0] or layer.calls == 3 for layer in run.layers)
    totals = run.as_dict()
    assert totals["compared"] == sum((2 * 32 + 1) * layer.shape[0] for layer in run.layers)
    for layer in totals["layers"]:
        assert sum(layer["precision_modes"].values()) == pytest.approx(1)
        assert 0 < layer["utilization"] < 1
    prefill, decode = totals["phases"]
    assert (prefill["name"], prefill["passes"], prefill["tokens"]) == ("prefill", 2, 64)
    assert (decode["name"], decode["passes"], decode["tokens"]) == ("decode", 1, 1)
    assert prefill["cycles"] + decode["cycles"] == sum(layer.cycles for layer in run.layers)
    assert decode["speedup"] > 0.97 * decode["fp8_bytes"] / decode["bytes"] > 1.37
    expected = run.expected
    assert all(abs(share - expected[mode]) < 0.05 for mode, share in totals["precision_modes"].items())
    assert decode["cycles_over_weight_beats"] < 1.10
    assert prefill["speedup"] == pytest.approx(1, abs=0.02)
    assert decode["fp8_bytes"] > sum(n * k for n, k in (layer.shape for layer in run.layers))


@pytest.mark.long
@SMALL
def test_board_example(tmp_path):
    """The self-test's LED says "pass" with the right results in ROM, "fail" with a wrong one."""
    spec = importlib.util.spec_from_file_location("selftest", ROOT / "examples" / "board" / "selftest.py")
    selftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(selftest)
    selftest.write(tmp_path)
    assert selftest.simulate(tmp_path) == 0
    rom = tmp_path / "results.hex"
    rom.write_text(rom.read_text().replace("a", "b", 1))
    assert subprocess.run([tmp_path / "build" / "Vselftest"], cwd=tmp_path, check=False).returncode == 1


@pytest.mark.long
@ENGINE
def test_commands(quantized_model, capsys, monkeypatch):
    assert main(["simulate", "--model", str(SHIPPED_MODEL)]) == 2
    assert "is not quantized, expected a folder that fgmp quantize wrote" in capsys.readouterr().err
    assert main(["simulate", "lane", "--model", str(quantized_model)]) == 2
    assert main(["simulate", "--model", str(quantized_model), "--tokens", "1"]) == 2
    assert "tokens: 1, expected at least 2" in capsys.readouterr().err
    assert main(["simulate", "--model", str(quantized_model), "--engine", "lane"]) == 2
    assert "preset: 'lane', expected an engine" in capsys.readouterr().err
    assert main(["simulate", "engine-4", "--simulator", "icarus"]) == 2
    assert main(["simulate", "--model", str(quantized_model), "--tokens", "8", "--generate", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["differences"] == 0
    assert section_of(result["schema"], result, "").good
    assert [phase["name"] for phase in result["phases"]] == ["prefill"]
    assert main(["simulate", "--model", str(quantized_model), "--clock", "0"]) == 2
    assert "clock: 0.0, expected more than 0" in capsys.readouterr().err
