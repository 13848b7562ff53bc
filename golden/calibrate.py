"""What calibration learns from a few samples of text: sensitivities, tensor exponents, activation thresholds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import InputError
from .blocks import check_no_nan, tensor_exponent
from .formats import STORED_FRACTION_BITS, TENSOR_EXPONENT_LIMIT
from .models import LanguageModel, Site, find_sites, target_linears
from .policy import check_fraction
from .selector import SiteRegisters, Threshold, select

__all__ = ["WINDOW", "ActivationScores", "Calibration", "activation_scores", "calibrate", "site_registers", "windows"]

WINDOW = 512
"""Tokens in a sample, as in the paper."""


@dataclass(frozen=True)
class Calibration:
    """Sensitivities and exponents of one model.

    Attributes:
        sites: the activation tensors.
        weights: mean squared gradient per weight, float32, by linear.
        channels: mean squared gradient per input channel, float32, by site.
        exponents: tensor exponent of the activations by site, one octave of headroom included.
    """

    sites: list[Site]
    weights: dict[str, Tensor]
    channels: dict[str, Tensor]
    exponents: dict[str, int]


def windows(language_model: LanguageModel, text: str, count: int, name: str) -> Tensor:
    """`count` unpadded windows (count, 512) of token ids from places spread evenly over `text`.

    Raises InputError, naming the text by `name`, if it is too short.
    """
    positions = getattr(language_model.model.config, "max_position_embeddings", WINDOW)
    if positions < WINDOW:
        raise InputError(f"model {language_model.path}: {positions} positions, expected at least {WINDOW}, one window")
    vocabulary = getattr(language_model.model.config, "vocab_size", len(language_model.tokenizer))
    if len(language_model.tokenizer) > vocabulary:
        raise InputError(
            f"model {language_model.path}: {vocabulary} token embeddings, expected the tokenizer's "
            f"{len(language_model.tokenizer)}"
        )
    if count < 1:
        raise InputError(f"{name}: {count} windows asked for, expected at least 1")
    stride = len(text) // count
    rows = []
    for i in range(count):
        # No tokenizer in use averages more than 16 characters a token; the excerpt must not reach into the next.
        ids = language_model.tokens(text[i * stride : i * stride + min(stride, 16 * WINDOW)])[:WINDOW]
        if len(ids) < WINDOW:
            raise InputError(
                f"{name}: {len(text)} characters do not hold {count} windows of {WINDOW} tokens, expected more text"
            )
        rows.append(ids)
    return torch.stack(rows)


def calibrate(language_model: LanguageModel, samples: Tensor, *, progress: bool = True) -> Calibration:
    """Measure Fisher information and activation ranges on `samples` (S, 512).

    One backward pass a sample; a parameter's or a site's gradient is squared, added and dropped as soon as it is
    complete. Raises InputError if a weight or an activation is NaN.
    """
    model = language_model.model
    linears = target_linears(model)
    for name, linear in linears.items():
        check_no_nan(linear.weight.detach(), f"{name}.weight")
    sites = find_sites(model, linears, samples[0])
    weights = {name: torch.zeros_like(linear.weight) for name, linear in linears.items()}
    channels = {site.name: torch.zeros(site.channels) for site in sites}
    amax = {site.name: torch.tensor(0.0) for site in sites}

    def watch_site(site: Site) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            check_no_nan(x.detach(), f"input of {site.name}")
            finite = x.detach().abs()
            amax[site.name] = torch.maximum(amax[site.name], finite.masked_fill(finite.isinf(), 0).amax())

            def add(gradient: Tensor) -> None:
                channels[site.name].add_(gradient.square().flatten(0, -2).sum(0))

            x.register_hook(add)  # on the tensor: sees the gradient summed over all linears that read it

        return hook

    def watch_weight(name: str) -> Any:
        def hook(parameter: Tensor) -> None:
            if parameter.grad is not None:
                weights[name].addcmul_(parameter.grad, parameter.grad)
                parameter.grad = None

        return hook

    handles = [linears[site.name].register_forward_pre_hook(watch_site(site)) for site in sites]
    trained = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    for name, linear in linears.items():
        linear.weight.requires_grad_(True)
        handles.append(linear.weight.register_post_accumulate_grad_hook(watch_weight(name)))
    try:
        # Without a gradient at the embeddings, the first site would see none.
        handles.append(model.get_input_embeddings().register_forward_hook(lambda *a: a[2].requires_grad_(True)))
        for sample in tqdm(samples, desc="calibrate", unit="sample", disable=not progress, leave=False):
            logits = model(input_ids=sample[None]).logits[0, :-1]
            nn.functional.cross_entropy(logits, sample[1:]).backward()
    finally:
        for handle in handles:
            handle.remove()
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
    count = len(samples)
    return Calibration(
        sites,
        {name: total / count for name, total in weights.items()},
        {name: total / (count * samples.shape[1]) for name, total in channels.items()},
        {name: min(tensor_exponent(value) + 1, TENSOR_EXPONENT_LIMIT) for name, value in amax.items()},
    )


@dataclass(frozen=True)
class ActivationScores:
    """The selector's scores of all activation blocks of the samples, by site: float64 integers, one-dimensional."""

    scores: dict[str, Tensor]


def activation_scores(
    language_model: LanguageModel, calibration: Calibration, samples: Iterable[Tensor], *, progress: bool = True
) -> ActivationScores:
    """Collect scores with the very recipe that will decide, from the float32 model's activations."""
    linears = target_linears(language_model.model)
    collected: dict[str, list[Tensor]] = {site.name: [] for site in calibration.sites}

    def watch(site: Site) -> Any:
        registers = SiteRegisters(calibration.exponents[site.name], Threshold(0, 0))

        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            collected[site.name].append(select(inputs[0].reshape(-1, site.channels), registers).score.flatten())

        return hook

    handles = [linears[site.name].register_forward_pre_hook(watch(site)) for site in calibration.sites]
    try:
        with torch.no_grad():
            for sample in tqdm(samples, desc="thresholds", unit="sample", disable=not progress, leave=False):
                language_model.model(input_ids=sample[None])
    finally:
        for handle in handles:
            handle.remove()
    return ActivationScores({name: torch.cat(parts) for name, parts in collected.items()})


def site_registers(
    calibration: Calibration, scores: ActivationScores, fp4_fraction: float, policy: str
) -> dict[str, SiteRegisters]:
    """Each site's registers under one global threshold for all activation blocks (counted once per site).

    `policy` "fisher" weighs a site's scores by its mean sensitivity, "quantization-error" by 1.
    """
    check_fraction(fp4_fraction)
    unit = {}
    for site in calibration.sites:
        weight = {"fisher": calibration.channels[site.name].mean().item(), "quantization-error": 1.0}[policy]
        unit[site.name] = weight * math.ldexp(1.0, 2 * (calibration.exponents[site.name] - STORED_FRACTION_BITS))
    theta = _percentile([scores.scores[name] * scale for name, scale in unit.items()], fp4_fraction)
    result = {}
    for name, scale in unit.items():
        # All FP4 means all: rounding to the register must not leave the largest score above it.
        threshold = Threshold.nearest(theta / scale if scale and fp4_fraction < 1 else math.inf)
        result[name] = SiteRegisters(calibration.exponents[name], threshold)
    return result


def _percentile(scores: Sequence[Tensor], fraction: float) -> float:
    flat = torch.cat(list(scores))
    count = math.floor(fraction * len(flat) + 0.5)
    # With nothing in FP4 the hardware still leaves blocks of score 0 in FP4: both formats store them exactly alike.
    return flat.kthvalue(count).values.item() if count else 0.0
