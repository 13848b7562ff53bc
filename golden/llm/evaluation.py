"""What `fgmp evaluate` does: find out what it was given, make the formats, measure them on the text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import InputError
from .checkpoint import read_manifest
from .config import FGMPConfig
from .evaluate import Window, evaluate, text_windows
from .experiment import FP8, NVFP4, Comparison, compare, summarize, uniform
from .layers import FGMPLinear, SiteQuantizer, Variant, set_exact
from .models import LanguageModel, is_quantized, load_model, windows
from .quantize import Study
from .spec import ablation, parse_formats
from .targets import DEFAULT_IGNORE
from .text import read_text

__all__ = ["EvaluateJob", "Evaluation", "run_evaluation"]

_LONGEST_WINDOW = 2048


@dataclass(frozen=True)
class EvaluateJob:
    """What `fgmp evaluate` was asked to do."""

    model: str
    text: str
    original: str | None = None
    formats: Sequence[str] | None = None
    ablation: float | None = None
    calibration: str | None = None
    window: int | None = None
    stride: int | None = None
    max_tokens: int | None = None
    batch: int = 4
    exact: bool = False
    tasks: Sequence[str] | None = None
    samples: int = 128
    threshold_samples: int = 16
    calibration_window: int = 512
    ignore: tuple[str, ...] = DEFAULT_IGNORE
    seed: int = 0
    dtype: str = "float32"
    device: str = "cpu"


@dataclass(frozen=True)
class Evaluation:
    """The table, and what it was measured on."""

    comparison: Comparison
    window: int
    stride: int
    windows: int
    header: list[str]
    footer: list[str] = field(default_factory=list)
    tasks: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        facts = {"window": self.window, "stride": self.stride, "windows": self.windows}
        return {**facts, **self.comparison.as_json(), **({"tasks": self.tasks} if self.tasks else {})}


def run_evaluation(job: EvaluateJob, *, progress: bool) -> Evaluation:
    """Evaluate; raises InputError for what does not fit together."""
    if job.batch < 1:
        raise InputError(f"batch: {job.batch}, expected at least 1")
    text = read_text(job.text, "text")
    if is_quantized(job.model):
        for name in ("formats", "ablation", "calibration"):
            if getattr(job, name) is not None:
                raise InputError(f"--{name}: {job.model} is quantized already, expected a model in its own precision")
        return _quantized(job, text, progress)
    if job.original is not None:
        raise InputError(f"--original: {job.model} is not a folder that fgmp quantize wrote")
    return _formats(job, text, progress)


def _quantized(job: EvaluateJob, text: str, progress: bool) -> Evaluation:
    quantized = load_model(job.model, device=job.device, quantized=True)
    layers = {n: m for n, m in quantized.model.named_modules() if isinstance(m, FGMPLinear)}
    tokens, parts, header = _windows(job, quantized, text)
    manifest = read_manifest(Path(job.model))
    original = job.original or manifest["base_model"]
    language_model = None
    if original is not None:
        try:
            language_model = load_model(original, dtype=job.dtype, device=job.device)
        except InputError:
            if job.original is not None:  # one that is only remembered may be gone
                raise
    tasks = _tasks(job, quantized)
    if language_model is None:
        set_exact(quantized.model, job.exact)
        losses = evaluate(quantized.model, [], [], parts, reference=job.model, batch=job.batch, progress=progress)
        comparison = summarize([], losses, {}, job.model)
        footer = ["", "name the model it was made from by --original to see float32, FP8 and NVFP4 beside it"]
        return _evaluation(comparison, job, parts, tokens, header, footer, tasks)
    config = FGMPConfig.from_dict(manifest["config"])
    first = parts[0].ids
    study = Study(language_model.model, first[None, :2], ignore=config.ignore, progress=progress)
    if set(study.linears) != set(layers):
        raise InputError(f"original {original}: other linears than {job.model}, expected the model it was made from")
    variants = [_uniform(study, layers, fp4, job.exact) for fp4 in (False, True)]
    variants.append(_own(layers, config, job.exact))
    losses = {}
    for variant in variants:
        losses |= evaluate(
            study.model, study.sites, [variant], parts, reference=job.dtype, batch=job.batch, progress=progress
        )
        variant.modules.clear()
    return _evaluation(summarize(variants, losses, {}, job.dtype), job, parts, tokens, header, [], tasks)


def _own(layers: dict[str, FGMPLinear], config: FGMPConfig, exact: bool) -> Variant:
    """The quantized model's layers as a variant of the original."""
    name = f"FGMP {config.fp4_weights:g}"
    if config.fp4_weights != config.fp4_activations and config.activations != "none":
        name += f"/{config.fp4_activations:g}"
    return Variant(name, {n: la.packed for n, la in layers.items()}, _site_quantizers(layers), exact)


