"""Coverage: bins count what happened and nothing else, and what Verilator counted is read as it says."""

import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgmp.__main__ import main
from fgmp.hdl.config import preset
from fgmp.report.build import section_of
from fgmp.sim.coverage.bins import _ROUNDED, _exponent, _rounding, engine_bins, lane_bins, selector_bins
from fgmp.sim.coverage.measure import SCHEMA, coverage_lines, least_share
from fgmp.sim.coverage.structure import read_points, read_structure
from fgmp.sim.coverage.waivers import EMPTY_BINS, WAIVERS
from fgmp.sim.engine.random_gemms import uniform_gemm
from fgmp.sim.regression import campaigns_of

from .conftest import build_preset, with_long


@given(st.integers(0, 2**52), st.sampled_from([8, 24]))
def test_rounding_is_told_apart_exactly(magnitude, kept):
    dropped = max(magnitude.bit_length() - kept, 0)
    rest, half = magnitude % (1 << dropped), (1 << dropped) / 2
    if rest == 0:
        expected = "exact"
    elif rest == half:
        expected = "tie to even, up" if magnitude >> dropped & 1 else "tie to even, down"
    else:
        expected = "below the tie" if rest < half else "above the tie"
    assert _rounding(np.array([magnitude]), kept) == Counter([expected])
    assert expected in _ROUNDED


def test_powers_of_two_are_of_their_own_length():
    for power in range(53):
        assert _rounding(np.array([1 << power]), 8) == Counter(["exact"])
        if power > 9:
            assert _rounding(np.array([(1 << power) - 1]), 8) == Counter(["above the tie"])


@pytest.mark.parametrize(
    ("value", "kind"), [(0, "zero"), (94, "largest"), (-94, "smallest"), (95, "beyond the limits"), (-1, "negative")]
)
def test_exponents(value, kind):
    assert _exponent(value & 0xFF) == kind


def empty(bins):
    return {f"{group}: {name}" for group, counts in bins.items() for name, count in counts.items() if not count}


def test_a_lanes_regression_leaves_no_bin_empty():
    design = build_preset("lane-1k")
    campaigns = campaigns_of(design, count=200, model=False)
    bins = lane_bins(design, campaigns)
    assert empty(bins) == set()
    assert sum(bins["precision mode"].values()) == sum(len(c.inputs) for c in campaigns)
    results = sum(len(c.results) for c in campaigns)
    assert bins["sum"]["zero"] + bins["sum"]["positive"] + bins["sum"]["negative"] + bins["sum"]["poisoned"] == results
    for name in ("float32", "bfloat16"):
        assert sum(bins[f"rounding to {name}"].values()) == results - bins["sum"]["poisoned"]


@pytest.mark.parametrize(
    ("left_out", "hole"),
    [
        ("block scales, every illegal code", "block scale: weight: sign bit"),
        ("random rows, source pauses", "stalls: source"),
        ("partial sums", "place in the row: middle"),
    ],
)
def test_a_campaign_that_is_missing_leaves_a_hole(left_out, hole):
    """Each bin is there because a campaign fills it."""
    design = build_preset("lane-1k")
    campaigns = [c for c in campaigns_of(design, count=20, model=False) if left_out not in c.name]
    if left_out == "partial sums":  # what has rows of three blocks or more
        campaigns = [c for c in campaigns if c.name.startswith("element pairs")]
    if "illegal" in left_out:
        campaigns = [c for c in campaigns if "illegal" not in c.name]
    assert hole in empty(lane_bins(design, campaigns))


FOUR_OVER_SIX = "selector-four-over-six"


@pytest.mark.parametrize("name", with_long(["selector", "selector-bf16", FOUR_OVER_SIX], FOUR_OVER_SIX))
def test_a_selectors_regression_leaves_no_bin_empty(name):
    design = build_preset(name)
    campaigns = campaigns_of(design, count=100, model=False)
    bins = selector_bins(design, campaigns)
    assert empty(bins) == set()
    assert sum(bins["mode"].values()) == sum(len(c.results) for c in campaigns)
    without = [c for c in campaigns if c.name != "scores at the threshold"]
    assert "score against threshold: one step above" in empty(selector_bins(design, without))


