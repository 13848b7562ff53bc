"""The silicon flow: Liberty files, timing and energy by hand, OpenSTA's numbers, units on a small library."""

import gzip
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fgmp.__main__ import main
from fgmp.cache import cached
from fgmp.errors import InputError
from fgmp.hdl.config import DotConfig, EngineLaneConfig, LaneConfig, changed
from fgmp.hdl.design import build
from fgmp.report.build import section_of
from fgmp.sim.parts.operand_bits import held, stored_bits
from fgmp.sim.parts.stimuli import normal_blocks, shares_by_activity, stimuli
from fgmp.sim.parts.stimulus import Stimulus, stream_words
from fgmp.sim.parts.weight_stationary import PROLOGUE, Tile, flattened, weight_stationary
from fgmp.sim.parts.words import pack_bits, unpack_bits
from fgmp.synth.asic import mapping
from fgmp.synth.asic.flow import SCHEMA, Implementation, characterize, implement, measure_energy, simulate
from fgmp.synth.asic.gates import GateSimulator
from fgmp.synth.asic.hierarchy import SHARED, area_by_hierarchy
from fgmp.synth.asic.mapping import Mapped, Target, mapping_script, occurrences
from fgmp.synth.asic.netlist import Instance, add_buffers, read_netlist
from fgmp.synth.asic.power import PowerMeter
from fgmp.synth.asic.timing import analyse
from fgmp.synth.liberty.cells import Cell, ClockGate, Pin, StandardCells
from fgmp.synth.liberty.expression import truth_table
from fgmp.synth.liberty.find import read_liberty

from .conftest import ROOT, build_preset

LIBRARY = ROOT / "tests" / "data" / "five_cells.lib"
RECORDED = ROOT / "tests" / "data" / "opensta"


def cells(text=None):
    return StandardCells(LIBRARY.read_text() if text is None else text, "five_cells.lib")


def five_cells():
    """in -> DFF -> q -> INV -> n;  q, in2 -> NAND2 -> y -> BUF -> z;  y -> DFF -> q2."""
    bits = {"clk": 2, "in": 3, "in2": 4, "n": 6, "z": 8, "q2": 9}
    inputs = ("clk", "in", "in2")
    connections = {
        "u1": ("DFF", {"CLK": 2, "D": 3, "Q": 5}),
        "u2": ("INV", {"A": 5, "Y": 6}),
        "u3": ("NAND2", {"A": 5, "B": 4, "Y": 7}),
        "u4": ("BUF", {"A": 7, "Y": 8}),
        "u5": ("DFF", {"CLK": 2, "D": 7, "Q": 9}),
    }
    module = {
        "ports": {n: {"direction": "input" if n in inputs else "output", "bits": [b]} for n, b in bits.items()},
        "cells": {
            name: {"type": kind, "connections": {pin: [net] for pin, net in pins.items()}}
            for name, (kind, pins) in connections.items()
        },
        "netnames": {},
    }
    return read_netlist(module, cells())


def test_timing_by_hand():
    timing = analyse(five_cells(), None)
    assert timing.groups == pytest.approx(
        {
            "input to register": 0.15 + 0.03,  # in2, NAND2, setup
            "input to output": 0.15 + 0.05,  # in2, NAND2, BUF
            "register to register": 0.2 + 0.15 + 0.03,  # q, NAND2, setup
            "register to output": 0.2 + 0.15 + 0.05,  # q, NAND2, BUF
        },
        rel=1e-12,
    )
    assert timing.period == pytest.approx(0.4, rel=1e-12)
    assert [p.cell for p in timing.path] == ["DFF", "NAND2", "BUF"]


