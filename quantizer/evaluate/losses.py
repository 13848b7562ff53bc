"""Perplexity and KL divergence of quantized variants against the model in its own precision, with standard errors.

Perplexity is what the field computes: the text is tokenized whole, windows of a fixed length move over it by a fixed
stride, a token counts once, in the first window that reaches it, and the first token of a text is never predicted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ...errors import InputError
from ..model.variant import Variant, apply
from ..prepare.sites import Site

__all__ = ["Estimate", "Losses", "Window", "evaluate", "jackknife", "text_windows", "whole_windows"]


@dataclass(frozen=True)
class Window:
    """Token ids (T,) of one window; those from index `first` on are scored, each given all before it."""

    ids: Tensor
    first: int = 1


def text_windows(tokens: Tensor, window: int, stride: int) -> list[Window]:
    """Windows of `window` tokens every `stride` tokens; the last may be shorter. With `stride` = `window` they do not
    overlap, and the first token of each is not scored.

    Raises InputError for a text of fewer than two tokens or a stride that would leave tokens out.
    """
    if window < 2:
        raise InputError(f"window: {window}, expected at least 2 tokens")
    if not 1 <= stride <= window:
        raise InputError(f"stride: {stride}, expected 1 to the window's {window}")
    if len(tokens) < 2:
        raise InputError(f"text: {len(tokens)} tokens, expected at least 2")
    result = []
    scored = 0
    for begin in range(0, len(tokens), stride):
        ids = tokens[begin : begin + window]
        first = max(scored - begin, 1)
        if first < len(ids):
            result.append(Window(ids, first))
        scored = begin + len(ids)
        if scored == len(tokens):
            break
    return result


def whole_windows(ids: Tensor) -> list[Window]:
    """Windows (W, T) of which every token but the first is scored."""
    return [Window(row) for row in ids]


@dataclass(frozen=True)
class Losses:
    """Per window, float64: negative log-likelihood and KL divergence from the reference, summed over the scored tokens,
    in nats, and how many tokens were scored.
    """

    nll: np.ndarray
    kl: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float


def evaluate(
    model: Any,
    sites: Sequence[Site],
    variants: Sequence[Variant],
    windows: Sequence[Window],
    *,
    reference: str = "float32",
    batch: int = 4,
    progress: bool = True,
) -> dict[str, Losses]:
    """Losses of `model` as it is (named `reference`) and of every variant of it, by name."""
    names = [reference, *(v.name for v in variants)]
    sums: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    steps = tqdm(total=len(windows) * len(names), desc="evaluate", unit="window", disable=not progress, leave=False)
    with torch.no_grad(), steps:
        for part in _batches(windows, batch):
            ids = torch.stack([w.ids for w in part]).to(model.device)
            first = torch.tensor([w.first for w in part], device=ids.device)
            scored = torch.arange(1, ids.shape[1], device=ids.device) >= first[:, None]
            own = _log_probabilities(model, ids)
            for name, variant in zip(names, (None, *variants), strict=True):
                logs = own
                if variant is not None and variant.model is not None:
                    logs = _log_probabilities(variant.model, ids)
                elif variant is not None:
                    with apply(model, sites, variant):
                        logs = _log_probabilities(model, ids)
                nll = -logs.gather(-1, ids[:, 1:, None])[..., 0]
                # The reference against itself is 0 exactly.
                kl = torch.zeros_like(nll) if logs is own else (own.exp() * (own - logs)).sum(-1)
                sums[name].append(tuple((x.double() * scored).sum(-1).cpu() for x in (nll, kl)))
                steps.update(len(part))
    tokens = np.array([len(w.ids) - w.first for w in windows], dtype=np.float64)
    return {
        name: Losses(torch.cat([n for n, _ in pairs]).numpy(), torch.cat([k for _, k in pairs]).numpy(), tokens)
        for name, pairs in sums.items()
    }


def jackknife(statistic: Callable[..., float], *samples: np.ndarray) -> Estimate:
    """`statistic` of the means of paired per-window samples, with its delete-one jackknife standard error.

    One window alone has no standard error: it is NaN.
    """
    count = len(samples[0])
    totals = [s.sum() for s in samples]
    value = statistic(*(t / count for t in totals))
    if count == 1:
        return Estimate(float(value), float("nan"))
    left_out = np.array(
        [statistic(*((t - s[i]) / (count - 1) for t, s in zip(totals, samples, strict=True))) for i in range(count)]
    )
    return Estimate(float(value), float(np.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum())))


def _log_probabilities(model: nn.Module, ids: Tensor) -> Tensor:
    return torch.log_softmax(model(input_ids=ids).logits[:, :-1].float(), -1)


def _batches(windows: Sequence[Window], size: int) -> list[Sequence[Window]]:
    """Runs of at most `size` windows of equal length, in order."""
    batches: list[list[Window]] = []
    for window in windows:
        if batches and len(batches[-1]) < size and len(batches[-1][0].ids) == len(window.ids):
            batches[-1].append(window)
        else:
            batches.append([window])
    return list(batches)