def test_sizes_of_gemms():
    config = preset("engine-4")
    chosen = ((1, 1, 16), (8, 4, 256), (9, 5, 272), (30, 20, 700), (3, 2, 130))
    gemms = [uniform_gemm(*size, 0.5, 1) for size in chosen]
    bins = engine_bins(config, gemms, Counter(done=5), Counter(weights=1, activations=0, results=2))
    sizes = bins["size"]
    for side in "MNK":
        for kind in ("of one", "one tile", "a tile and one", "several tiles"):
            assert sizes[f"{side} {kind}"] == 1, (side, kind)
    assert sizes["K not whole blocks"] == 2
    assert sizes["K beyond the buffer"] == 1
    assert sizes["last K tile of 9 blocks"] == 1
    assert bins["paused stream"] == {"weights": 1, "activations": 0, "results": 2}
    assert "selector mode" not in bins
    assert "input: static" in engine_bins(preset("engine"), [], Counter(), Counter())["selector mode"]
    resident = replace(config, slots=32)
    assert "K beyond the buffer" not in engine_bins(resident, [], Counter(), Counter())["size"]


def dat(*points):
    lines = ["# SystemC::Coverage-3"]
    for kind, module, name, line, instance, count in points:
        keys = {"f": "u.v", "l": line, "n": 1, "t": kind, "page": f"v_{kind}/{module}", "o": name, "h": instance}
        lines.append("C '" + "".join(f"\x01{k}\x02{v}" for k, v in keys.items()) + f"' {count}")
    return "\n".join(lines)


def test_points_of_instances_are_one_and_waivers_take_what_never_happened(tmp_path):
    path = tmp_path / "coverage.dat"
    path.write_text(
        dat(
            ("toggle", "u_part", "a[0]:0->1", 3, "TOP.u.p0", 0),
            ("toggle", "u_part", "a[0]:0->1", 3, "TOP.u.p1", 2),
            ("toggle", "u_part", "a[1]:1->0", 3, "TOP.u.p0", 0),
            ("toggle", "u", "long[19]:0->1", 4, "TOP.u", 0),
            ("toggle", "u", "long[0]:0->1", 4, "TOP.u", 1),
            ("branch", "u", "if", 9, "TOP.u", 0),
            ("line", "u", "block", 9, "TOP.u", 7),
        ),
        "latin-1",
    )
    assert len(read_points(path, "u")) == 6
    found = read_structure(path, "u", [(r"top\.long\[1\d\]", "long")])
    assert (found.covered["toggle"], found.total["toggle"]) == (2, 3)
    assert (found.share("branch"), found.share("line")) == (0.0, 1.0)
    assert found.waived == Counter(long=1)
    assert set(found.holes) == {"part.a", "top.line 9 if"}
    # A waiver hides nothing that happened.
    assert read_structure(path, "u", [(".", "all")]).total["toggle"] == 2


def test_waivers_have_reasons_and_compile():
    for pattern, reason in WAIVERS:
        re.compile(pattern)
        assert len(reason) > 10
    assert all(len(reason) > 20 for reason in EMPTY_BINS.values())


@pytest.mark.long
def test_the_command(capsys):
    assert main(["coverage", "selector-flat", "--count", "60", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["schema"] == SCHEMA
    assert result["differences"] == 0
    assert result["functional"]["holes"] == []
    assert least_share(result) > 0.9
    assert 0 < result["structure"]["toggle"]["covered"] < result["structure"]["toggle"]["total"]
    assert section_of(SCHEMA, result, "").good
    assert any("toggles" in line for line in coverage_lines(result))
    assert main(["coverage", "selector-flat", "--count", "60", "--least", "100"]) == 1
    assert "never: " in capsys.readouterr().out
    assert main(["coverage", "selector-flat", "--count", "0"]) == 2
    assert main(["coverage", "dot-fp8"]) == 2
    assert "has no campaigns" in capsys.readouterr().err
    assert main(["coverage", "lane", "--least", "101"]) == 2
    assert "least: 101.0, expected percent, 0 to 100" in capsys.readouterr().err
