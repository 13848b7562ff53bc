"""Activation thresholds: scores of all activation blocks of some samples, and the registers that follow from them."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ...files import named
from ...formats import BLOCK_SIZE, STORED_FRACTION_BITS, ceil_div
from ...golden.blocks import to_blocks
from ...golden.selector import SiteSettings, Threshold, select
from ..calibrate.calibration import Calibration
from ..calibrate.lockstep import run_each
from ..config import FGMPConfig
from ..prepare.pages import Pages, in_memory
from ..prepare.sites import Site, hooked
from .percentile import Rank, find_rank, fp4_count

__all__ = ["ActivationScores", "activation_scores", "channel_codes", "choose_site_settings"]

_LARGEST_CHANNEL_CODE = 15


@dataclass(frozen=True)
class ActivationScores:
    """The selector's scores of all activation blocks of the samples, by site, kept in files.

    `paths` are files of float64 integers, token by token; `columns` float64 (B,) sums over tokens.
    """

    paths: dict[str, Path]
    columns: dict[str, Tensor]

    def read(self, name: str) -> np.ndarray:
        """One site's scores, one-dimensional, mapped into memory."""
        path = self.paths[name]
        return np.memmap(path, np.float64, "r") if path.stat().st_size else np.zeros(0)


def channel_codes(sensitivity: Tensor) -> Tensor:
    """uint8 (B, 16): each channel's sensitivity (K,) as a power of two, 15 for the largest, 0 for 2**-15 of it."""
    ratio = sensitivity.double() / sensitivity.double().amax().clamp(min=1e-300)
    codes = (torch.log2(ratio.clamp(min=2.0**-40)).round() + _LARGEST_CHANNEL_CODE).clamp(0, _LARGEST_CHANNEL_CODE)
    return to_blocks(codes).to(torch.uint8)


def activation_scores(
    linears: Mapping[str, nn.Linear],
    calibration: Calibration,
    samples: Iterable[Any],
    run: Callable[[Any], Any],
    folder: Path,
    config: FGMPConfig,
    *,
    pages: Pages | None = None,
    progress: bool = True,
) -> ActivationScores:
    """Call `run` on every sample and collect scores with the very recipe that will decide, in files in `folder`.

    Of a model in `pages`, samples go through each block together.
    """
    paths = {site.name: folder / f"activations-{i}.f64" for i, site in enumerate(calibration.sites)}
    columns = {s.name: torch.zeros(ceil_div(s.channels, BLOCK_SIZE), dtype=torch.float64) for s in calibration.sites}

    def watch(site: Site, file: Any) -> Any:
        codes = channel_codes(calibration.channels[site.name]) if config.channel_codes else None
        settings = SiteSettings(
            calibration.exponents[site.name], channel_codes=codes, four_over_six=config.four_over_six
        )

        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = _selectable(inputs[0].reshape(-1, site.channels))
            score = select(x, settings.to(x.device)).score
            columns[site.name] += score.sum(0).cpu()
            with named(paths[site.name]):
                file.write(score.cpu().numpy().tobytes())

        return hook

    with ExitStack() as stack:
        hooks = {}
        for site in calibration.sites:
            hook = watch(site, stack.enter_context(paths[site.name].open("wb")))
            hooks.update(dict.fromkeys(site.watched, hook))
        stack.enter_context(hooked(linears, hooks))
        stack.enter_context(torch.no_grad())
        jobs = [functools.partial(run, sample) for sample in samples]
        bar = tqdm(total=len(jobs), desc="thresholds", unit="sample", disable=not progress, leave=False)
        stack.enter_context(bar)
        for count in run_each(jobs, pages):
            bar.update(count)
    return ActivationScores(paths, columns)


