"""Formats side by side on one text: the table that `fgmp demo` and `fgmp evaluate` print."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ...golden.packing import FP8_BITS
from ..config import PAPER, FGMPConfig
from ..model.variant import Variant
from ..study import Study
from .losses import Estimate, Losses, Window, evaluate, jackknife

__all__ = ["FP8", "NVFP4", "NVFP4_CLIPPED", "Comparison", "Row", "compare", "summarize", "uniform"]

FP8 = "FP8"
NVFP4 = "NVFP4"
NVFP4_CLIPPED = "NVFP4 clip"
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. Estimates carry standard errors; what does not apply to a line is None."""

    name: str
    weight_fp4_share: float | None
    activation_fp4_share: float | None
    perplexity: Estimate
    degradation_percent: Estimate | None
    kl: Estimate | None
    recovered: Estimate | None
    weight_bytes: int
    bits_per_weight: float
    weight_bytes_vs_fp8: float


@dataclass(frozen=True)
class Comparison:
    """The table, how many tokens it was measured on, and paired KL differences between variants, by name: `kl_above`
    is from the variant that `against` names.

    `degradation_percent` in the rows is against the row that `degradation_against` names: FP8 where that is among them,
    else the model's own precision. `weight_bytes_vs_fp8` is against one byte a weight (`FP8_BITS`).
    """

    rows: list[Row]
    tokens: int
    kl_above: dict[str, Estimate]
    degradation_against: str = FP8
    against: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries for machines."""
        return _without_nan(asdict(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Comparison":
        """What `as_json` made, whatever else `data` holds. Raises KeyError or TypeError for what it did not make."""

        def estimate(value: Mapping[str, Any] | None) -> Estimate | None:
            if value is None:
                return None
            return Estimate(value["value"], math.nan if value["error"] is None else value["error"])

        measured = ("perplexity", "degradation_percent", "kl", "recovered")
        rows = [Row(**{**row, **{name: estimate(row[name]) for name in measured}}) for row in data["rows"]]
        above = {name: Estimate(**value) for name, value in data["kl_above"].items()}
        return cls(rows, data["tokens"], above, data["degradation_against"], data["against"])


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: the error of a single window is null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def uniform(fp4: bool, base: FGMPConfig | None = None) -> FGMPConfig:
    """All NVFP4 (with plain block scales, amax / 6) or all FP8, rounded to nearest, otherwise like `base`."""
    plain = {**PAPER, "budget": None, "clip": False}
    return replace(base or FGMPConfig(), fp4_weights=float(fp4), fp4_activations=float(fp4), **plain)


def compare(
    study: Study,
    formats: Mapping[str, FGMPConfig],
    windows: Sequence[Window],
    *,
    exact: bool = True,
    against: Mapping[str, str] | None = None,
    together: bool = True,
    reference: str = "float32",
    batch: int = 4,
) -> tuple[Comparison, dict[str, Variant]]:
    """Make a variant of each format, evaluate all on `windows` and fill the table; variants are returned by name too.

    `against` names, for some formats, the one whose KL is subtracted. With `together` all variants are in memory at
    once and share one pass of the model's own precision; without, each is dropped once it is evaluated, not returned.
    `reference` is what the model's own precision is called, `batch` how many windows run at a time.
    """
    losses: dict[str, Losses] = {}
    variants: dict[str, Variant] = {}

    def measure(some: Sequence[Variant]) -> dict[str, Losses]:
        return evaluate(
            study.model, study.sites, some, windows, reference=reference, batch=batch, progress=study.progress
        )

    if together:
        variants = {name: study.variant(config, name, exact=exact) for name, config in formats.items()}
        losses = measure(list(variants.values()))
        rows = list(variants.values())
    else:
        rows = []
        for name, config in formats.items():
            variant = study.variant(config, name, exact=exact)
            losses |= measure([variant])
            variant.modules.clear()
            rows.append(variant)
    return summarize(rows, losses, against or {}, reference), variants


def summarize(
    variants: Sequence[Variant], losses: Mapping[str, Losses], against: Mapping[str, str], reference: str = "float32"
) -> Comparison:
    """The table of what `evaluate` measured."""
    own = losses[reference]
    fp8, nvfp4 = losses.get(FP8), losses.get(NVFP4)
    parameters = sum(p.shape[0] * p.shape[1] for p in variants[0].weights.values()) if variants else 0
    fp8_bytes = parameters * FP8_BITS / 8
    bits = 8.0 * _BYTES.get(reference, 4)
    rows = [
        Row(
            name=reference,
            weight_fp4_share=None,
            activation_fp4_share=None,
            perplexity=_perplexity(own),
            degradation_percent=None,
            kl=None,
            recovered=None,
            weight_bytes=int(parameters * bits / 8),
            bits_per_weight=bits,
            weight_bytes_vs_fp8=bits / FP8_BITS,
        )
    ]
    for variant in variants:
        mine = losses[variant.name]
        base = own if fp8 is None else fp8
        recovered = None
        if fp8 is not None and nvfp4 is not None:
            recovered = jackknife(lambda k, low, high: (high - k) / (high - low), mine.kl, fp8.kl, nvfp4.kl)
        size = sum(p.bytes for p in variant.weights.values())
        rows.append(
            Row(
                name=variant.name,
                weight_fp4_share=variant.weight_fp4_share,
                activation_fp4_share=variant.activation_fp4_share,
                perplexity=_perplexity(mine),
                degradation_percent=jackknife(
                    lambda a, b, t: 100 * (np.exp((a - b) / t) - 1), mine.nll, base.nll, mine.tokens
                ),
                kl=jackknife(lambda k, t: k / t, mine.kl, mine.tokens),
                recovered=recovered,
                weight_bytes=size,
                bits_per_weight=8 * size / parameters,
                weight_bytes_vs_fp8=size / fp8_bytes,
            )
        )
    above = {
        name: jackknife(lambda a, b, t: (a - b) / t, losses[name].kl, losses[other].kl, losses[name].tokens)
        for name, other in against.items()
    }
    return Comparison(rows, int(own.tokens.sum()), above, reference if fp8 is None else FP8, dict(against))


def _perplexity(losses: Losses) -> Estimate:
    return jackknife(lambda nll, tokens: float(np.exp(nll / tokens)), losses.nll, losses.tokens)
