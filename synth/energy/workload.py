"""Whose energy is measured: a language model with perplexity on a text, or an embedding model with the distance of its
embeddings; both calibrated on another part of the text."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...errors import InputError
from ...quantizer.config import FGMPConfig
from ...quantizer.evaluate.embeddings import (
    distances,
    embeddings,
    is_embedding_model,
    load_embedding_model,
    projected_loss,
    projections,
)
from ...quantizer.evaluate.losses import Estimate, evaluate, jackknife, whole_windows
from ...quantizer.model.default_text import read_corpus
from ...quantizer.model.language_model import SHIPPED_MODEL, is_quantized, load_model, windows
from ...quantizer.model.text import read_text
from ...quantizer.model.variant import Variant, apply
from ...quantizer.study import Study

__all__ = ["DEMO", "Texts", "Workload", "open_workload"]

DEMO = "demo"
_EXCERPT = 128


@dataclass(frozen=True)
class Texts:
    """The texts of calibration and evaluation: files or data sets, and how many windows of each.

    Without `text` the demo's is taken; without `calibration` the first half of `text` calibrates, the second evaluates.
    """

    text: str | None = None
    calibration: str | None = None
    samples: int = 64
    windows: int = 48

    def check(self, captured: int) -> None:
        """Raise InputError for numbers that cannot be; `captured` of the evaluated windows feed the hardware."""
        for what, value, least in (
            ("samples", self.samples, 1),
            ("windows", self.windows, 2),
            ("captured", captured, 1),
        ):
            if value < least:
                raise InputError(f"{what}: {value}, expected at least {least}")
        if captured > self.windows:
            raise InputError(f"captured: {captured}, expected at most the {self.windows} windows that are evaluated")

    def read(self, demo: bool) -> tuple[str, str, str]:
        """Calibration text, evaluation text, and what they are. Raises InputError where there is none."""
        if self.text is None and self.calibration is not None:
            raise InputError("--calibration: given without --text, expected both, or --text alone")
        if self.text is None:
            if not demo:
                raise InputError("--text: not given, expected a text to calibrate and evaluate on")
            corpus = read_corpus()
            return corpus.train, corpus.held_out, f"this Python's sources and documentation, SHA-256 {corpus.digest}"
        text = read_text(self.text, "text")
        if self.calibration is not None:
            return read_text(self.calibration, "calibration"), text, f"{self.text}, calibrated on {self.calibration}"
        half = len(text) // 2
        return text[:half], text[half:], f"{self.text}: first half calibrates, second half evaluates"


@dataclass(frozen=True)
class Workload:
    """A model, ready to be quantized in several ways.

    Attributes:
        name: the folder, hub id or "demo".
        study: calibrated on the text's first part.
        samples: token ids (T,) whose activations feed the hardware.
        measure: what `quality` returns, in words.
        quality: of a variant: per-window samples for jackknife estimates: negative log-likelihood, tokens and KL
            divergence of a language model, distances of an embedding model.
        source: which text.
    """

    name: str
    study: Study
    samples: list[Tensor]
    measure: str
    quality: Callable[[Variant], tuple[np.ndarray, ...]]
    source: str

    def estimate(self, own: tuple[np.ndarray, ...]) -> Estimate:
        """The quality itself: perplexity, or mean distance."""
        if len(own) > 1:
            return jackknife(lambda nll, tokens: float(np.exp(nll / tokens)), *own[:2])
        return jackknife(float, *own)

    def kl(self, own: tuple[np.ndarray, ...]) -> Estimate | None:
        """KL divergence from the model's own precision, nats per token; None for other models."""
        return jackknife(lambda kl, tokens: float(kl / tokens), own[2], own[1]) if len(own) > 1 else None

    def against(self, own: tuple[np.ndarray, ...], fp8: tuple[np.ndarray, ...]) -> Estimate | None:
        """Percent by which perplexity is above that of FP8, paired by window; None for other measures."""
        if len(own) == 1:
            return None
        return jackknife(lambda a, b, t: 100 * (np.exp((a - b) / t) - 1), own[0], fp8[0], own[1])


def open_workload(model: str, texts: Texts, captured: int, progress: bool) -> Workload:
    """Load and prepare `model`: "demo" for the one that travels with the package, a folder, or a hub id.

    `captured` windows feed the hardware (`texts.check` says whether they can). Raises InputError for models and texts
    that do not serve.
    """
    name: str | Path = SHIPPED_MODEL if model == DEMO else model
    if is_quantized(name):
        raise InputError(f"model folder {name}: is quantized already, expected a model in its own precision")
    calibration, evaluation, source = texts.read(model == DEMO)
    opened = _embedding if is_embedding_model(name) else _causal
    return opened(model, name, (calibration, evaluation), texts, captured, source, progress)


def _causal(
    label: str, name: str | Path, text: tuple[str, str], texts: Texts, captured: int, source: str, progress: bool
) -> Workload:
    language_model = load_model(name)
    window = min(FGMPConfig().window, getattr(language_model.model.config, "max_position_embeddings", 1 << 30))
    samples = windows(language_model, text[0], texts.samples, "calibration text", window=window)
    held_out = windows(language_model, text[1], texts.windows, "evaluation text", window=window)
    study = Study(language_model.model, samples, progress=progress)

    def quality(variant: Variant) -> tuple[np.ndarray, ...]:
        parts = whole_windows(held_out)
        losses = evaluate(study.model, study.sites, [variant], parts, progress=progress)[variant.name]
        return losses.nll, losses.tokens, losses.kl

    return Workload(label, study, list(held_out[:captured]), "perplexity", quality, source)


def _embedding(
    label: str, name: str | Path, text: tuple[str, str], texts: Texts, captured: int, source: str, progress: bool
) -> Workload:
    encoder = load_embedding_model(name)
    model: Any = encoder.model
    tokens = min(_EXCERPT, getattr(model.config, "max_position_embeddings", _EXCERPT))
    samples = encoder.excerpts(text[0], texts.samples, tokens, "calibration text")
    held_out = encoder.excerpts(text[1], texts.windows, tokens, "evaluation text")
    study = Study(model, projections(samples, model.config.hidden_size), loss=projected_loss(model), progress=progress)
    original = embeddings(model, held_out)

    def quality(variant: Variant) -> tuple[np.ndarray, ...]:
        with apply(model, study.sites, variant):
            return (distances(original, embeddings(model, held_out)),)

    return Workload(label, study, list(held_out[:captured]), "1 - cosine of embeddings", quality, source)
