"""Decoding at the rate of the streams: several of them, the model of the rate, and what it says of whole models."""

import io
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.golden.packing import pack, unpack
from fgmp.golden.selector import SiteSettings
from fgmp.hdl import EngineConfig, GemmLoad, build, gemm_rate
from fgmp.quantizer.model.language_model import SHIPPED_MODEL
from fgmp.report.build import section_of
from fgmp.sim import Gemm, model_shapes, operand_streams, uniform_gemm
from fgmp.sim.engine.axi import run_axi_bench
from fgmp.sim.engine.random_gemms import random_gemm, random_mixed
from fgmp.sim.engine.scenarios import SCENARIOS, run_scenarios
from fgmp.sim.engine.wire import weight_bytes

from .conftest import build_preset
from .test_engine import ENGINE, SHORT, SMALL, assert_right, bench

TWO = pytest.mark.xdist_group("two streams")
_SMALL = {"rows": 8, "slots": 2, "k_max": 1024, "raw_input": "none", "packed_output": False, "accumulators": "memory"}
STREAMS = {
    2: EngineConfig(lanes=8, weight_streams=2, **_SMALL),
    # The most lanes that there can be, values in, packed results out.
    4: EngineConfig(
        lanes=64,
        weight_streams=4,
        rows=8,
        slots=2,
        n_max=512,
        raw_input="bfloat16",
        accumulators="memory",
        selector_pipeline=4,
        row_order="ascending",
        pipeline=2,
    ),
}


@pytest.fixture(scope="module")
def big(cache):
    return bench(build_preset("engine"), cache)


@pytest.fixture(scope="module")
def small(cache):
    return bench(build_preset("engine-4"), cache)


@pytest.fixture(scope="module")
def two(cache):
    return bench(build(STREAMS[2], "two_streams"), cache)


@pytest.mark.long
@TWO
@pytest.mark.parametrize("name", SCENARIOS)
def test_two_streams_of_weights(name, two):
    assert_right(run_scenarios(two, [name]))


@pytest.mark.long
@TWO
def test_two_streams_of_weights_in_cocotb(cache):
    assert_right([run_axi_bench(build(STREAMS[2], "two_streams"), "AXI", gemms=4, seed=2, cache=cache)])


FOUR = pytest.mark.xdist_group("four streams")


@pytest.fixture(scope="module")
def four(cache):
    return bench(build(STREAMS[4], "four_streams"), cache)


@pytest.mark.long
@FOUR
def test_four_streams_of_weights(four):
    """Few rows, so that some streams have no row in the last tile, or none at all."""
    for outputs in (1, 2, 3, 4, 5, 63, 64, 65, 66, 67, 130):
        four.gemm("few rows", random_gemm((9, outputs, 300), four.chance, four.config))
    assert_right(run_scenarios(four, [*SHORT, "packets of GEMMs that have ended", "wrong stream lengths"]))


