"""The choice by energy: counts, prices, the lines that it draws, and what it expects of the hardware."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fgmp.errors import InputError
from fgmp.formats import PRECISION_MODES
from fgmp.golden.packing import unpack
from fgmp.golden.precision_modes import count_precision_modes
from fgmp.quantizer.choose.columns import Columns
from fgmp.quantizer.choose.joint import Problem
from fgmp.quantizer.config import FGMPConfig
from fgmp.quantizer.prepare.sites import Site
from fgmp.quantizer.prices import Prices
from fgmp.quantizer.study import Study

SCORES = st.one_of(st.just(0.0), st.floats(2.0**-170, 2.0**170))


@given(st.lists(st.lists(st.lists(SCORES, min_size=3, max_size=3), min_size=1, max_size=9), min_size=1, max_size=3))
def test_counts_at_the_edges_of_bins_are_exact(matrices):
    """Thresholds that are edges of bins: whoever lies above is counted, whatever came before and after."""
    arrays = [np.array(m) for m in matrices]
    columns = Columns(iter(arrays))
    every = np.concatenate([a.T for a in arrays], axis=None)
    inside = [x for x in every if 2.0**-150 < x < 2.0**150]
    for value in [1.0, *inside[:4]]:
        edge = (np.array([value]).view(np.int64) >> 48 << 48).view(np.float64)[0]
        found = columns.above(np.full(3 * len(arrays), edge))
        wanted = np.concatenate([(a >= edge).mean(0) for a in arrays])
        assert np.allclose(found, wanted, rtol=0, atol=1e-12)


def test_counts_between_edges_grow_from_one_to_the_other():
    scores = np.exp(np.random.default_rng(1).normal(size=(4000, 2)))
    columns = Columns([scores, scores[:100] * 2.0**-40])
    steps = np.array([columns.above(np.full(4, t)) for t in np.linspace(0.01, 20, 300)])
    assert (np.diff(steps, axis=0) <= 0).all()
    wanted = np.array([(scores > t).mean(0) for t in np.linspace(0.01, 20, 300)])
    assert np.abs(steps[:, :2] - wanted).max() < 0.01
    assert (columns.above(np.zeros(4)) == 1).all()
    sparse = Columns([np.where(scores > 1, scores, 0)])
    assert np.allclose(sparse.above(np.zeros(2)), (scores > 1).mean(0))
    assert np.allclose(sparse.above(np.full(2, 2.0**-300)), (scores > 1).mean(0))
    assert (columns.above(np.full(4, np.inf)) == 0).all()
    assert columns.rows.tolist() == [4000, 4000, 100, 100]


PRICES = Prices(lane=(10, 25, 26, 30), activation=(4, 7), weight=(1, 2), rest=3, fp8_only=42)


def tiny(weights, activations, *, static=False, rows=2.0, unit=1.0):
    """One site of three block columns, read by two linears of 2 and 3 outputs."""
    site = Site("a", 48, ("a", "b"), ("a",))
    parts = {"a": weights[:2], "b": weights[2:]}
    return Problem(
        [site],
        {name: (len(part), 48) for name, part in parts.items()},
        dict.fromkeys(parts, rows),
        {"a": unit},
        Columns(parts.values()),
        Columns([activations]),
        PRICES,
        {"a": activations.mean(0)} if static else None,
    )


def cost(weights, activations, w8, a8, rows, unit):
    """Loss of a sample (what is in FP4), and pJ of all its pairs."""
    loss = (weights * ~w8).sum() + rows * unit * (activations * ~a8).mean(0).sum()
    tokens, outputs = a8.astype(float), w8.astype(float)
    pj = 0.0
    for (a, w), price in np.ndenumerate(PRICES.table()):
        met = (tokens if a else 1 - tokens).sum(0) * (outputs if w else 1 - outputs).sum(0)
        pj += price * met.sum() * rows / len(activations)
    return loss, pj


def test_what_is_expected_is_what_comes():
    """Pairs counted one by one, under the thresholds that were found; and that budgets are met, closely."""
    rng = np.random.default_rng(2)
    weights, activations = rng.exponential(size=(400, 3)), rng.exponential(size=(300, 3)) * [1, 5, 0.2]
    problem = tiny(weights, activations)
    for measure, budget in (("energy", 0.75), ("pj", 27.0), ("bits", 5.5)):
        plan = problem.solve({measure: budget}, "x")
        assert budget - 0.02 * budget < getattr(plan.expected, measure) <= budget
        w8 = np.concatenate([weights[:2] > plan.weights["a"], weights[2:] > plan.weights["b"]])
        a8 = activations > plan.activations["a"]
        _, pj = cost(weights, activations, w8, a8, 2.0, 1.0)
        for name, (a, w) in PRECISION_MODES.items():
            p, q = (a8 if a else ~a8).mean(0), (w8 if w else ~w8).mean(0)
            assert abs(plan.expected.pairs[name] - (p * q).mean()) < 0.01, name
        assert plan.expected.energy == pytest.approx(plan.expected.pj / 42)
        assert plan.expected.pj == pytest.approx(pj / (2 * 3 * 400), rel=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_no_other_choice_loses_less_for_as_little(seed):
    """Against every choice of thresholds there is, on a grid, for a problem of so few blocks that all can be tried."""
    rng = np.random.default_rng(seed)
    weights, activations = rng.exponential(size=(4, 3)), rng.exponential(size=(4, 3))
    plan = tiny(weights, activations).solve({"pj": 31.0}, "x")
    w8 = np.concatenate([weights[:2] > plan.weights["a"], weights[2:] > plan.weights["b"]])
    a8 = activations > plan.activations["a"]
    loss, pj = cost(weights, activations, w8, a8, 2.0, 1.0)
    best = loss
    for bits in range(1 << 12):
        other = np.array([bits >> i & 1 for i in range(12)], bool).reshape(4, 3)
        for threshold in (-1.0, *activations.ravel()):
            its_loss, its_pj = cost(weights, activations, other, activations > threshold, 2.0, 1.0)
            best = min(best, its_loss) if its_pj <= pj else best
    assert best > 0.8 * loss  # blocks are few, and a line between two of them is a matter of luck


def test_fp8_goes_where_it_meets_fp8_already():
    """A pair of two FP8 blocks takes little more than one: weight columns whose activations are FP8 get it sooner."""
    rng = np.random.default_rng(3)
    weights = rng.exponential(size=(600, 3))
    activations = rng.exponential(size=(500, 3)) * [10000, 100, 1]
    plan = tiny(weights, activations).solve({"pj": 30.0}, "x")
    assert plan.weights["a"][0] <= plan.weights["a"][1] < plan.weights["a"][2]
    fixed = tiny(weights, activations, static=True).solve({"pj": 30.0}, "x")
    assert fixed.static["a"].tolist() in ([True, False, False], [True, True, False])
    assert not fixed.activations


def test_rows_and_units_scale_the_bargain():
    """Twice the rows with half the score a row is the same choice for weights at half the worth."""
    rng = np.random.default_rng(4)
    weights, activations = rng.exponential(size=(50, 3)), rng.exponential(size=(60, 3))
    one = tiny(weights, activations).solve({"pj": 30.0}, "x")
    other = tiny(weights * 2, activations, rows=4.0).solve({"pj": 30.0}, "x")
    assert np.allclose(other.weights["a"], 2 * one.weights["a"], rtol=1e-6)
    assert other.activations["a"] == pytest.approx(one.activations["a"], rel=1e-6)
    scaled = tiny(weights, activations / 8, unit=8.0).solve({"pj": 30.0}, "x")
    assert scaled.activations["a"] == pytest.approx(one.activations["a"] / 8, rel=1e-6)


def test_two_budgets_at_once():
    """At one energy, the fewer bits the more the activations pay; a budget that is slack changes nothing."""
    rng = np.random.default_rng(6)
    problem = tiny(rng.exponential(size=(400, 3)), rng.exponential(size=(300, 3)) * 400)
    one = problem.solve({"pj": 30.0}, "x")
    assert problem.solve({"pj": 30.0, "bits": 8.1}, "x").expected == one.expected
    seen = [one.expected.bits]
    for bits in (5.4, 5.0, 4.6):
        plan = problem.solve({"pj": 30.0, "bits": bits}, "x")
        assert bits - 0.05 < plan.expected.bits <= bits < seen[-1]
        assert 29.7 < plan.expected.pj <= 30.0
        seen.append(plan.expected.bits)
        assert plan.activations["a"] < one.activations["a"]
    slack = problem.solve({"pj": 1000.0, "bits": 5.0}, "x").expected
    assert 4.95 < slack.bits <= 5.0
    assert slack.pairs["FP4xFP4"] + slack.pairs["FP4xFP8"] == 0  # energy is no matter, so all activations are FP8
    tight = problem.solve({"pj": 24.0, "bits": 8.0}, "x")
    assert tight.expected.pj <= 24.0


def test_budgets_out_of_reach():
    problem = tiny(np.ones((5, 3)), np.ones((4, 3)))
    with pytest.raises(InputError, match="budget pj=1: below what all FP4 comes to, expected at least pj=18"):
        problem.solve({"pj": 1.0}, "pj=1")
    plan = problem.solve({"pj": 1000.0}, "pj=1000")
    assert plan.expected.pairs["FP8xFP8"] == 1
    assert plan.expected.bits == 129 / 16


class Mlp(nn.Module):
    """A linear, whose outputs two others read."""

    def __init__(self, outlier=1.0):
        super().__init__()
        torch.manual_seed(8)
        self.first, self.left, self.right = nn.Linear(64, 96), nn.Linear(96, 32), nn.Linear(96, 48)
        self.register_buffer("scale", torch.ones(96))
        self.scale[:16] = outlier

    def forward(self, x):
        h = torch.relu(self.first(x)) * self.scale
        return torch.cat([self.left(h), self.right(h)], -1)


def study_of(model, count=4):
    generator = torch.Generator().manual_seed(9)
    samples = [torch.randn(40, 64, generator=generator) for _ in range(count)]
    return Study(model, samples, loss=lambda x: model(x).square().mean(), ignore=(), progress=False), samples


@pytest.mark.parametrize("activations", ["dynamic", "static"])
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_a_models_pairs_are_those_that_were_expected(activations, rounding):
    """Precision modes counted on the packed weights and on what the selector makes of the calibration samples."""
    study, samples = study_of(Mlp(outlier=6.0))
    config = FGMPConfig(activations=activations, rounding=rounding, permutation=False, threshold_samples=4)
    variant, expected = study.variant(config, "x"), study.plan(config).expected
    counts = dict.fromkeys(PRECISION_MODES, 0)
    for x in samples:
        h = torch.relu(study.model.first(x)) * study.model.scale
        for name, rows in (("first", x), ("left", h), ("right", h)):
            quantizer = variant.quantizers["left" if name == "right" else name]
            met = count_precision_modes(quantizer.tensor(rows.detach()), unpack(variant.weights[name]))
            counts = {mode: count + met[mode] for mode, count in counts.items()}
    total = sum(counts.values())
    assert all(abs(counts[mode] / total - share) < 0.02 for mode, share in expected.pairs.items())
    like = study.plan(replace(config, choice="energy")).expected
    assert like == expected


def test_equal_energy_is_the_default_and_loses_less():
    study, _ = study_of(Mlp(outlier=6.0), count=8)
    config = FGMPConfig(rounding="nearest", permutation=False, threshold_samples=8)
    paper = FGMPConfig.paper(threshold_samples=8)
    held_out = torch.randn(400, 64, generator=torch.Generator().manual_seed(10))
    from fgmp.quantizer.model.variant import apply

    def loss(c):
        variant = study.variant(c, "x", exact=False)
        with torch.no_grad():
            own = study.model(held_out)
            with apply(study.model, study.sites, variant):
                return float((study.model(held_out) - own).square().mean()), variant

    (mine, _), (its, theirs) = loss(config), loss(paper)
    assert mine < its
    assert abs(theirs.weight_fp4_share - 0.7) < 0.01


def test_prices_come_from_a_file_and_must_make_sense(tmp_path):
    path = tmp_path / "energy.json"
    path.write_text(json.dumps({"prices": PRICES.as_dict()}))
    assert Prices.read(path) == PRICES
    for name in ("rest", "fp8_only"):  # found by fuzzing
        path.write_text(json.dumps({"prices": {**PRICES.as_dict(), name: [1.0, 2.0]}}))
        with pytest.raises(InputError, match="no prices of block pairs"):
            Prices.read(path)
    assert Prices.from_dict(json.loads(json.dumps(Prices().as_dict()))) == Prices()
    for content in ("{}", "[]", "x", '{"prices": {"lane": [1, 2, 3, 4]}}'):
        path.write_text(content)
        with pytest.raises(InputError, match=r"prices .*energy.json: no prices"):
            Prices.read(path)
    with pytest.raises(InputError, match="No such file"):
        Prices.read(tmp_path / "none.json")
    with pytest.raises(InputError, match="expected FP8 to take more than FP4"):
        Prices(lane=(30, 20, 20, 10))
    with pytest.raises(InputError, match="prices: rest -1"):
        Prices(rest=-1)
    assert PRICES.table().tolist() == [[18, 34], [37, 42]]


@pytest.mark.parametrize(
    ("budget", "least"), [("pj=17.9", "pj=18"), ("energy=0.42", "energy=0.4286"), ("bits=4.56", "bits=4.562")]
)
def test_budgets_below_all_fp4_are_refused_before_any_work(budget, least):
    with pytest.raises(InputError, match=f"budget: {budget}, expected at least {least}, which all FP4 takes"):
        FGMPConfig(budget=budget, prices=PRICES)


@pytest.mark.parametrize(
    "budget", ["", "0.7", "energy=", "energy=x", "pj=0", "pj=-3", "bits=nan", "fp4=0.7", "pj=80,pj=90", "pj=80,"]
)
def test_budgets_that_say_nothing_are_refused(budget):
    with pytest.raises(InputError, match=r"budget: .*, expected energy=NUMBER, pj=NUMBER, bits=NUMBER"):
        FGMPConfig(budget=budget)


def test_where_there_is_no_choice_by_energy():
    for values in ({"policy": "random"}, {"threshold": "per-layer"}, {"activations": "none"}, {"fp4_weights": 1}):
        assert not FGMPConfig(**values).joint
        if "fp4_weights" not in values:
            with pytest.raises(InputError, match="expected none where blocks are not chosen by energy"):
                FGMPConfig(**values, budget="bits=5")
    assert FGMPConfig(fp4_weights=1, budget="bits=5").joint
    assert not FGMPConfig.paper().joint
    old = {"fp4_weights": 0.7, "fp4_activations": 0.7}
    assert FGMPConfig.from_dict(old) == FGMPConfig.paper()
    given = FGMPConfig(budget="pj=50", prices=PRICES)
    assert FGMPConfig.from_dict(json.loads(json.dumps(given.as_dict()))) == given
