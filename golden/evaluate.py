"""Perplexity and KL divergence of quantized variants against the float32 model, with standard errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .models import LanguageModel, Site
from .quantized import Variant, apply

__all__ = ["Estimate", "Losses", "evaluate", "jackknife", "mean_estimate"]


@dataclass(frozen=True)
class Losses:
    """Per window: mean negative log-likelihood and mean KL divergence from float32, nats per token, float64."""

    nll: np.ndarray
    kl: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float


def evaluate(
    language_model: LanguageModel,
    sites: list[Site],
    variants: Sequence[Variant],
    windows: Tensor,
    *,
    batch: int = 4,
    progress: bool = True,
) -> dict[str, Losses]:
    """Losses of "float32" and of every variant on `windows` (W, 512), by name."""
    model = language_model.model
    nll: dict[str, list[Tensor]] = {"float32": [], **{v.name: [] for v in variants}}
    kl: dict[str, list[Tensor]] = {name: [] for name in nll}
    steps = tqdm(total=len(windows) * len(nll), desc="evaluate", unit="window", disable=not progress, leave=False)
    with torch.no_grad(), steps:
        for part in windows.split(batch):
            reference = torch.log_softmax(model(input_ids=part).logits[:, :-1], -1)
            probability = reference.exp()
            targets = part[:, 1:, None]
            for name, variant in (("float32", None), *((v.name, v) for v in variants)):
                if variant is None:
                    logs = reference
                else:
                    with apply(model, sites, variant):
                        logs = torch.log_softmax(model(input_ids=part).logits[:, :-1], -1)
                nll[name].append(-logs.gather(-1, targets)[..., 0].double().mean(-1))
                kl[name].append((probability * (reference - logs)).sum(-1).double().mean(-1))
                steps.update(len(part))
    return {name: Losses(torch.cat(nll[name]).numpy(), torch.cat(kl[name]).numpy()) for name in nll}


def mean_estimate(values: np.ndarray) -> Estimate:
    """Mean of independent window values and its standard error."""
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def jackknife(statistic: Callable[..., float], *samples: np.ndarray) -> Estimate:
    """`statistic` of the means of paired per-window samples, with its delete-one jackknife standard error."""
    count = len(samples[0])
    totals = [s.sum() for s in samples]
    left_out = np.array(
        [statistic(*((t - s[i]) / (count - 1) for t, s in zip(totals, samples, strict=True))) for i in range(count)]
    )
    value = statistic(*(t / count for t in totals))
    return Estimate(float(value), float(np.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum())))
