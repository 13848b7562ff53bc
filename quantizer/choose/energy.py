"""The choice by energy on a calibrated model: counts its scores, solves, and gives the registers that follow."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from ...golden.selector import SiteSettings, Threshold
from ..calibrate.calibration import Calibration
from ..config import FGMPConfig
from ..prices import Prices
from .activations import ActivationScores, channel_codes, unit_of
from .columns import Columns
from .joint import Plan, Problem
from .weights import ScoredWeights

__all__ = ["choose_by_energy", "planned_settings"]


def choose_by_energy(
    linears: Mapping[str, nn.Linear],
    calibration: Calibration,
    scored: ScoredWeights,
    scores: ActivationScores,
    config: FGMPConfig,
) -> Plan:
    """Divide all blocks between FP4 and FP8 within `config.budget`, or else within the energy and the weight memory of
    its fractions.

    Raises InputError for a budget that cannot be met.
    """
    sites = calibration.sites
    blocks = {site.name: len(scores.columns[site.name]) for site in sites}
    rows = {site.name: scores.read(site.name).size // blocks[site.name] for site in sites}
    means = None
    if config.activations == "static":
        means = {name: (total / max(rows[name], 1)).numpy() for name, total in scores.columns.items()}
    problem = Problem(
        sites,
        {name: (linears[name].weight.shape[0], linears[name].weight.shape[1]) for name in scored.scores},
        calibration.rows,
        {site.name: unit_of(site, linears, calibration, config) for site in sites},
        Columns(np.asarray(part) for part in scored.scores.values()),
        Columns(scores.read(site.name).reshape(rows[site.name], blocks[site.name]) for site in sites),
        config.prices or Prices(),
        means,
    )
    if config.budget is not None:
        return problem.solve(config.limits, config.budget)
    like = problem.by_fraction(config.fp4_weights, config.fp4_activations)
    return problem.solve({"pj": like.pj, "bits": like.bits}, f"FP4 fraction {config.fp4_weights}")


def planned_settings(plan: Plan, calibration: Calibration, config: FGMPConfig) -> dict[str, SiteSettings]:
    """Each site's settings under a plan."""
    settings = {}
    for site in calibration.sites:
        exponent = calibration.exponents[site.name]
        if plan.static:
            fp8 = torch.from_numpy(plan.static[site.name])
            settings[site.name] = SiteSettings(
                exponent, mode="static", static_fp8=fp8, four_over_six=config.four_over_six
            )
        else:
            codes = channel_codes(calibration.channels[site.name]) if config.channel_codes else None
            settings[site.name] = SiteSettings(
                exponent,
                Threshold.nearest(plan.activations[site.name]),
                channel_codes=codes,
                four_over_six=config.four_over_six,
            )
    return settings