def test_area_by_hierarchy():
    """Names of registers are the tree; what drives several places belongs to what they have in common."""
    netlist = five_cells()
    # The registers are u1 (q) and u5 (q2); NAND2 drives u5 and, through BUF, the port z.
    netlist.names.update({5: "mul_first_0[3]", 9: "mul_second_1"})
    areas = {i.name: i.cell.area for i in netlist.instances}
    parts = {p.name: p for p in area_by_hierarchy(netlist, least=0.0)}
    assert set(parts) == {"mul", "mul_first", "mul_second", "n", "z", SHARED}
    assert parts[SHARED].area == areas["u3"]
    assert parts["mul_first"].area == parts["mul_first"].sequential == areas["u1"]
    assert parts["n"].area == areas["u2"]
    assert parts["z"].area == areas["u4"]
    assert parts["mul"].area == areas["u1"] + areas["u5"]  # NAND2's two readers have nothing in common
    assert [p.name for p in area_by_hierarchy(netlist, least=0.2)] == ["mul", "mul_first", "mul_second"]
    assert sum(p.area for p in parts.values() if p.depth == 0) == sum(areas.values())
    # Without BUF both readers of NAND2 are registers of `mul`.
    del netlist.instances[3]
    netlist.instances[0].nets["D"] = 7
    netlist.outputs.remove("z")
    parts = {p.name: p for p in area_by_hierarchy(netlist, least=0.0)}
    assert parts["mul"].area == areas["u1"] + areas["u3"] + areas["u5"]
    assert parts["mul"].sequential == areas["u1"] + areas["u5"]


def test_what_drives_a_clock_gate_belongs_to_its_registers():
    netlist = five_cells()
    netlist.names.update({5: "first", 9: "second"})
    pins = {
        n: Pin(
            name=n, direction="input", capacitance=(0.01, 0.01), max_capacitance=1.0, function=None, arcs=(), power=()
        )
        for n in ("CLK", "E")
    }
    gated = Cell("GATE", 3.0, pins, None, (), ClockGate("CLK", ("E",), "GCLK"))
    netlist.instances.append(Instance("gate", gated, {"CLK": 2, "E": 8, "GCLK": 10}))
    netlist.instances[4].nets["CLK"] = 10
    netlist.outputs.remove("z")
    parts = {p.name: p.area for p in area_by_hierarchy(netlist, least=0.0)}
    # NAND2 and BUF, whose only readers are u5 and its gate.
    assert parts == {"first": 6.0, "second": 6.0 + 3.0 + 2.0 + 2.0, "n": 1.0}


def metered_by_hand():
    """The five cells, and a meter of four cycles of them."""
    netlist = five_cells()
    meter = PowerMeter(netlist, analyse(netlist, None), 1.0)
    simulator = GateSimulator(netlist, 1)
    ones = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
    #            q n y z q2: 0 1 1 1 1    0 1 1 1 1    1 0 0 0 1    1 0 1 1 0    0 1 1 1 1
    for step, (a, b) in enumerate([(0, 1), (0, 1), (0, 1), (1, 1), (1, 1), (0, 0), (0, 1)]):
        nets = simulator.settle({3: ones * np.uint64(a), 4: ones * np.uint64(b)})
        if step == 2:
            meter.start(nets)
        elif step > 2:
            meter.count(nets)
        simulator.clock()
    meter.sample_leakage(simulator.nets)
    return netlist, meter


def test_energy_by_hand():
    _, meter = metered_by_hand()
    energy = meter.energy()
    # Toggles in the four cycles: in 2, in2 2, q 2, n 2, y 2 (once with A, once with B), z 2, q2 2.
    assert energy.cycles == 4 * 64
    assert energy.switching == pytest.approx((2 * 0.5 * 0.02 + 2 * 0.5 * 0.02) / 4, rel=1e-12)  # q and y drive two pins
    assert energy.inputs == pytest.approx((2 * 0.5 * 0.01 + 2 * 0.5 * 0.01) / 4, rel=1e-12)
    assert energy.clock_net == pytest.approx(0.04, rel=1e-12)
    assert energy.clock_pins == pytest.approx(2 * (0.005 + 0.003), rel=1e-12)
    inverter, nand, buffer, outputs, data = 2 * 0.003, 0.003 + 0.005, 2 * 0.002, 4 * 0.010, 4 * 0.001
    assert energy.internal == pytest.approx((inverter + nand + buffer + outputs + data) / 4, rel=1e-12)
    assert energy.leakage_nw == pytest.approx(2 + 3 + 1 + 5 + 5, rel=1e-12)  # q is 0 at the end
    total = energy.internal + energy.switching + energy.inputs + energy.clock_net + energy.clock_pins
    assert energy.total(10.0) == pytest.approx(total + 16 * 10 * 1e-6, rel=1e-12)


