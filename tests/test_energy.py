"""`fgmp energy`: places, precision modes, memories, meters by share, and the command on the shipped model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.formats import ACCUMULATOR_FRACTION_BITS, BLOCK_SIZE, PRECISION_MODES
from fgmp.golden.blocks import to_blocks
from fgmp.golden.gemm import raw_gemm
from fgmp.golden.selector import SiteSettings, Threshold, select
from fgmp.hdl.config import AccumulatorConfig, ActivationDecoderConfig, EngineConfig, RowOrderConfig
from fgmp.hdl.design import build
from fgmp.quantizer.prices import Prices
from fgmp.report.build import section_of
from fgmp.sim.capture import Capture
from fgmp.sim.parts.around_lane import accumulator_stimulus, decoder_stimulus, row_order_stimulus
from fgmp.sim.parts.words import unpack_bits
from fgmp.synth.asic.flow import implement, simulate
from fgmp.synth.asic.gates import GateSimulator
from fgmp.synth.asic.mapping import Target
from fgmp.synth.asic.power import PowerMeter
from fgmp.synth.asic.timing import analyse
from fgmp.synth.energy.memory_model import MemoryModel, node_of
from fgmp.synth.energy.run import SCHEMA, EnergyRequest, selector_by_layer
from fgmp.synth.energy.tiles import CHANGES, mode_streams, pair_shares, sample_tile
from fgmp.synth.liberty.cells import StandardCells
from fgmp.synth.liberty.find import read_liberty

from .conftest import ROOT
from .test_synth import LIBRARY, RECORDED, five_cells, without

REAL = RECORDED / "engine-lane.library.lib.gz"


def quantized(rows, k, seed, threshold):
    x = torch.randn(rows, k, generator=torch.Generator().manual_seed(seed)) * 30
    registers = SiteSettings(0, Threshold.nearest(threshold), "dynamic")
    return x, select(x, registers).tensor((rows, k), 0)


def layer(name, m, n, k, seed, threshold):
    x, a = quantized(m, k, seed, threshold)
    _, w = quantized(n, k, seed + 1, threshold)
    return Capture(name, x, a, w, None)


LAYERS = [layer("one", 40, 12, 160, 1, 2e8), layer("two", 24, 30, 96, 5, 5e8)]


def test_pair_shares_count_every_pair():
    counts = dict.fromkeys(PRECISION_MODES, 0)
    for item in LAYERS:
        for name, (a_fp8, w_fp8) in PRECISION_MODES.items():
            a, w = item.activations.fp8 == a_fp8, item.weight.fp8 == w_fp8
            counts[name] += int((a[:, None] & w[None]).sum())
    total = sum(counts.values())
    assert all(count > 0 for count in counts.values())
    assert pair_shares(LAYERS) == pytest.approx({n: c / total for n, c in counts.items()}, rel=1e-12)


def test_selector_of_a_layer_by_hand():
    """16 lanes at 40 pJ; a block of activations meets 4,096 outputs in 256 cycles, fewer than 16 in one."""
    engine, pj = EngineConfig(slots=8), {"busy": 300.0, "idle": 2.0}
    shapes = [(4096, 4096), (2048, 4096), (2048, 4), (4096, 17)]
    long, short, tiny, odd = selector_by_layer(shapes, engine, pj, 40.0)
    assert long["raw"] == pytest.approx(256 * 300 / (4096 * 40))  # beyond 2,048, so again for each of 256 N tiles
    assert long["packed"] == pytest.approx((300 + 255 * 2) / (4096 * 40))
    assert short["raw"] == short["packed"] == long["packed"]
    assert tiny["raw"] == pytest.approx(300 / (4 * 40))
    assert odd["raw"] == pytest.approx(2 * 300 / (17 * 40))  # two N tiles
    assert odd["packed"] == pytest.approx((300 + 2) / (17 * 40))
    for other in (replace(engine, packed_output=False), replace(engine, raw_input="bfloat16")):
        assert selector_by_layer(shapes, other, pj, 40.0)[0]["packed"] is None


def test_tiles_hold_a_layers_own_blocks_and_sums():
    tile = sample_tile(LAYERS, 128, 3, 8, seed=3)
    assert tile.a.fp8.shape == (128, 3, 8)
    values, weights = tile.a.values(), tile.w.values()
    after = tile.sums + ((values * weights[:, :, None]).sum((1, 3)) * 2.0**ACCUMULATOR_FRACTION_BITS).long()
    found = 0
    for item in LAYERS:
        a, w = to_blocks(item.activations.stored()).double(), to_blocks(item.weight.stored()).double()
        for s in range(128):
            for start in range(a.shape[1] - 2):
                rows = [
                    (m, n)
                    for n in range(len(w))
                    if torch.equal(w[n, start : start + 3], weights[s])
                    for m in range(len(a) - 7)
                    if torch.equal(a[m : m + 8, start : start + 3].transpose(0, 1), values[s])
                ]
                for m, n in rows:
                    k = (start + 3) * BLOCK_SIZE
                    expected = raw_gemm(item.activations.stored()[m : m + 8, :k], item.weight.stored()[n : n + 1, :k])
                    assert torch.equal(expected[:, 0], after[s])
                    assert bool(tile.first[s]) == (start == 0)
                    assert bool(tile.last[s]) == (start + 3 == a.shape[1])
                    found += 1
    assert found >= 128


def test_the_same_seed_takes_the_same_places_in_any_precision():
    other = [replace(item, activations=quantized(len(item.x), item.x.shape[1], 1, 0)[1]) for item in LAYERS]
    first, second = (sample_tile(layers, 64, 2, 8, seed=9) for layers in (LAYERS, other))
    assert torch.equal(first.w.codes, second.w.codes)
    assert torch.equal(first.first, second.first)
    with pytest.raises(InputError, match="no linear with 2 blocks of K and 41 rows"):
        sample_tile(LAYERS, 64, 2, 41, seed=0)


@pytest.mark.parametrize("kind", ["ascending", "precision"])
def test_streams_are_told_apart_by_what_the_pipeline_holds(kind):
    tile = sample_tile(LAYERS, 64, 3, 8, seed=1)
    order = tile.row_order(kind)
    first, depth = 4, 2
    cycles = first + 24
    warmup = 9
    streams = mode_streams(tile, order, cycles, first, depth, warmup)
    fp8 = tile.a.fp8.gather(2, order)
    bits = {name: unpack_bits(words) for name, words in streams.steady.items()}
    for cycle in range(cycles):
        for s in range(64):
            steps = [min(max(cycle - first - back, 0), 23) for back in range(depth + 1)]
            pairs = {(bool(fp8[s, t // 8, t % 8]), bool(tile.w.fp8[s, t // 8])) for t in steps}
            names = [n for n, mode in PRECISION_MODES.items() if pairs == {mode}] or [CHANGES]
            assert [n for n in bits if bits[n][cycle, s]] == names
    entering = fp8.flatten(1) * 2 + tile.w.fp8[:, :, None].expand(-1, -1, 8).flatten(1).int()
    for name, (a_fp8, w_fp8) in PRECISION_MODES.items():
        mine = torch.eq(entering.T, 2 * a_fp8 + w_fp8).numpy()[warmup + 1 - first :]
        changing = bits[CHANGES][warmup + 1 :][mine]
        assert streams.changing[name] == pytest.approx(changing.mean() if len(changing) else 0, rel=1e-12)


def test_memory_energy_is_the_published_figures():
    model = MemoryModel(45, 0.9)
    assert model.access(64, 1024) == 10.0  # 8 KB
    assert model.access(64, 4096) == 20.0  # 32 KB
    assert MemoryModel(90, 1.8, 2.0).access(64, 1024) == 10.0 * 2 * 4 * 2
    assert node_of("sky130_fd_sc_hd__tt_025C_1v80", None) == 130
    assert node_of("mine", 28.0) == 28
    for library, node, message in (("mine", None, "not known for library mine"), ("mine", 0.1, "node: 0.1")):
        with pytest.raises(InputError, match=message):
            node_of(library, node)


@pytest.mark.parametrize("kind", ["ascending", "precision"])
def test_what_surrounds_a_lane_answers_on_gates(tmp_path, kind):
    """Every answer of the netlists is compared; a wrong expectation is seen."""
    tile = sample_tile(LAYERS, 64, 3, 16, seed=1)
    tile = replace(tile, sums=tile.sums % 1000)  # what so few bits hold
    order = tile.row_order(kind)
    target = Target(StandardCells(LIBRARY.read_text(), "five_cells.lib"))

    def made(config, name):
        return implement(build(config, name), target, tmp_path)

    sums = made(AccumulatorConfig(k_max=64, rows=16), "accumulators")
    decoder = made(ActivationDecoderConfig(), "activation_decoder")
    rows = made(RowOrderConfig(16), "row_order")
    for unit, stimulus, port in (
        (sums, accumulator_stimulus(sums.design, tile, order), "sums"),
        (decoder, decoder_stimulus(decoder.design, tile, order), "decoded_fp8"),
        (rows, row_order_stimulus(rows.design, tile, order, kind), "row"),
    ):
        meters = simulate(unit, stimulus, "model")
        assert meters[""].cycles == 64 * (stimulus.cycles - stimulus.warmup - 1)
        at, words = stimulus.expected[port]
        words = words.copy()
        words[5, 0, 0] ^= np.uint64(1 << 7)
        wrong = replace(stimulus, expected={port: (at, words)})
        with pytest.raises(RuntimeError, match=rf"{port}\[0\] of stream 7"):
            simulate(unit, wrong, "model")


def test_a_gate_behind_a_gate_counts_only_while_both_are_open():
    """The sums' banks have a clock gate each, and their rows another one behind it."""
    library = read_liberty(REAL)
    config = AccumulatorConfig(k_max=64, rows=16)
    unit = implement(build(config, "accumulators"), Target(library.cells), ROOT / "out" / "synth")
    gates = unit.netlist.clock_gates()
    depth = [len(unit.netlist.gating(i, gates)) for i in unit.netlist.flip_flops()]
    assert max(depth) == 2
    tile = sample_tile(LAYERS, 64, 3, 16, seed=1)
    tile = replace(tile, sums=tile.sums % 1000)
    energies = []
    for writes in (True, False):
        stimulus = accumulator_stimulus(unit.design, tile, tile.row_order("ascending"))
        if not writes:
            still = np.zeros_like(stimulus.inputs["write"])
            stimulus = replace(stimulus, inputs={**stimulus.inputs, "write": still}, expected={})
        energies.append(simulate(unit, stimulus, "sums")[""].energy())
    busy, idle = energies
    assert idle.clock_pins < busy.clock_pins / 2