def _uniform(study: Study, layers: dict[str, FGMPLinear], fp4: bool, exact: bool) -> Variant:
    """All NVFP4 or all FP8, with the tensor exponents that the quantized model's sites have."""
    from dataclasses import replace

    config = uniform(fp4, FGMPConfig(ignore=("",), activations="none"))
    weights = dict(study.pack(config))
    sites = _site_quantizers(layers)
    for site in (sites or {}).values():
        registers = replace(site.registers, mode="all_fp4" if fp4 else "all_fp8")
        site.plan = replace(site.plan, registers=registers, static_fp8=None, channel_codes=None, four_over_six=False)
    return Variant(NVFP4 if fp4 else FP8, weights, sites, exact)


def _site_quantizers(layers: dict[str, FGMPLinear]) -> dict[str, SiteQuantizer] | None:
    """Fresh quantizers like those of the layers, by the name of the site's first linear."""
    sites: dict[int, tuple[str, SiteQuantizer]] = {}
    for name, layer in layers.items():
        if layer.site is not None and id(layer.site) not in sites:
            sites[id(layer.site)] = (name, SiteQuantizer(layer.site.plan, layer.site.readers))
    return dict(sites.values()) or None


def _formats(job: EvaluateJob, text: str, progress: bool) -> Evaluation:
    language_model = load_model(job.model, dtype=job.dtype, device=job.device)
    tokens, parts, header = _windows(job, language_model, text)
    base = FGMPConfig(
        samples=job.samples,
        threshold_samples=job.threshold_samples,
        window=job.calibration_window,
        seed=job.seed,
        ignore=job.ignore,
    )
    if job.formats is not None and job.ablation is not None:
        raise InputError("--formats and --ablation: both given, expected one of them")
    names = ablation(job.ablation) if job.ablation is not None else job.formats
    if names is None and job.calibration is not None:
        names = ["fp8", "nvfp4", "fgmp:0.7"]
    formats = parse_formats(names or [], base)
    tasks = _tasks(job, language_model)
    if not formats:
        losses = evaluate(language_model.model, [], [], parts, reference=job.dtype, batch=job.batch, progress=progress)
        footer = ["", "give --calibration TEXT to see FP8, NVFP4 and FGMP beside it"]
        return _evaluation(summarize([], losses, {}, job.dtype), job, parts, tokens, header, footer, tasks)
    if job.calibration is None:
        raise InputError("--calibration: not given, expected a text that the formats are calibrated on")
    samples = windows(
        language_model, read_text(job.calibration, "calibration"), job.samples, "calibration text", window=base.window
    )
    study = Study(language_model.model, samples, ignore=job.ignore, progress=progress)
    comparison, _ = compare(
        study, formats, parts, exact=job.exact, together=False, reference=job.dtype, batch=job.batch
    )
    header.append(f"calibrated on {job.samples} windows of {base.window} tokens")
    return _evaluation(comparison, job, parts, tokens, header, [], tasks)


def _windows(job: EvaluateJob, language_model: LanguageModel, text: str) -> tuple[Tensor, list[Window], list[str]]:
    positions = getattr(language_model.model.config, "max_position_embeddings", _LONGEST_WINDOW)
    window = job.window or min(positions, _LONGEST_WINDOW)
    stride = job.stride or window
    language_model.check_window(window)
    tokens = language_model.tokens(text)
    if job.max_tokens is not None:
        if job.max_tokens < 2:
            raise InputError(f"max-tokens: {job.max_tokens}, expected at least 2")
        tokens = tokens[: job.max_tokens]
    parts = text_windows(tokens, window, stride)
    scored = sum(len(w.ids) - w.first for w in parts)
    header = [
        f"{job.text}: {len(tokens):,} tokens, {len(parts)} windows of {window}, stride {stride}, {scored:,} scored"
    ]
    return tokens, parts, header


def _evaluation(
    comparison: Comparison,
    job: EvaluateJob,
    parts: Sequence[Window],
    tokens: Tensor,
    header: list[str],
    footer: list[str],
    tasks: dict[str, Any] | None,
) -> Evaluation:
    window = len(parts[0].ids) if job.window is None else job.window
    for task, numbers in (tasks or {}).items():
        footer = [*footer, f"{task}: " + ", ".join(f"{k} {v:.4f}" for k, v in numbers.items())]
    return Evaluation(comparison, window, job.stride or window, len(parts), header, footer, tasks)


def _tasks(job: EvaluateJob, language_model: LanguageModel) -> dict[str, Any] | None:
    if not job.tasks:
        return None
    from .harness import run_tasks

    return run_tasks(language_model, job.tasks, batch=job.batch)