def recorded_stimulus(design, activity, words):
    """What the recorded lane was given: it takes stored blocks of activations, in order of their rows."""
    generator = torch.Generator().manual_seed(0)
    streams, rows, blocks = 64 * words, 32, 2
    for name, (a_fp8, w_fp8) in shares_by_activity("mixed").items():
        a = normal_blocks((streams, blocks, rows), a_fp8, generator)
        w = normal_blocks((streams, blocks), w_fp8, generator)
        if name == activity:
            break
    nothing = torch.zeros(streams, dtype=torch.bool)
    tile = Tile(a=a, w=w, sums=torch.zeros(streams, rows, dtype=torch.int64), first=~nothing, last=nothing)
    stimulus = Stimulus(name, *weight_stationary(design, tile, tile.row_order("ascending")))
    bits = stored_bits(flattened(a), "mixed")
    bits[..., 64:128] = held(bits[..., 64:128], a.fp8.flatten(1).numpy())
    cycles = len(stimulus.inputs["rst"])
    step = np.clip(np.arange(cycles) - PROLOGUE, 0, rows * blocks - 1)
    inputs = {port: values for port, values in stimulus.inputs.items() if not port.startswith("a_")}
    return replace(stimulus, inputs={**inputs, "a": stream_words(bits[:, step])})


def test_opensta_computes_the_same():
    facts = json.loads((RECORDED / "engine-lane.json").read_text())
    theirs = facts["opensta"]
    library = read_liberty(RECORDED / "engine-lane.library.lib.gz").cells
    target = Target(library, library.wire_load)
    module = json.loads(gzip.decompress((RECORDED / "engine-lane.netlist.json.gz").read_bytes()))
    netlist = read_netlist(module, library)
    add_buffers(netlist, library, target.excluded)
    assert len(netlist.instances) == facts["buffered_cells"]
    timing = analyse(netlist, target.wire_load)
    design = build(EngineLaneConfig(), "engine_lane")
    unit = Implementation(design, target, Mapped(module, {}, {}), netlist, timing)
    # simulate() compares every result with the golden model on the way.
    meter = simulate(unit, recorded_stimulus(design, facts["activity"], facts["words"]), "recorded")[""]
    assert float(meter.activity()[0].sum()) == facts["toggles"]  # the activity that OpenSTA was given
    energy = meter.energy()
    clock_root = timing.load[netlist.clock, 0] * library.voltage**2  # of no cell: OpenSTA does not count it
    ours = {
        "period_ns": timing.period,
        "internal": energy.internal + energy.clock_pins,
        "switching": energy.switching + energy.clock_net - clock_root,
        "leakage": energy.leakage_nw * facts["period_ns"] * 1e-6,
        "total": energy.total(facts["period_ns"]) - energy.inputs - clock_root,
    }
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=0.03), name


def test_a_netlist_that_computes_something_else_is_refused():
    design = build_preset("decoder-e2m1")
    unit = implement(design, Target(cells()))
    gate = next(i for i in unit.netlist.instances if i.cell.name == "NAND2")
    gate.nets["B"] = 1
    (stimulus,) = stimuli(design, 1).values()
    with pytest.raises(RuntimeError, match="differs from the golden model"):
        measure_energy(unit, stimulus, "broken")


@pytest.mark.parametrize("name", ["decoder-e4m3", "decoder-e2m1", "dot-fp8", "engine-lane", "lane", "selector"])
def test_every_output_of_a_unit_is_compared(name):
    design = build_preset(name)
    outputs = {p.name for p in design.ports if p.direction == "output"} - {"i_ready"}
    for stimulus in stimuli(design, 1, 8).values():
        assert set(stimulus.expected) == outputs


def without(kind, text):
    """The library without groups of a kind."""
    pattern = re.compile(kind + r" \([^()]*\) \{(?:[^{}]|\{[^{}]*\})*\}")
    assert pattern.search(text)
    return pattern.sub("", text)


def test_what_a_library_does_not_hold_is_left_out(tmp_path):
    text = LIBRARY.read_text()
    design = build_preset("decoder-e4m3")
    for kind, missing in (("internal_power", ("energy",)), ("timing", ("timing", "energy"))):
        path = tmp_path / f"no_{kind}.lib"
        path.write_text(without(kind, text))
        library = read_liberty(path)
        result = characterize(design, library, Target(library.cells), words=1, cache=tmp_path)
        assert result["area"]["total_um2"] > 0
        assert [key for key in ("timing", "energy") if result[key] is None] == list(missing)
        assert any(f"has no {kind}" in c for c in result["caveats"])