def test_shares_of_a_meter_add_up_to_the_whole():
    netlist = five_cells()
    rng = np.random.default_rng(0)
    drive = rng.integers(0, 1 << 64, (20, 2, 3), dtype=np.uint64)
    some = rng.integers(0, 1 << 64, (20, 3), dtype=np.uint64)
    masks = {"all": np.full_like(some, ~np.uint64(0)), "some": some, "others": ~some}
    meters = {name: PowerMeter(netlist, analyse(netlist, None), 1.0) for name in masks}
    simulator = GateSimulator(netlist, 3)
    for step in range(20):
        nets = simulator.settle({3: drive[step, 0], 4: drive[step, 1]})
        for name, meter in meters.items():
            if step == 2:
                meter.start(nets)
            elif step > 2:
                meter.count(nets, masks[name][step])
        simulator.clock()
    energy = {name: meter.energy() for name, meter in meters.items()}
    assert energy["some"].cycles + energy["others"].cycles == energy["all"].cycles == 17 * 192
    # Which of an output's tables counts is decided by shares of its toggles, so internal energy is not quite additive.
    for part, tolerance in (("switching", 1e-12), ("inputs", 1e-12), ("clock_pins", 1e-12), ("internal", 1e-4)):
        total = sum(getattr(energy[n], part) * energy[n].cycles for n in ("some", "others"))
        assert total / energy["all"].cycles == pytest.approx(getattr(energy["all"], part), rel=tolerance), part


