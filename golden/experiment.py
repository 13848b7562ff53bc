"""The comparison that the demo prints: float32, all-FP8, all-NVFP4 and FGMP by policy and FP4 fraction."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calibrate import ActivationScores, Calibration, site_registers
from .evaluate import Estimate, Losses, evaluate, jackknife, mean_estimate
from .models import LanguageModel, target_linears
from .packing import pack
from .policy import POLICIES, Candidates, choose_globally, weight_candidates, weight_scores
from .quantized import SiteQuantizer, Variant
from .selector import SiteRegisters, Threshold

__all__ = ["FP8", "NVFP4", "Comparison", "Row", "compare", "fgmp_name", "fgmp_variant", "quantize_weights"]

FP8 = "FP8"
NVFP4 = "NVFP4"


def fgmp_name(fraction: float, policy: str) -> str:
    """Display name of an FGMP variant."""
    return f"FGMP {fraction:g} {policy}"


@dataclass(frozen=True)
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
    weight_bytes_vs_fp8: float


@dataclass(frozen=True)
class Comparison:
    """The table, and for each FP4 fraction the paired KL differences of the other policies to fisher."""

    rows: list[Row]
    kl_above_fisher: dict[str, Estimate]

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries for machines."""
        return asdict(self)


def quantize_weights(language_model: LanguageModel, calibration: Calibration | None) -> dict[str, Candidates]:
    """Both quantizations of every linear; with a calibration the FP4 scales are clipped by sensitivity."""
    return {
        name: weight_candidates(
            linear.weight.detach(), None if calibration is None else calibration.weights[name], f"{name}.weight"
        )
        for name, linear in target_linears(language_model.model).items()
    }


def fgmp_variant(
    fraction: float,
    policy: str,
    candidates: dict[str, Candidates],
    calibration: Calibration,
    scores: ActivationScores,
    seed: int,
) -> Variant:
    """Quantize weights and activations with one threshold each (policy random: with a seeded draw each)."""
    generator = torch.Generator().manual_seed(seed)
    impact = [weight_scores(c, policy, calibration.weights[n], generator) for n, c in candidates.items()]
    choice = choose_globally(impact, fraction)
    weights = {n: c.pick(m) for (n, c), m in zip(candidates.items(), choice.masks, strict=True)}
    quantizers = {}
    if policy == "random":
        for index, site in enumerate(calibration.sites):
            registers = SiteRegisters(calibration.exponents[site.name], Threshold(0, 0))
            quantizers[site.name] = SiteQuantizer(registers, fraction, seed * 1_000_003 + index)
    else:
        for name, registers in site_registers(calibration, scores, fraction, policy).items():
            quantizers[name] = SiteQuantizer(registers)
    return Variant(fgmp_name(fraction, policy), weights, quantizers)


def compare(
    language_model: LanguageModel,
    calibration: Calibration,
    scores: ActivationScores,
    fractions: Sequence[float],
    windows: Tensor,
    *,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Comparison, dict[str, Variant]]:
    """Evaluate all variants on `windows` and fill the table; the variants are returned by name too."""
    clipped = quantize_weights(language_model, calibration)
    plain = quantize_weights(language_model, None)
    variants = [_uniform(FP8, "all_fp8", plain, calibration), _uniform(NVFP4, "all_fp4", plain, calibration)]
    for fraction in fractions:
        for policy in POLICIES:
            variants.append(fgmp_variant(fraction, policy, clipped, calibration, scores, seed))
    losses = evaluate(language_model, calibration.sites, variants, windows, progress=progress)
    comparison = _summarize(language_model, variants, losses, fractions)
    return comparison, {v.name: v for v in variants}


def _uniform(name: str, mode: str, candidates: dict[str, Candidates], calibration: Calibration) -> Variant:
    """All blocks in one format."""
    weights = {n: c.pick(torch.full(c.scales.shape, mode == "all_fp8")) for n, c in candidates.items()}
    registers = {n: SiteRegisters(e, Threshold(0, 0), mode) for n, e in calibration.exponents.items()}
    return Variant(name, weights, {n: SiteQuantizer(r) for n, r in registers.items()})


def _summarize(
    language_model: LanguageModel, variants: Sequence[Variant], losses: dict[str, Losses], fractions: Sequence[float]
) -> Comparison:
    sizes = {v.name: sum(pack(t).bytes for t in v.weights.values()) for v in variants}
    parameters = sum(linear.weight.numel() for linear in target_linears(language_model.model).values())
    fp8, nvfp4 = losses[FP8], losses[NVFP4]
    reference = losses["float32"]
    rows = [
        Row(
            "float32", None, None, _perplexity(reference), None, None, None, 4 * parameters, 4 * parameters / sizes[FP8]
        )
    ]
    for variant in variants:
        own = losses[variant.name]
        recovered = jackknife(lambda k, low, high: (high - k) / (high - low), own.kl, fp8.kl, nvfp4.kl)
        rows.append(
            Row(
                variant.name,
                variant.weight_fp4_share,
                variant.activation_fp4_share,
                _perplexity(own),
                jackknife(lambda a, b: 100 * (np.exp(a - b) - 1), own.nll, fp8.nll),
                mean_estimate(own.kl),
                recovered,
                sizes[variant.name],
                sizes[variant.name] / sizes[FP8],
            )
        )
    above = {
        fgmp_name(fraction, policy): mean_estimate(
            losses[fgmp_name(fraction, policy)].kl - losses[fgmp_name(fraction, "fisher")].kl
        )
        for fraction in fractions
        for policy in POLICIES
        if policy != "fisher"
    }
    return Comparison(rows, above)


def _perplexity(losses: Losses) -> Estimate:
    return jackknife(lambda nll: float(np.exp(nll)), losses.nll)