@given(st.integers(1, 40), st.integers(1, 600), st.integers(1, 20), st.sampled_from([2, 4]))
def test_streams_carry_every_row_once(outputs, columns, rows, count):
    """All records of the one stream's bytes are in the several ones', in order, and in none twice."""
    weight = pack(random_mixed(outputs, columns, 0.5, torch.Generator().manual_seed(outputs)))
    config = STREAMS[count]
    parts = [weight_bytes(weight, config, rows, stream) for stream in range(count)]
    assert sum(map(len, parts)) == weight.bytes * -(-rows // config.rows)
    gemm = Gemm(weight, random_mixed(rows, columns, 0.5, torch.Generator().manual_seed(rows)))
    named = {f"weights_{index}": part for index, part in enumerate(parts) if part}
    assert {name: data for name, data in operand_streams(gemm, config).items() if name != "activations"} == named
    assert sum(bool(part) for part in parts) == min(outputs, count)


@pytest.mark.long
@ENGINE
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_decoding_takes_as_long_as_the_stream_of_weights(rows, big):
    cycles = {}
    for fraction in (0.0, 0.7, 1.0):
        result = big.driver.run(uniform_gemm(rows, 256, 1024, fraction, seed=1))
        cycles[fraction] = result.counters["cycles"]
        assert result.counters["cycles"] <= 1.05 * result.counters["weight_beats"]
        assert result.counters["stall_activations"] == 0
    assert cycles[0.0] >= 1.38 * cycles[0.7]
    assert cycles[0.0] >= 1.70 * cycles[1.0]


@pytest.mark.long
@ENGINE
@pytest.mark.parametrize("rows", [16, 32])
def test_between_decoding_and_full_tiles_the_longer_of_both_counts(rows, big):
    for fraction in (0.0, 0.7, 1.0):
        counters = big.driver.run(uniform_gemm(rows, 256, 1024, fraction, seed=1)).counters
        assert counters["cycles"] <= 1.05 * max(counters["weight_beats"], counters["products"])


@pytest.mark.long
@TWO
def test_several_streams_bring_their_rate(two):
    """With four lanes a stream a step of FP8 blocks is as short as steps can be."""
    counters = two.driver.run(uniform_gemm(1, 256, 1024, 0.0, seed=1)).counters
    assert counters["cycles"] <= 1.08 * counters["weight_beats"] / 2


def predicted(unit, rows, outputs, columns, fraction, *, raw=False, output="float32"):
    """Cycles of a GEMM, by the model and by the engine's own counter."""
    generator = torch.Generator().manual_seed(rows + outputs)
    weight = pack(random_mixed(outputs, columns, fraction, generator))
    settings = SiteSettings(0, mode="all_fp4" if fraction else "all_fp8")
    if raw:
        activations = torch.randn(rows, columns, generator=generator).to(getattr(torch, unit.config.raw_input))
    else:
        activations = random_mixed(rows, columns, fraction, generator)
    gemm = Gemm(
        weight,
        activations,
        settings=settings if raw else None,
        output=output,
        output_settings=settings if output == "packed" else None,
    )
    load = GemmLoad(
        rows=rows,
        outputs=outputs,
        columns=columns,
        weight_fp4=1 - unpack(weight).fp8_share,
        activation_fp4=float(fraction > 0) if raw else 1 - activations.fp8_share,
        raw=raw,
        output=output,
        output_fp4=float(fraction > 0),
    )
    rate = gemm_rate(unit.config, load)
    result = unit.driver.run(gemm)
    assert rate.products == result.counters["products"]
    assert rate.weight_bytes == pytest.approx(result.weight_bytes)
    assert rate.activation_bytes == pytest.approx(result.activation_bytes)
    assert rate.result_bytes == pytest.approx(len(result.data))
    return rate.cycles, result.counters["cycles"]


@pytest.mark.long
@ENGINE
@pytest.mark.parametrize("output", ["float32", "bfloat16", "packed"])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("fraction", [0.0, 0.7, 1.0])
def test_the_model_of_the_rate_is_right_within_a_hundredth(fraction, raw, output, big):
    for sizes in ((1, 256, 1024), (1, 300, 200), (4, 256, 512), (16, 256, 1024), (16, 100, 64), (33, 128, 512),
                  (64, 128, 64), (70, 64, 2560), (100, 128, 1024), (256, 64, 512)):  # fmt: skip
        said, took = predicted(big, *sizes, fraction, raw=raw, output=output)
        assert abs(said / took - 1) <= 0.01, (sizes, said, took)


@SMALL
def test_the_model_of_the_rate_knows_short_steps_and_long_k(small):
    for sizes in ((1, 256, 1024), (2, 64, 256), (8, 256, 1024), (33, 128, 512), (256, 64, 512)):
        for fraction in (0.0, 0.7, 1.0):
            said, took = predicted(small, *sizes, fraction)
            assert abs(said / took - 1) <= 0.01, (sizes, fraction, said, took)


@pytest.mark.long
@TWO
def test_the_model_of_the_rate_knows_streams(two):
    for sizes in ((1, 256, 1024), (3, 64, 512), (16, 256, 512)):
        for fraction in (0.0, 0.7, 1.0):
            said, took = predicted(two, *sizes, fraction)
            assert abs(said / took - 1) <= (0.02 if fraction == 0.7 else 0.01), (sizes, fraction, said, took)


@pytest.mark.long
@FOUR
def test_the_model_of_the_rate_knows_other_parameters(four):
    for sizes in ((1, 256, 1024), (8, 512, 300), (20, 300, 700)):
        for fraction in (0.0, 0.7, 1.0):
            for raw, output in ((False, "float32"), (True, "bfloat16"), (True, "packed")):
                said, took = predicted(four, *sizes, fraction, raw=raw, output=output)
                assert abs(said / took - 1) <= 0.015, (sizes, fraction, raw, output, said, took)


def test_slower_memory_takes_longer():
    """Once weights come slower than the engine takes them, decoding takes as long as they do."""
    load = GemmLoad(rows=1, outputs=256, columns=1024, weight_fp4=1.0, activation_fp4=1.0)
    full, half, tenth = (gemm_rate(EngineConfig(), load, stream_bytes=16 / by).cycles for by in (1, 2, 10))
    assert 1.9 < half / full < 2
    assert 9.5 < tenth / full < 10
    with pytest.raises(InputError, match="stream_bytes: 17, expected"):
        gemm_rate(EngineConfig(), load, stream_bytes=17)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "M: 0, expected 1 to 16777215"),
        ({"columns": 5000}, "K: 5000, expected 1 to 4096 in this engine"),
        ({"outputs": 70_000}, "N: 70000, expected 1 to 65535 in this engine"),
        ({"outputs": 5000, "output": "packed"}, "N: 5000, expected 1 to 4096 in this engine"),
        ({"output": "int8"}, "output: 'int8', expected what this engine has of float32, bfloat16, packed"),
        ({"weight_fp4": 1.5}, "weight_fp4: 1.5, expected a number from 0 to 1"),
    ],
)
def test_loads_that_make_no_sense(changes, message):
    with pytest.raises(InputError, match=message):
        gemm_rate(EngineConfig(), GemmLoad(**{"rows": 1, "outputs": 16, "columns": 16, **changes}))


