"""One choice for weights and activations, priced in energy (docs/numerics.md section 5, "Choice by energy").

A block is FP8 where the loss that this saves, for each energy that it costs, is above one multiplier for the whole
model. What FP8 costs a weight block depends on how often it meets FP8 activations, and the other way round, so the two
are settled in turns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...errors import InputError
from ...formats import BLOCK_SIZE, FP4_BLOCK_BITS, FP8_BLOCK_BITS, PRECISION_MODES, ceil_div
from ..prepare.sites import Site
from ..prices import Prices
from .columns import Columns

__all__ = ["SCORE_EDGES", "Expected", "Plan", "Problem"]

SCORE_EDGES = tuple(float(edge) for edge in np.arange(-16, 16.25, 0.5))
"""Edges of the bins of `Expected.scores`: binary logarithms of a block's score over its threshold."""

_TURNS = 8
_HALVINGS, _FEWER_HALVINGS = 60, 32
_LEAST, _MOST = -200.0, 200.0
"""Of the multiplier's binary logarithm."""


@dataclass(frozen=True)
class Expected:
    """What a choice should come to on text like the calibration's.

    Attributes:
        pairs: share of the block pairs by precision mode.
        pj: energy per block pair.
        energy: the same over that of FP8-only hardware.
        bits: per weight, mask and scales included.
        scores: of "weights" and "activations", the shares of the blocks whose score over threshold lies below
            `SCORE_EDGES`, between each two of them, and above; those above 0 are FP8.
    """

    pairs: dict[str, float]
    pj: float
    energy: float
    bits: float
    scores: dict[str, list[float]] | None = None


@dataclass(frozen=True)
class Plan:
    """Where the lines are: a block is FP8 where its score is above.

    Attributes:
        weights: by linear, float64 (B,): thresholds of its block columns, in real units.
        activations: by site, the threshold in the selector's own units; static sites have none.
        static: by site, bool (B,): columns in FP8.
    """

    weights: dict[str, np.ndarray]
    activations: dict[str, float]
    static: dict[str, np.ndarray]
    expected: Expected


@dataclass(frozen=True)
class _Lines:
    """A multiplier's thresholds and what follows: the share in FP8 of each block column, `p` of activations, `q` of
    weights."""

    weights: np.ndarray
    activations: np.ndarray
    p: np.ndarray
    q: np.ndarray


