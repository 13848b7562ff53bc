"""Quantize a model: measure it once, then make any number of quantized variants of it, or turn it into one."""

import functools
import inspect
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..golden.packing import Packed
from ..golden.selector import SiteSettings
from .calibrate import distributed
from .calibrate.calibration import Calibration
from .calibrate.delicacy import delicacy
from .calibrate.measure import calibrate
from .calibrate.resume import Checkpoint
from .choose.activations import ActivationScores, activation_scores, choose_site_settings
from .choose.energy import choose_by_energy, planned_settings
from .choose.joint import Plan
from .choose.weights import ScoredWeights, pack_weights, score_weights
from .config import FGMPConfig
from .model.layers import install
from .model.site import quantizers
from .model.variant import Variant
from .prepare.channels import Channels, changed_by, find_groups
from .prepare.linears import NO_LINEAR, left_alone, prepare, target_linears
from .prepare.pages import Pages, in_memory, page_of
from .prepare.registrations import registrations
from .prepare.sites import find_sites

__all__ = ["Study", "causal_loss", "quantize"]

_SAMPLES_FOR_ORDER, _SAMPLES_FOR_CHECK = 16, 4
_TRIED = 64
"""Tokens that a saved model is tried on."""


def causal_loss(model: Any) -> Callable[[Tensor], Tensor]:
    """The loss of a causal language model on one sample (T,) of token ids: mean cross-entropy of the next token."""

    # Whatever a model remembers of a sample is memory for nothing.
    options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}

    def loss(sample: Tensor) -> Tensor:
        ids = sample.to(model.device)
        logits = model(input_ids=ids[None], **options).logits[0, :-1].float()
        return nn.functional.cross_entropy(logits, ids[1:])

    return loss


@dataclass
class _Measured:
    """What is known of the model with its channels in one order."""

    calibrations: dict[str | None, Calibration] = field(default_factory=dict)
    scales: dict[str | None, Mapping[str, np.ndarray]] = field(default_factory=dict)
    scores: dict[tuple[bool, bool, int], ActivationScores] = field(default_factory=dict)
    planned: tuple[FGMPConfig, ScoredWeights, Plan] | None = None


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
        pages: Pages | None = None,
        progress: bool = True,
    ):
        """Find linears and sites; nothing is measured until a variant needs it.

        `samples` are what `loss` takes, token ids (T,) for the default of causal language models. `folder` is where
        scores are kept meanwhile (default: a temporary one). `pages` are those of `model`, if it is not in memory as a
        whole.
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
        shared = [name for name, linear in self.linears.items() if page_of(linear.weight) is None]
        if pages is not None and shared:  # gradients would come in parts
            raise InputError(
                f"linear {shared[0]}: its weight belongs to several blocks, expected blocks with weights of their own "
                "(leave out layer by layer)"
            )
        self.progress = progress
        self._pages = pages
        self._checkpoint = checkpoint
        self._folder = folder or Path(tempfile.mkdtemp(prefix="fgmp-"))
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self._folder, True)
        self._measured = {permuted: _Measured() for permuted in (False, True)}
        self.channels = Channels()
        self.unordered: dict[str, str] = {}
        """Sites whose channels keep their order, and why; filled by the first permutation."""
        self._warned = False

    def arrange(self, permuted: bool) -> "_Measured":
        """Put the model's channels in order, or back as they came; what is known of it in that order."""
        if permuted and not self.channels.known:
            self._order()
        self.channels.set(permuted)
        return self._measured[permuted]

    def _order(self) -> None:
        """Find the order of the channels, by a small calibration; none where it would change the model's answers."""
        runs = [functools.partial(self.loss, self.samples[i]) for i in _spread(len(self.samples), _SAMPLES_FOR_CHECK)]
        few_tokens = functools.partial(self.loss, _beginning(self.samples[0]))
        groups, self.unordered = find_groups(self.model, self.sites, self.linears, few_tokens)
        if not groups:
            self.channels.order([], {})
            return
        few = self.samples[:_SAMPLES_FOR_ORDER]
        calibration = self._calibrated("factored", factors=False, samples=few)
        self.channels.order(groups, delicacy(self.linears, calibration))
        apart = changed_by(self.model, self.channels, runs)
        if apart is not None:
            self.unordered = {s.name: f"the model's answers would change by {apart:.1e}" for s in self.sites}
            self.channels.order([], {})

    def calibration(self, config: FGMPConfig) -> Calibration:
        """The calibration for `config`, made when first asked for."""
        calibrations = self.arrange(config.permutation).calibrations
        kind = config.sensitivity if config.needs_gradients else None
        factors = config.rounding == "gptq"
        known = calibrations.get(kind)
        if known is not None and factors and not known.factors:
            found = self._calibrated(None, factors=True)  # which no gradient is needed for
            calibrations[kind] = replace(known, factors=found.factors)
        elif known is None:
            calibrations[kind] = self._calibrated(kind, factors=factors, checkpoint=self._checkpoint)
            unreached = calibrations[kind].unreached
            if unreached and not self._warned:
                self._warned = True
                warnings.warn(
                    f"{len(unreached)} of {len(self.linears)} linears had no gradient on the calibration text, first "
                    f"{unreached[0]}: their sensitivities are the means of their kind",
                    UserWarning,
                    stacklevel=3,
                )
        return calibrations[kind]

    def _calibrated(
        self,
        sensitivity: str | None,
        *,
        factors: bool,
        checkpoint: Checkpoint | None = None,
        samples: Sequence[Any] | None = None,
    ) -> Calibration:
        folder = None
        if self._pages is not None:
            folder = self._fresh("sums") if checkpoint is None else checkpoint.path.with_suffix("")
        return calibrate(
            self.model,
            self.linears,
            self.sites,
            self.samples if samples is None else samples,
            self.loss,
            sensitivity=sensitivity,
            factors=factors,
            checkpoint=checkpoint,
            pages=self._pages,
            folder=folder,
            progress=self.progress,
        )

    def site_settings(self, config: FGMPConfig) -> dict[str, SiteSettings] | None:
        """How each site is quantized under `config`; None where activations stay as they are."""
        if config.activations == "none":
            return None
        if config.joint:
            return planned_settings(self.plan(config), self.calibration(config), config)
        return choose_site_settings(self.linears, self.calibration(config), self.scores(config), config)

    def plan(self, config: FGMPConfig) -> Plan:
        """The choice by energy under `config`."""
        known = self.arrange(config.permutation)
        if known.planned is None or known.planned[0] != config:
            scores = self.scores(config)
            assert scores is not None
            scored = self.score(config)
            plan = choose_by_energy(self.linears, self.calibration(config), scored, scores, config)
            known.planned = (config, scored, plan)
        return known.planned[2]

    def scores(self, config: FGMPConfig) -> ActivationScores | None:
        """Scores of the activation blocks under the recipe of `config`, or None where none are needed."""
        if not config.joint and config.fp4_activations in (0, 1):
            return None
        known = self.arrange(config.permutation).scores
        recipe = (config.four_over_six, config.channel_codes, config.threshold_samples)
        if recipe not in known:
            known[recipe] = activation_scores(
                self.linears,
                self.calibration(config),
                [self.samples[i] for i in range(min(len(self.samples), config.threshold_samples))],
                self.loss,
                self._fresh("scores"),
                config,
                pages=self._pages,
                progress=self.progress,
            )
        return known[recipe]

    def score(self, config: FGMPConfig) -> ScoredWeights:
        """Scales and scores of all weights."""
        known = self.arrange(config.permutation)
        if known.planned is not None and known.planned[0] == config:
            return known.planned[1]
        clip = config.sensitivity if config.clips else None
        scored = score_weights(
            self.linears,
            self.calibration(config),
            config,
            self._fresh("weights"),
            known=known.scales.get(clip),
            progress=self.progress,
        )
        known.scales[clip] = scored.scales  # variants that clip alike share them
        return scored

    def pack(self, config: FGMPConfig) -> Any:
        """Pairs of name and packed weight, one at a time."""
        thresholds = self.plan(config).weights if config.joint else None
        return pack_weights(
            self.linears,
            self.score(config),
            config,
            self.calibration(config),
            thresholds=thresholds,
            progress=self.progress,
        )

    def variant(self, config: FGMPConfig, name: str, *, exact: bool = True) -> Variant:
        """The model as `config` quantizes it, beside the model itself."""
        settings = self.site_settings(config)
        weights: dict[str, Packed] = dict(self.pack(config))
        own = None if settings is None else quantizers(self.sites, settings)
        expected = self.plan(config).expected if config.joint else None
        return Variant(
            name, weights, own, exact, channels=self.channels, permuted=config.permutation, expected=expected
        )

    def _fresh(self, name: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._folder))