def test_rate_of_the_shipped_model(capsys):
    assert main(["rate", str(SHIPPED_MODEL), "--tokens", "1", "64", "--clock", "200", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["linears"] == 21
    assert section_of(result["schema"], result, "").parts
    assert result["weights"] == sum(s["count"] * s["outputs"] * s["inputs"] for s in result["shapes"])
    decode, prefill = result["rows"]
    assert decode["speedup"] > 1.38
    assert prefill["speedup"] == pytest.approx(1, abs=0.01)
    values = decode["fgmp"]
    assert values["tokens_per_second"] == pytest.approx(200e6 / values["cycles_per_token"])
    assert main(["rate", str(SHIPPED_MODEL / "config.json")]) == 0
    out = capsys.readouterr().out
    assert "70% FP4" in out
    assert "all FP8" in out


def test_rate_of_a_config_alone(tmp_path, capsys):
    """Seven billion weights, none of which is there; slow memory; energy from a table."""
    llama = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(llama))
    row = {"activations": "dynamic", "parts_pj": {"weight_buffer": 4.0}}
    table = {
        "engine": {"lanes": 16, "rows": 64, "slots": 8},
        "rows": [{**row, "fp4_fraction": f, "pj": p} for f, p in ((0.0, 120.0), (0.7, 94.0))],
    }
    (tmp_path / "energy.json").write_text(json.dumps(table))
    command = [
        "rate",
        str(tmp_path),
        "--tokens",
        "1",
        "--set",
        "k_max=16384",
        "--energy",
        str(tmp_path / "energy.json"),
    ]
    assert main([*command, "--memory-energy", "20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["linears"], result["weights"]) == (224, 6_476_005_376)
    mixed = result["rows"][0]["fgmp"]
    pairs = 6_476_005_376 / 16
    assert mixed["joules_per_token"] == pytest.approx(
        (pairs * (94 + 4 * 63) + mixed["bytes_per_token"] * 20) * 1e-12, rel=1e-3
    )
    assert main([*command, "--memory", "0.8", "--json"]) == 0
    slow = json.loads(capsys.readouterr().out)["rows"][0]["fgmp"]
    # All streams together: activations of a long K come again for every N tile.
    assert slow["tokens_per_second"] == pytest.approx(0.8e9 / slow["bytes_per_token"], rel=1e-6)
    assert slow["weight_gb_s"] < 0.8


def test_experts_count_as_often_as_they_are_chosen(tmp_path):
    mixtral = {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
        "num_local_experts": 8, "num_experts_per_tok": 2,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(mixtral))
    experts = [shape for shape in model_shapes(tmp_path) if shape.experts > 1]
    assert experts
    assert {(shape.experts, shape.chosen) for shape in experts} == {(8, 2)}
    assert sum(shape.count for shape in experts) % 16 == 0
    for shape in experts:
        assert shape.calls(1) == [(shape.count / 4, 1)]
        assert shape.calls(64) == [(shape.count, 16)]
        assert shape.calls(5) == [(shape.count * 6 / 8, 1), (shape.count * 2 / 8, 2)]


def test_code_of_a_model_is_never_run(tmp_path, capsys, monkeypatch):
    """Not even if somebody would agree."""
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"}})
    )
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))
    assert main(["rate", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "it comes with code of its own, which is not run" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "ran").exists()


def test_wrong_rates_are_one_line(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "nothing like it"}')
    (tmp_path / "energy.json").write_text("{}")
    (tmp_path / "other.json").write_text('{"engine": {"lanes": 8, "rows": 64, "slots": 8}, "rows": []}')
    model = str(SHIPPED_MODEL)
    for arguments, message in (
        ([str(tmp_path / "none")], "not found"),
        ([str(tmp_path)], "no model can be made of its config.json"),
        ([model, "--fp4", "1.5"], "fp4: 1.5, expected a number from 0 to 1"),
        ([model, "--tokens", "0"], "tokens: 0, expected 1 to"),
        ([model, "--clock", "-1"], "clock: -1.0, expected more than 0"),
        ([model, "--clock", "nan"], "clock: nan, expected more than 0"),
        ([model, "--memory", "0"], "memory: 0.0, expected more than 0"),
        ([model, "--memory-energy", "-1"], "memory_energy: -1.0, expected at least 0"),
        ([model, "--energy", str(tmp_path / "energy.json")], "cannot be read, expected energy.json of fgmp energy"),
        ([model, "--energy", str(tmp_path / "other.json")], "of an engine with 8 lanes, expected 16"),
        ([str(tmp_path / "energy.json")], "a file, expected a folder with config.json"),
        ([model, "--engine", "lane"], "expected an engine"),
        ([model, "--set", "k_max=256"], "K: 512, expected 1 to 256 in this engine"),
        ([model, "--set", "weight_streams=3"], "weight_streams"),
        ([model, "--set", "weight_streams=4", "lanes=8"], "weight_streams: 4, expected at most 2 with 8 lanes"),
    ):
        assert main(["rate", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert message in error, error
        assert error.count("\n") == 1, error