def choose_site_settings(
    linears: Mapping[str, nn.Linear],
    calibration: Calibration,
    scores: ActivationScores | None,
    config: FGMPConfig,
) -> dict[str, SiteSettings]:
    """Each site's settings, such that `config.fp4_activations` of all blocks of `scores` become FP4.

    `scores` may be None where every block has the same format.
    """
    fraction = config.fp4_activations
    if fraction in (0, 1):
        mode = "all_fp4" if fraction else "all_fp8"
        return {
            site.name: SiteSettings(calibration.exponents[site.name], mode=mode, four_over_six=config.four_over_six)
            for site in calibration.sites
        }
    assert scores is not None
    units = {site.name: unit_of(site, linears, calibration, config) for site in calibration.sites}
    if config.policy == "random" or config.activations == "static":
        return _static_settings(calibration, scores, units, config)
    thetas = _thresholds(scores, units, config)
    settings = {}
    for name, unit in units.items():
        threshold = Threshold.nearest(thetas[name] / unit if unit else math.inf)
        codes = channel_codes(calibration.channels[name]) if config.channel_codes else None
        settings[name] = SiteSettings(
            calibration.exponents[name], threshold, channel_codes=codes, four_over_six=config.four_over_six
        )
    return settings


def _thresholds(scores: ActivationScores, units: Mapping[str, float], config: FGMPConfig) -> dict[str, float]:
    """By site, the threshold in real units: one for all, or one each."""

    def below(names: Iterable[str]) -> float:
        wanted = list(names)

        def parts() -> Iterator[np.ndarray]:
            return (scores.read(name) * units[name] for name in wanted)

        rank: Rank = find_rank(parts, fp4_count(sum(scores.read(n).size for n in wanted), config.fp4_activations))
        # With nothing in FP4 the hardware still leaves blocks of score 0 in FP4: both formats store them exactly alike.
        return max(rank.value, 0.0)

    if config.threshold == "global":
        return dict.fromkeys(units, below(units))
    return {name: below([name]) for name in units}


def _static_settings(
    calibration: Calibration, scores: ActivationScores, units: Mapping[str, float], config: FGMPConfig
) -> dict[str, SiteSettings]:
    """One precision per block column; columns with the smallest mean scores, counted by tokens, become FP4."""
    generator = torch.Generator().manual_seed(config.seed)
    means, tokens = [], []
    for name, unit in units.items():
        total = scores.columns[name]
        rows = scores.read(name).size // len(total)
        mean = total * unit / max(rows, 1)
        means.append(torch.rand(mean.shape, generator=generator).double() if config.policy == "random" else mean)
        tokens.append(torch.full_like(total, rows))
    groups = [range(len(means))] if config.threshold == "global" else [[i] for i in range(len(means))]
    patterns: dict[int, Tensor] = {}
    for group in groups:
        flat = torch.cat([means[i] for i in group])
        weight = torch.cat([tokens[i] for i in group])
        order = torch.argsort(flat, stable=True)
        fp4 = weight[order].cumsum(0) - weight[order] / 2 <= config.fp4_activations * weight.sum()
        fp8 = torch.ones(len(flat), dtype=torch.bool)
        fp8[order[fp4]] = False
        patterns.update(zip(group, fp8.split([len(means[i]) for i in group]), strict=True))
    return {
        name: SiteSettings(
            calibration.exponents[name],
            mode="static",
            static_fp8=patterns[index].clone(),
            four_over_six=config.four_over_six,
        )
        for index, name in enumerate(units)
    }


def unit_of(site: Site, linears: Mapping[str, nn.Linear], calibration: Calibration, config: FGMPConfig) -> float:
    """The loss of one unit of a site's score, by the policy."""
    if config.policy == "fisher":
        sensitivity = calibration.channels[site.name]
        weight = sensitivity.amax().item() / 2.0**_LARGEST_CHANNEL_CODE if config.channel_codes else None
        weight = sensitivity.mean().item() if weight is None else weight
    elif config.policy == "output-error":
        # What the site's consumers make of an error, averaged over its channels.
        weight = sum(in_memory(linears[name].weight).detach().float().square().sum().item() for name in site.linears)
        weight /= site.channels
    else:
        assert config.policy in ("quantization-error", "random"), config.policy
        weight = 1.0
    return weight * math.ldexp(1.0, 2 * (calibration.exponents[site.name] - STORED_FRACTION_BITS))


def _selectable(x: Tensor) -> Tensor:
    """`x` in a dtype that the selector reads; float16 becomes float32."""
    return x if x.dtype in (torch.float32, torch.bfloat16) else x.float()