class Problem:
    """What is known of a model's blocks, ready to be divided between FP4 and FP8 for any budget."""

    def __init__(
        self,
        sites: Sequence[Site],
        shapes: Mapping[str, tuple[int, int]],
        rows: Mapping[str, float],
        units: Mapping[str, float],
        weights: Columns,
        activations: Columns,
        prices: Prices,
        means: Mapping[str, np.ndarray] | None = None,
    ):
        """`shapes` are (N, K) by linear, of which `weights` counts the scores, in the same order; `activations` counts
        those of `sites`. `rows` are a sample's by linear, `units` what a site's score stands for. With `means`, float64
        (B,) by site, of the scores, whole columns of activations are FP8 or FP4.
        """
        self._names, self._sites, self._prices = list(shapes), list(sites), prices
        self._weights, self._activations = weights, activations
        self._table = prices.table()
        blocks = [ceil_div(shapes[name][1], BLOCK_SIZE) for name in self._names]
        site_blocks = [ceil_div(site.channels, BLOCK_SIZE) for site in sites]
        begins = dict(zip((s.name for s in sites), np.cumsum([0, *site_blocks[:-1]]), strict=True))
        read = {name: site.name for site in sites for name in site.linears}
        self._splits, self._site_splits = np.cumsum(blocks)[:-1], np.cumsum(site_blocks)[:-1]
        each = np.repeat(np.arange(len(blocks)), blocks)
        # Of every weight column: the activation column that it meets, rows of a sample, and block pairs.
        self._meets = np.concatenate([begins[read[n]] + np.arange(b) for n, b in zip(self._names, blocks, strict=True)])
        self._rows = np.array([rows[name] for name in self._names])[each]
        self._outputs = np.array([shapes[name][0] for name in self._names], np.float64)[each]
        self._work = self._rows * self._outputs
        # Of every activation column: its site, and how many outputs use a row of it.
        self._site = np.repeat(np.arange(len(site_blocks)), site_blocks)
        self._units = np.array([units[site.name] for site in sites])
        self._site_work = np.bincount(self._meets, self._work, len(self._site))
        watched = np.array([sum(rows[name] for name in site.watched) for site in sites])
        self._uses = self._site_work / watched[self._site]
        self._means = None
        if means is not None:
            self._means = np.concatenate([means[site.name] for site in sites]) * self._units[self._site]

    def by_fraction(self, weights: float, activations: float) -> Expected:
        """What one threshold for all weights and one for all activations comes to, at these fractions of FP4."""
        tokens, every = self._activations.rows, np.ones(len(self._work))
        q = _bisected(
            lambda t: self._weights.above(t * every), lambda q: 1 - np.average(q, weights=self._outputs), weights
        )
        p = _bisected(self._above_units, lambda p: 1 - np.average(p, weights=tokens), activations)
        return self._expected(p, q)

    def solve(self, limits: Mapping[str, float], what: str) -> Plan:
        """The choice that loses least of those within all `limits`: of "energy", "pj" and "bits", as in `Expected`.

        Raises InputError, naming the budget by `what`, if all FP4 is still above one of them.
        """
        least = self._lines(_MOST)[1]
        for name, limit in limits.items():
            if getattr(least, name) > limit:
                of_all = f"{name}={getattr(least, name):.4g}"
                raise InputError(f"budget {what}: below what all FP4 comes to, expected at least {of_all}")
        energy = {name: limit for name, limit in limits.items() if name != "bits"} or limits
        lines, expected = self._cheapest(energy)
        if "bits" in limits and expected.bits > limits["bits"]:
            # Two things are scarce, so two multipliers: one of energy, and one of what a weight block takes to keep.
            def kept(power: float) -> tuple[_Lines, Expected]:
                return self._cheapest(energy, 2.0**power)

            power = _least(lambda power: kept(power)[1].bits <= limits["bits"], _LEAST, _MOST, _FEWER_HALVINGS)
            lines, expected = kept(power)
        weights = dict(zip(self._names, np.split(lines.weights, self._splits), strict=True))
        parts = zip(self._sites, np.split(lines.activations, self._site_splits), strict=True)
        columns = {site.name: part for site, part in parts}
        expected = replace(expected, scores=self._scores(lines))
        if self._means is None:
            return Plan(weights, {name: float(part[0]) for name, part in columns.items()}, {}, expected)
        fp8 = np.split(lines.p > 0, self._site_splits)
        return Plan(weights, {}, dict(zip(columns, fp8, strict=True)), expected)

    def _cheapest(self, limits: Mapping[str, float], keeping: float = 0.0) -> tuple[_Lines, Expected]:
        """The least multiplier that is within the limits."""

        def within(multiplier: float) -> bool:
            expected = self._lines(multiplier, keeping)[1]
            return all(getattr(expected, name) <= limit for name, limit in limits.items())

        return self._lines(_least(within, _LEAST, _MOST, _HALVINGS), keeping)

    def _lines(self, multiplier: float, keeping: float = 0.0) -> tuple[_Lines, Expected]:
        """Thresholds for 2**`multiplier`, the loss that a pJ is worth; `keeping` is what a weight block's FP8 must save
        besides."""
        theta = 2.0**multiplier
        (e44, e48), (e84, e88) = self._table
        p = np.full(len(self._site), 0.3)
        for _ in range(_TURNS):
            met = p[self._meets]
            weights = theta * self._rows * ((1 - met) * (e48 - e44) + met * (e88 - e84)) + keeping
            q = self._weights.above(weights)
            share = np.bincount(self._meets, self._work * q, len(self._site)) / self._site_work
            price = (1 - share) * (e84 - e44) + share * (e88 - e48)
            if self._means is not None:
                activations = theta * self._uses * price
                p = (self._means > activations).astype(float)
            else:
                # A site has one threshold, whatever its columns meet.
                mean = np.bincount(self._site, self._site_work * price) / np.bincount(self._site, self._site_work)
                activations = theta * self._uses * mean[self._site] / np.maximum(self._units[self._site], 1e-300)
                p = self._activations.above(activations)
        lines = _Lines(weights, activations, p, q)
        return lines, self._expected(p, q)

    def _scores(self, lines: _Lines) -> dict[str, list[float]]:
        """The histogram in `Expected.scores`."""

        def activations_above(thresholds: np.ndarray) -> np.ndarray:
            if self._means is None:
                return self._activations.above(thresholds)
            return (self._means > thresholds).astype(float)

        def histogram(above: Callable[[np.ndarray], np.ndarray], at: np.ndarray, weights: np.ndarray) -> list[float]:
            shares = [float(np.average(above(at * 2.0**edge), weights=weights)) for edge in SCORE_EDGES]
            return [-float(step) for step in np.diff([1.0, *shares, 0.0])]

        return {
            "weights": histogram(self._weights.above, lines.weights, self._outputs),
            "activations": histogram(activations_above, lines.activations, self._activations.rows),
        }

    def _above_units(self, threshold: float) -> np.ndarray:
        if self._means is not None:
            return (self._means > threshold).astype(float)
        return self._activations.above(threshold / np.maximum(self._units[self._site], 1e-300))

    def _expected(self, p: np.ndarray, q: np.ndarray) -> Expected:
        met, total = p[self._meets], self._work.sum()
        pairs = {}
        for name, (a, w) in PRECISION_MODES.items():
            share = (met if a else 1 - met) * (q if w else 1 - q)
            pairs[name] = float((self._work * share).sum() / total)
        pj = sum(pairs[name] * self._table[int(a), int(w)] for name, (a, w) in PRECISION_MODES.items())
        fp8 = np.average(q, weights=self._outputs)
        bits = (FP4_BLOCK_BITS + float(fp8) * (FP8_BLOCK_BITS - FP4_BLOCK_BITS)) / BLOCK_SIZE
        return Expected(pairs, float(pj), float(pj / self._prices.fp8_only), bits)


def _bisected(at: Callable[[float], np.ndarray], fp4: Callable[[np.ndarray], float], fraction: float) -> np.ndarray:
    """The shares in FP8 where `fp4` of them is just `fraction`."""
    return at(2.0 ** _least(lambda power: fp4(at(2.0**power)) >= fraction, _LEAST, _MOST, _HALVINGS))


def _least(holds: Callable[[float], bool], low: float, high: float, halvings: int) -> float:
    """About the least number from which on `holds`, which it does at `high`."""
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