def with_wire_load(content):
    """The library with a default wire load model that says `content`."""
    model = f'nom_voltage : 1.0; default_wire_load : "small"; wire_load ("small") {{ {content} }}'
    return lambda text: text.replace("nom_voltage : 1.0;", model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[: len(t) // 2], "ends inside cell NAND2, expected a whole Liberty file"),
        (lambda t: "", "expected a Liberty file that begins with library (NAME) {"),
        (lambda t: t.replace("ff (IQ", "latch (IQ"), "no D flip-flop of the rising edge among 4 usable cells"),
        (lambda t: t.replace('clocked_on : "CLK"', 'clocked_on : "!CLK"'), "no D flip-flop of the rising edge among 4"),
        (lambda t: t.replace('function : "!A"', 'function : "A"'), "no inverter among 4 usable cells, expected one"),
        (lambda t: t.replace("(A B)'", "A ^ B"), "no AND or OR gate of two inputs, inverted or not,"),
        (lambda t: t.replace("nom_voltage : 1.0;", ""), "0 operating_conditions with a voltage, expected nom_voltage,"),
        (lambda t: t.replace("nom_voltage : 1.0;", "nom_voltage : -1;"), "voltage '-1', expected a number above 0"),
        (lambda t: t.replace('"1ns"', '"1 fortnight"'), "time_unit '1 fortnight', expected one of"),
        (lambda t: t.replace("(1, pf)", "(1, nf)"), "capacitive_load_unit 'nf', expected one of ff, pf"),
        (lambda t: t.replace("(1, pf)", "(1)"), "capacitive_load_unit '', expected one of ff, pf"),
        (lambda t: t.replace('"!A"', '"!(A"'), "Liberty expression: '!(A', expected a closing parenthesis"),
        (lambda t: t.replace("area : 1;", "area : large;"), "cell INV cannot be read"),
        (lambda t: t.replace("area : 1;", "area : nan;"), "cell INV cannot be read: 'nan', expected a finite number"),
        (with_wire_load("capacitance : much;"), "wire_load small capacitance 'much', expected a number"),
        (with_wire_load("fanout_length (1, 2, 3);"), "wire_load small fanout_length with 3 numbers, expected pairs"),
        (lambda t: t.replace("cell (INV) {", "cell (INV) {" + "pin (A) {" * 9000 + "}" * 9000), "nested too deeply"),
        (
            lambda t: t.replace("cell (INV) {", "cell (INV) { leakage_power () { }"),
            "cell INV cannot be read: no 'value'",
        ),
        (lambda t: t.replace("cell (INV) {", "cell (INV) { \0\xff"), "bad.lib: "),
        (lambda t: t.replace('function : "A"', 'function : "A A"').replace("cell (BUF)", "cell (B;F)"), "name 'B;F'"),
        (lambda t: t.replace('function : "A";', ""), "no buffer among 4 usable cells, expected one"),
        (lambda t: t.replace("cell (INV)", "cell (INÜ)"), "cell name 'INÜ', expected letters, digits and underscores"),
        (lambda t: t.replace('when : "A"', 'when : "A ("'), "cell INV cannot be read: Liberty expression: 'A ('"),
        (lambda t: t.replace('"CLK"; next', '"ZZ"; next'), "cell DFF cannot be read: clocked_on 'ZZ', expected one of"),
        (lambda t: t.replace("area : 1;", "area : -1;"), "cell INV cannot be read: area -1.0, expected 0 or more"),
        (lambda t: t.replace('"0.01, 1"', '"1, 1"'), "with index_1 [1.0, 1.0], expected each above the one before"),
        (lambda t: t.replace('"0.1, 0.1"', '"0.1, 1e308"'), "holds a number that is not finite or above 1e+09"),
        (
            lambda t: t.replace("nom_voltage : 1.0;", "nom_voltage : 1.0; default_wire_load : none;"),
            "default_wire_load 'none', expected the name of a wire_load group in it",
        ),
        (
            lambda t: t.replace('direction : output; function : "!A"', 'direction : inout; function : "!A"'),
            "no inverter among 4 usable cells",
        ),
    ],
)
def test_a_library_that_cannot_be_used_gets_one_line(tmp_path, capsys, change, message):
    path = tmp_path / "bad.lib"
    path.write_text(change(LIBRARY.read_text()))
    out = tmp_path / "result.json"
    arguments = ["synth", "asic", "decoder-e2m1", "--liberty", str(path), "--cache", str(tmp_path), "-o", str(out)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("fgmp: ")
    assert error.count("\n") == 1
    assert message in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "Library with only 2 cell classes cannot be used.\n** cmd error: aborting 'source x'",
            "Library with only 2 cell",
        ),
        (
            "Assertion failed: i < p->nSize\nTraceback (most recent call last):\nwasmtime._trap.Trap: error",
            "Assertion failed",
        ),
        ("ERROR: FF x cannot be legalized\nwarning: more", "ERROR: FF x cannot be legalized"),
        ("cmd error: aborting", "cmd error: aborting"),
    ],
)
def test_a_library_that_yosys_stops_at_gets_the_line_that_says_why(monkeypatch, said, line):
    def stop(*_):
        raise RuntimeError(said)

    monkeypatch.setattr(mapping, "run_yosys", stop)
    with pytest.raises(InputError, match=f"five_cells.lib: yosys cannot map to it: {line}"):
        mapping.map_design("", "unit", Target(cells(), None))