def _beginning(sample: Any) -> Any:
    """Enough of a sample of tokens to see what a model does with any."""
    return sample[:_TRIED] if isinstance(sample, Tensor) and sample.dim() == 1 else sample


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of `count` places, the first and the last among them."""
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})


def quantize(
    model: nn.Module,
    config: FGMPConfig,
    calibration: Sequence[Any],
    *,
    loss: Callable[[Any], Tensor] | None = None,
    exact: bool = False,
    folder: Path | None = None,
    checkpoint: Checkpoint | None = None,
    pages: Pages | None = None,
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
        pages: those of `model`, if its blocks are in files (`Pages`); they are gone afterwards.
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
        pages=pages,
        progress=progress,
    )
    study.calibration(config)  # all processes together
    settings = study.site_settings(config)
    distributed.wait()
    sites = {} if settings is None else quantizers(study.sites, settings)
    site_of = {name: site.name for site in study.sites for name in site.linears}
    if not distributed.is_main():
        return model
    packed = study.pack(config)
    held = registrations(model)
    for name, weight in packed:
        in_memory(study.linears[name].weight)  # with its bias, which the layer takes
        install(model, name, weight, sites.get(site_of[name]), exact=exact, held=held)
        study.linears[name].weight = nn.Parameter(torch.empty(0), requires_grad=False)  # gives the memory back
    if pages is not None:
        pages.close()
    model.fgmp_config = config
    model.fgmp_expected = asdict(study.plan(config).expected) if config.joint else None
    model.fgmp_left_alone = dict(study.left_alone)
    model.fgmp_unordered = dict(study.unordered)
    if loss is None:
        model.fgmp_sample = torch.as_tensor(calibration[0]).cpu()[:_TRIED]  # what a saved copy is tried on
    if hasattr(model, "save_pretrained"):
        from .model.transformers_plugin import mark_quantized

        mark_quantized(model)
    groups, total = left_alone(model, study.left_alone)
    for group in groups:
        if group.reason == NO_LINEAR and group.weights > total / 10:
            warnings.warn(f"left as they are, {group} of {total:,}", UserWarning, stacklevel=2)
    return model
