"""Quantize a model: measure it once, then make any number of quantized variants of it, or turn it into one."""

import functools
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ..packing import Packed
from . import distributed
from .calibrate import Calibration, Checkpoint, calibrate
from .config import FGMPConfig
from .layers import FGMPLinear, Variant, install, quantizers
from .places import places, put
from .sites import find_sites
from .targets import NO_LINEAR, left_alone, prepare, restore, target_linears
from .thresholds import ActivationScores, SitePlan, activation_scores, plan_sites
from .weights import ScoredWeights, pack_weights, score_weights

__all__ = ["Study", "causal_loss", "checkpointed", "dequantize", "mark_quantized", "quantize"]

_TRIED = 64
"""Tokens that a saved model is tried on."""


def causal_loss(model: Any) -> Callable[[Tensor], Tensor]:
    """The loss of a causal language model on one sample (T,) of token ids: mean cross-entropy of the next token."""

    def loss(sample: Tensor) -> Tensor:
        ids = sample.to(model.device)
        logits = model(input_ids=ids[None]).logits[0, :-1].float()
        return nn.functional.cross_entropy(logits, ids[1:])

    return loss


class Study:
    """A model in its own precision and what calibration measured on it, from which quantized variants are made.

    The model is prepared in place (docs/quantize.md): `Conv1D` and fused experts become linears. It should be in
    evaluation mode: dropout would be measured too.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Sequence[Any],
        *,
        loss: Callable[[Any], Tensor] | None = None,
        ignore: Sequence[str] | None = None,
        folder: Path | None = None,
        checkpoint: Checkpoint | None = None,
        progress: bool = True,
    ):
        """Find linears and sites; nothing is measured until a variant needs it.

        `samples` are what `loss` takes, token ids (T,) for the default of causal language models. `folder` is where
        scores are kept meanwhile (default: a temporary one).
        """
        if not len(samples):
            raise InputError("calibration: 0 samples, expected at least 1")
        ignore = FGMPConfig().ignore if ignore is None else ignore
        prepare(model, ignore)
        self.model = model
        self.samples = samples
        self.loss = loss or causal_loss(model)
        self.left_alone: dict[str, str] = {}
        linears = target_linears(model, ignore, self.left_alone)
        runs = (functools.partial(self.loss, sample) for sample in samples)
        self.sites = find_sites(model, linears, runs, self.left_alone)
        named = {name for site in self.sites for name in site.linears}
        self.linears = {name: linear for name, linear in linears.items() if name in named}
        self.progress = progress
        self._checkpoint = checkpoint
        self._folder = folder or Path(tempfile.mkdtemp(prefix="fgmp-"))
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self._folder, True)
        self._calibrations: dict[str | None, Calibration] = {}
        self._scales: dict[str | None, dict[str, np.ndarray]] = {}
        self._scores: dict[tuple[bool, bool, int], ActivationScores] = {}
        self._warned = False

    def calibration(self, config: FGMPConfig) -> Calibration:
        """What calibration measures for `config`, measured when first asked for."""
        kind = config.sensitivity if config.needs_gradients else None
        if kind not in self._calibrations:
            self._calibrations[kind] = calibrate(
                self.model,
                self.linears,
                self.sites,
                self.samples,
                self.loss,
                sensitivity=kind,
                checkpoint=self._checkpoint,
                progress=self.progress,
            )
            unreached = self._calibrations[kind].unreached
            if unreached and not self._warned:
                self._warned = True
                warnings.warn(
                    f"{len(unreached)} of {len(self.linears)} linears had no gradient on the calibration text, first "
                    f"{unreached[0]}: their sensitivities are the means of their kind",
                    UserWarning,
                    stacklevel=3,
                )
        return self._calibrations[kind]

    def plans(self, config: FGMPConfig) -> dict[str, SitePlan] | None:
        """What each site does under `config`; None where activations stay as they are."""
        if config.activations == "none":
            return None
        return plan_sites(self.linears, self.calibration(config), self.scores(config), config)

    def scores(self, config: FGMPConfig) -> ActivationScores | None:
        """Scores of the activation blocks under the recipe of `config`, or None where none are needed."""
        if config.fp4_activations in (0, 1):
            return None
        recipe = (config.four_over_six, config.channel_codes, config.threshold_samples)
        if recipe not in self._scores:
            self._scores[recipe] = activation_scores(
                self.linears,
                self.calibration(config),
                [self.samples[i] for i in range(min(len(self.samples), config.threshold_samples))],
                self.loss,
                self._fresh("scores"),
                config,
                progress=self.progress,
            )
        return self._scores[recipe]

    def score(self, config: FGMPConfig) -> ScoredWeights:
        """Scales and scores of all weights."""
        clip = config.sensitivity if config.clip and config.fp4_weights > 0 else None
        scored = score_weights(
            self.linears,
            self.calibration(config),
            config,
            self._fresh("weights"),
            known=self._scales.get(clip),
            progress=self.progress,
        )
        self._scales[clip] = scored.scales  # variants that clip alike share them
        return scored

    def pack(self, config: FGMPConfig) -> Any:
        """Pairs of name and packed weight, one at a time."""
        return pack_weights(self.linears, self.score(config), config, progress=self.progress)

    def variant(self, config: FGMPConfig, name: str, *, exact: bool = True) -> Variant:
        """The model as `config` quantizes it, beside the model itself."""
        plans = self.plans(config)
        weights: dict[str, Packed] = dict(self.pack(config))
        return Variant(name, weights, None if plans is None else quantizers(self.sites, plans), exact)

    def _fresh(self, name: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._folder))


def quantize(
    model: nn.Module,
    config: FGMPConfig,
    calibration: Sequence[Any],
    *,
    loss: Callable[[Any], Tensor] | None = None,
    exact: bool = False,
    folder: Path | None = None,
    checkpoint: Checkpoint | None = None,
    progress: bool = True,
) -> nn.Module:
    """Quantize `model` in place (arXiv 2504.14152 section 3) and return it.

    Args:
        model: a transformers model, or any module with `nn.Linear`, in float32, bfloat16 or float16.
        config: what to do.
        calibration: samples that `loss` takes; for a causal language model int64 token ids (S, T).
        loss: one sample to a scalar; default: `causal_loss(model)`.
        exact: whether the layers compute exactly as the hardware does, or fast in the model's dtype.
        folder: where scores are kept meanwhile, about half a byte a weight (default: a temporary folder).
        checkpoint: where calibration keeps its sums, to continue from.
        progress: whether to show progress bars.

    Raises InputError for NaN, linears that the samples do not reach, and models without linears.
    """
    study = Study(
        model,
        calibration[: config.samples],
        loss=loss,
        ignore=config.ignore,
        folder=folder,
        checkpoint=checkpoint,
        progress=progress,
    )
    study.calibration(config)  # all processes together
    plans = study.plans(config)
    distributed.wait()
    sites = {} if plans is None else quantizers(study.sites, plans)
    site_of = {name: site.name for site in study.sites for name in site.linears}
    if not distributed.is_main():
        return model
    packed = study.pack(config)
    held = places(model)
    for name, weight in packed:
        install(model, name, weight, sites.get(site_of[name]), exact=exact, held=held)
        study.linears[name].weight = nn.Parameter(torch.empty(0), requires_grad=False)  # gives the memory back
    model.fgmp_config = config
    model.fgmp_left_alone = dict(study.left_alone)
    if loss is None:
        model.fgmp_sample = torch.as_tensor(calibration[0]).cpu()[:_TRIED]  # what a saved copy is tried on
    mark_quantized(model)
    groups, total = left_alone(model, study.left_alone)
    for group in groups:
        if group.reason == NO_LINEAR and group.weights > total / 10:
            warnings.warn(f"left as they are, {group} of {total:,}", UserWarning, stacklevel=2)
    return model


def mark_quantized(model: Any) -> None:
    """Keep transformers from doing to packed weights what it does to others: tying them, or saving them by itself."""
    ties = getattr(model, "all_tied_weights_keys", None)
    if ties:
        packed = {
            f"{name}.weight" for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, FGMPLinear)
        }
        model.all_tied_weights_keys = {a: b for a, b in ties.items() if a not in packed and b not in packed}
    if hasattr(model, "save_pretrained") and getattr(model, "hf_quantizer", None) is None:
        from .hf import FGMPHfQuantizer, FGMPQuantizationConfig

        model.hf_quantizer = FGMPHfQuantizer(FGMPQuantizationConfig())


def dequantize(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Turn a quantized model back, in place, into the plain one with the values that its packed weights stand for.

    `dtype` defaults to the model's own.
    """
    if dtype is None:
        dtype = getattr(model, "dtype", torch.float32)
    held = places(model)
    for module in list(model.modules()):
        if isinstance(module, FGMPLinear):
            put(held, module, module.to_linear(dtype))
    restore(model)
    for attribute in ("fgmp_config", "fgmp_left_alone", "fgmp_sample", "hf_quantizer", "quantization_method"):
        if attribute in model.__dict__:
            delattr(model, attribute)
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None:
        del model.config.quantization_config
    if hasattr(model, "is_quantized"):
        model.is_quantized = False
    return model


def checkpointed(model: Any) -> None:
    """Trade time for memory: recompute activations in the backward pass, without switching dropout on."""
    # transformers 5 renamed it on the way.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for module in model.modules():
        names = {kind.__name__ for kind in type(module).__mro__}
        if getattr(module, "gradient_checkpointing", False) or "GradientCheckpointingLayer" in names:
            module.training = True  # of this module alone: only then it checkpoints
            module.forward = _without_dropout(module.forward)


def _without_dropout(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward`, in which the functions that some layers call directly do not drop anything."""

    @functools.wraps(forward)
    def calm(*args: Any, **kwargs: Any) -> Any:
        dropout = nn.functional.dropout
        nn.functional.dropout = lambda x, *_, **__: x
        try:
            return forward(*args, **kwargs)
        finally:
            nn.functional.dropout = dropout

    return calm