def test_the_supply_is_that_of_the_default_conditions():
    best = "operating_conditions (best) { voltage : 1.3; }"
    typical = "operating_conditions (typ) { voltage : 0.9; }"
    text = LIBRARY.read_text()
    assert cells().voltage == 1.0
    named = "nom_voltage : 1.0; default_operating_conditions : typ;"
    assert cells(text.replace("nom_voltage : 1.0;", f"{named} {best} {typical}")).voltage == 0.9
    assert cells(text.replace("nom_voltage : 1.0;", f"nom_voltage : 1.0; {best} {typical}")).voltage == 1.0
    assert cells(text.replace("nom_voltage : 1.0;", best)).voltage == 1.3
    with pytest.raises(InputError, match="2 operating_conditions with a voltage, expected nom_voltage"):
        cells(text.replace("nom_voltage : 1.0;", best + typical))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--liberty", "nowhere.lib"], "liberty: nowhere.lib is not a file"),
        (["--liberty", str(LIBRARY), "--period", "0"], "period: 0.0, expected nanoseconds from 0.001"),
        (["--liberty", str(LIBRARY), "--words", "0"], "words: 0, expected 1 to 1024"),
        (["--liberty", str(LIBRARY), "--set", "depth=3"], "parameter: 'depth=3', expected NAME=VALUE"),
        (["--liberty", str(LIBRARY), "--set", "element=E3M2"], "decoder element: 'E3M2', expected E4M3 or E2M1"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    assert main(["synth", "asic", "decoder-e2m1", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_damaged_gzip(tmp_path, capsys):
    path = tmp_path / "cut.lib.gz"
    path.write_bytes(gzip.compress(LIBRARY.read_bytes())[:200])
    assert main(["synth", "asic", "decoder-e2m1", "--liberty", str(path)]) == 2
    assert "damaged gzip file" in capsys.readouterr().err


def test_asic_command(tmp_path, capsys):
    out = tmp_path / "result.json"
    arguments = ["synth", "asic", "decoder-e4m3", "decoder-e2m1", "--liberty", str(LIBRARY), "--words", "1"]
    assert main([*arguments, "--cache", str(tmp_path / "cache"), "-o", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    for result in printed:
        assert result["schema"] == SCHEMA
        assert section_of(SCHEMA, result, "").parts
        area = result["area"]
        assert area["total_um2"] == sum(c["area_um2"] for c in area["by_cell"].values())
        parts = result["energy"][0]["parts_pj"]
        assert result["energy"][0]["pj_per_cycle"] == pytest.approx(sum(parts.values()), rel=1e-12)
    assert main([*arguments, "--cache", str(tmp_path / "cache")]) == 0
    assert "energy" in capsys.readouterr().out


@pytest.mark.parametrize("signs", ["counted", "extended"])
def test_dot_product_of_fp8_pairs_on_gates(signs, tmp_path):
    """Mapped to five cells, the netlist still answers like the golden model; the numbers themselves mean nothing."""
    library = read_liberty(LIBRARY)
    design = build(DotConfig("fp8", signs=signs), f"dot_{signs}")
    result = characterize(design, library, Target(library.cells), words=1, cache=tmp_path)
    assert result["energy"][0]["cycles"] > 1000


def test_cells_are_sized_where_there_are_delays():
    """A tie cell has none, and abc can do nothing with delays that no load changes: then area alone counts."""
    text = gzip.decompress((RECORDED / "engine-lane.library.lib.gz").read_bytes()).decode()
    tie = 'cell (TIE) { area : 1; pin (HI) { direction : output; function : "1"; } }'
    with_tie = text[: text.rindex("}")] + tie + "}"
    for content, sized in ((text, True), (with_tie, True), (LIBRARY.read_text(), False)):
        assert ("upsize" in "".join(mapping_script("", "top", Target(cells(content)), ()))) == sized


@given(st.integers(0, 255))
def test_expressions_have_the_precedence_of_liberty(values):
    a, b, c, d = ((values >> i & 1) for i in range(4))
    bits = a | b << 1 | c << 2 | d << 3
    for text, expected in (
        ("A + B C", a | (b & c)),
        ("A B' | !C", (a & (1 - b)) | (1 - c)),
        ("A ^ B & C", (a ^ b) & c),
        ("!(A*B)^D", (1 - (a & b)) ^ d),
        ("(A|B)&(C|D)'", (a | b) & (1 - (c | d))),
        ("1 & A | 0", a),
    ):
        assert truth_table(text, ("A", "B", "C", "D")) >> bits & 1 == expected, text


def test_bits_are_packed_stream_by_stream():
    bits = np.random.default_rng(0).random((3, 5, 128)) < 0.5
    words = pack_bits(bits)
    assert words.shape == (3, 5, 2)
    assert (unpack_bits(words) == bits).all()
    assert words[0, 0, 1] >> np.uint64(7) & np.uint64(1) == bits[0, 0, 71]


def test_cache_makes_damaged_entries_again(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"n": len(made)}

    assert cached(tmp_path, "x", {"a": 1}, make) == {"n": 1}
    assert cached(tmp_path, "x", {"a": 1}, make) == {"n": 1}
    next(tmp_path.iterdir()).write_bytes(b"damaged")
    assert cached(tmp_path, "x", {"a": 1}, make) == {"n": 2}
    assert cached(tmp_path, "x", {"a": 2}, make) == {"n": 3}


def test_the_cache_serves_threads_of_one_key(tmp_path):
    def get(number):
        return cached(tmp_path, "x", {"round": number // 6}, lambda: {"text": "y" * 10_000})

    with ThreadPoolExecutor(6) as pool:
        assert all(value == {"text": "y" * 10_000} for value in pool.map(get, range(360)))
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".z"] * 60


def test_results_that_cannot_be_written_are_refused_before_the_work(tmp_path, capsys):
    arguments = ["synth", "asic", "decoder-e2m1", "--liberty", str(LIBRARY), "-o", str(tmp_path)]
    assert main([*arguments, "--cache", str(tmp_path / "cache")]) == 2
    assert "is a folder, expected a file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_parameters_can_be_changed():
    config = changed(LaneConfig(), ["pipeline=2", "sharing=merged"])
    assert (config.pipeline, config.sharing, config.k_max) == (2, "merged", 4096)
    for change, message in (("pipeline=9", "lane pipeline: 9"), ("pipeline", "parameter: 'pipeline'")):
        with pytest.raises(InputError, match=message):
            changed(LaneConfig(), [change])


def test_modules_that_are_kept_side_by_side_are_counted():
    """Neither is in the other: the lane and the bank of an engine."""
    parts = {"top": {"lane": 4, "sums": 1, "nand2": 3}, "sums": {"bank": 2}, "bank": {"dff": 8}, "lane": {"nand2": 7}}
    assert {name: occurrences(name, "top", parts) for name in parts} == {"top": 1, "sums": 1, "bank": 2, "lane": 4}