def test_formats_in_place_of_fractions():
    asked = EnergyRequest(formats=("fp8", "fgmp:0.7,paper", "nvfp4", "fgmp:0.7,static"))
    assert [*asked.variants(four_over_six=False)] == ["FP8", "FGMP 0.7 paper", "NVFP4", "FGMP 0.7 static"]
    assert asked.variants(four_over_six=True)["FGMP 0.7 static"].four_over_six
    assert not asked.variants(four_over_six=True)["FGMP 0.7 paper"].joint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fractions": (0.0, 0.7)}, "fractions"),
        ({"fractions": (0.7, 0.7000001)}, "expected each once"),
        ({"fractions": ()}, "expected each once"),
        ({"activations": ()}, "activations: none given"),
        ({"fractions": (1.2,)}, "1.2"),
        ({"activations": ("none",)}, "activations: 'none'"),
        ({"engine": "lane"}, "engine: 'lane', expected the preset of an engine"),
        ({"changes": ("rows=63",)}, "engine rows: 63"),
        ({"words": 0}, "words: 0"),
        ({"memory_factor": -1.0}, "memory factor: -1.0"),
        ({"seed": -1}, "seed: -1"),
        ({"policy": "random"}, "policy: 'random', expected one of fisher, paper"),
        ({"policy": "paper", "prices": Prices()}, "--prices: given with --policy paper"),
        ({"formats": ("fgmp:x",)}, "'x' is no fraction"),
        ({"formats": ("fgmp:0.7,weights-only",)}, "format FGMP 0.7 weights-only: weights only, expected activations"),
        ({"formats": ("fgmp:0.7,four-over-six",)}, "FGMP 0.7 four-over-six: expected an engine that has it"),
        ({"layers": ((0, 5),)}, "layer: K = 0, N = 5, expected both at least 1"),
        ({"layers": ((64, 64), (4112, 64))}, "K: 4112, expected"),
    ],
)
def test_jobs_that_cannot_work_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        EnergyRequest(**change).check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--text", "x.txt"], "x.txt: not found"),
        (["nowhere"], "--text: not given"),
        (["--samples", "0"], "samples: 0"),
        (["--captured", "9", "--windows", "8"], "captured: 9, expected at most the 8"),
        (["--formats", "fgmp:0.7", "--fractions", "0.7"], "--formats: given with --fractions, expected one of them"),
        (["--formats", "fgmp:0.7", "--policy", "paper"], "--formats: given with --policy, expected one of them"),
        (["--liberty", str(LIBRARY)], "node: not known for library"),
    ],
)
def test_wrong_arguments_of_energy(tmp_path, capsys, arguments, message):
    out = tmp_path / "out"
    assert main(["energy", "--liberty", str(REAL), "--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not out.exists()


def test_a_library_without_energies_is_refused_at_once(tmp_path, capsys):
    path = tmp_path / "no_power.lib"
    path.write_text(without("internal_power", LIBRARY.read_text()))
    assert main(["energy", "nowhere", "--liberty", str(path), "--node", "130", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"fgmp: {path}: no internal_power tables, expected them for energy\n"


@pytest.mark.long
def test_energy_of_the_shipped_model(tmp_path, capsys):
    """Small in every respect, but whole: a model's blocks on gates of SkyWater cells, against FP8-only gates."""
    arguments = ["energy", "--liberty", str(REAL), "--node", "130", "--samples", "2", "--no-glitches"]
    arguments += ["--windows", "2", "--captured", "1", "--words", "1", "--engine", "engine-4"]
    arguments += [
        "--set",
        "pipeline=0",
        "rows=16",
        "raw_input=bfloat16",
        "--period",
        "30",
        "--cache",
        str(ROOT / "out" / "synth"),
    ]
    assert main([*arguments, "--fractions", "0.7", "--fractions", "1", "-o", str(tmp_path / "a"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "a" / "energy.json").read_text())
    assert result["schema"] == SCHEMA
    assert len(section_of(SCHEMA, result, "").parts) > 7
    fp8, *others = result["rows"]
    assert [r["name"] for r in result["rows"]] == ["FP8", "FGMP 0.7 dynamic", "FGMP 1", "FGMP 0.7 static"]
    assert fp8["pairs"]["FP8xFP8"] == 1
    assert fp8["weight_saving"] == 0
    for row in result["rows"]:
        assert row["pj"] == pytest.approx(sum(row["parts_pj"].values()), rel=1e-12)
        assert row["saving"] == pytest.approx(1 - row["pj"] / fp8["pj"], rel=1e-12)
        assert sum(row["pairs"].values()) == pytest.approx(1, rel=1e-12)
        assert row["quality"]["value"] > 1
    for row in (others[0], others[2]):
        expected = row["expected"]
        assert all(abs(expected["pairs"][mode] - share) < 0.1 for mode, share in row["pairs"].items())
        assert row["weight_fp4_share"] == pytest.approx((129 - 16 * expected["bits"]) / 56, abs=0.01)
    assert fp8["expected"] is others[1]["expected"] is None
    prices = Prices.read(tmp_path / "a" / "energy.json")
    assert prices.fp8_only == fp8["pj"]
    best = max(others, key=lambda r: min(r["pairs"].values()))
    assert list(prices.lane) == [best["lane"]["by_mode_pj"][mode] for mode in best["pairs"]]
    a8 = best["pairs"]["FP8xFP4"] + best["pairs"]["FP8xFP8"]
    w8 = best["pairs"]["FP4xFP8"] + best["pairs"]["FP8xFP8"]
    weights = prices.weight[0] * (1 - w8) + prices.weight[1] * w8
    assert best["parts_pj"]["weight_buffer"] == pytest.approx(weights, rel=1e-9)
    activations = prices.activation[0] * (1 - a8) + prices.activation[1] * a8
    assert best["parts_pj"]["activation_buffer"] == pytest.approx(
        activations, rel=0.02
    )  # fills have shares of their own
    nvfp4 = others[1]
    assert nvfp4["parts_pj"]["lane"] < 0.8 * fp8["parts_pj"]["lane"]
    assert nvfp4["pairs"]["FP4xFP4"] == 1
    assert others[2]["lane"]["changing_share"] < others[0]["lane"]["changing_share"]  # columns keep their precision
    for name in ("energy", "quality", "breakdown"):
        assert (tmp_path / "a" / f"{name}.svg").read_text().startswith("<?xml")
    # Another run, for people to read, finds the gates' energies where the first has left them.
    assert main([*arguments, "--fractions", "1", "-o", str(tmp_path / "b")]) == 0
    text = capsys.readouterr().out
    assert "saved against FP8-only hardware" in text
    assert "paper, at 70% FP4" in text
    assert "expected by the choice" not in text
