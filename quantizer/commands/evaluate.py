"""`fgmp evaluate`: recognize the model, make the formats, measure them on the text."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...golden.packing import FP8_BITS
from ...golden.selector import SiteSettings
from ..config import DEFAULT_IGNORE, FGMPConfig
from ..evaluate.comparison import FP8, NVFP4, Comparison, compare, summarize, uniform
from ..evaluate.format_names import ablation, parse_formats
from ..evaluate.losses import Window, evaluate, text_windows
from ..model.language_model import LanguageModel, is_quantized, load_model, windows
from ..model.layers import FGMPLinear, set_exact
from ..model.manifest import read_manifest
from ..model.site import SiteQuantizer
from ..model.text import read_text
from ..model.variant import Variant
from ..study import Study

__all__ = ["EvaluateRequest", "Evaluation", "run_evaluation"]

_LONGEST_WINDOW = 2048


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """The options of `fgmp evaluate`."""

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
    calibration_window: int | None = None
    ignore: tuple[str, ...] = DEFAULT_IGNORE
    seed: int = 0
    dtype: str = "float32"
    device: str = "cpu"
    special_tokens: bool = True
    trust_remote_code: bool = False

    def load(self, name: str, *, quantized: bool = False) -> LanguageModel:
        """A model as this request wants it."""
        return load_model(
            name,
            dtype=self.dtype,
            device=self.device,
            quantized=quantized,
            special_tokens=self.special_tokens,
            trust_remote_code=self.trust_remote_code,
        )


@dataclass(frozen=True, kw_only=True)
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
        facts = {"schema": "fgmp-evaluate/1", "window": self.window, "stride": self.stride, "windows": self.windows}
        return {**facts, **self.comparison.as_json(), **({"tasks": self.tasks} if self.tasks else {})}


def run_evaluation(request: EvaluateRequest, *, progress: bool) -> Evaluation:
    """Evaluate; raises InputError for what does not fit together."""
    if request.batch < 1:
        raise InputError(f"batch: {request.batch}, expected at least 1")
    text = read_text(request.text, "text")
    if is_quantized(request.model):
        for name in ("formats", "ablation", "calibration"):
            if getattr(request, name) is not None:
                raise InputError(
                    f"--{name}: {request.model} is quantized already, expected a model in its own precision"
                )
        return _quantized(request, text, progress)
    if request.original is not None:
        raise InputError(f"--original: {request.model} is not a folder that fgmp quantize wrote")
    return _formats(request, text, progress)


def _quantized(request: EvaluateRequest, text: str, progress: bool) -> Evaluation:
    quantized = request.load(request.model, quantized=True)
    layers = {n: m for n, m in quantized.model.named_modules() if isinstance(m, FGMPLinear)}
    tokens, parts, header = _windows(request, quantized, text)
    manifest = read_manifest(Path(request.model))
    set_exact(quantized.model, request.exact)
    own = _own(quantized.model, layers, FGMPConfig.from_dict(manifest["config"]), request.exact)
    original = request.original
    if original is None and manifest["base_model"] is not None and Path(manifest["base_model"]).is_dir():
        original = manifest["base_model"]  # one that is only remembered is not looked for on a hub
    tasks = _tasks(request, quantized)
    if original is None:
        losses = evaluate(quantized.model, [], [], parts, reference=own.name, batch=request.batch, progress=progress)
        plain = summarize([], losses, {}, own.name)
        size = sum(p.bytes for p in own.weights.values())
        bits = 8 * size / sum(la.in_features * la.out_features for la in layers.values())
        row = replace(
            plain.rows[0],
            weight_fp4_share=own.weight_fp4_share,
            activation_fp4_share=own.activation_fp4_share,
            weight_bytes=size,
            bits_per_weight=bits,
            weight_bytes_vs_fp8=bits / FP8_BITS,
        )
        footer = ["", "name the model it was made from by --original to see float32, FP8 and NVFP4 beside it"]
        return _evaluation(replace(plain, rows=[row]), request, parts, tokens, header, footer, tasks)
    language_model = request.load(original)
    study = Study(language_model.model, parts[0].ids[None, :2], ignore=manifest["config"]["ignore"], progress=progress)
    if set(study.linears) != set(layers):
        raise InputError(
            f"original {original}: other linears than {request.model}, expected the model it was made from"
        )
    permuted = bool(manifest["config"].get("permutation"))
    _check_same(language_model.model, quantized.model, original, request.model, permuted)
    variants = [*(_uniform(study, layers, fp4, request.exact) for fp4 in (False, True)), own]
    losses = {}
    for variant in variants:
        losses |= evaluate(
            study.model, study.sites, [variant], parts, reference=request.dtype, batch=request.batch, progress=progress
        )
        variant.modules.clear()
    return _evaluation(summarize(variants, losses, {}, request.dtype), request, parts, tokens, header, [], tasks)


def _own(model: nn.Module, layers: dict[str, FGMPLinear], config: FGMPConfig, exact: bool) -> Variant:
    """The quantized model itself."""
    name = f"FGMP {config.fp4_weights:g}"
    if config.budget is not None:
        name = f"FGMP {config.budget}"
    elif config.fp4_weights != config.fp4_activations and config.activations != "none":
        name += f"/{config.fp4_activations:g}"
    sites = {n: la.quantizer for n, la in layers.items() if la.quantizer is not None}
    return Variant(name, {n: la.packed for n, la in layers.items()}, sites or None, exact, model=model)


def _check_same(original: nn.Module, quantized: nn.Module, name: str, folder: str, permuted: bool) -> None:
    """Raise InputError unless everything that is not quantized is the same in both, but for the order of channels."""
    theirs = dict(quantized.named_parameters())
    for key, parameter in original.named_parameters():
        mine = theirs.get(key)
        if mine is None:
            continue
        pair = (mine.detach(), parameter.detach().to(mine.device, mine.dtype))
        if permuted and not torch.equal(*pair):
            pair = (pair[0].flatten().sort().values, pair[1].flatten().sort().values)
        if not torch.equal(*pair):
            raise InputError(
                f"original {name}: {key} differs from that of {folder}, expected the model it was made from"
            )


def _uniform(study: Study, layers: dict[str, FGMPLinear], fp4: bool, exact: bool) -> Variant:
    """All NVFP4 or all FP8, with the tensor exponents that the quantized model's sites have."""
    config = uniform(fp4, FGMPConfig(ignore=("",), activations="none"))
    weights = dict(study.pack(config))
    sites = {}
    for site in study.sites:
        like = layers[site.linears[0]].quantizer
        if like is not None:
            settings = SiteSettings(like.settings.exponent, mode="all_fp4" if fp4 else "all_fp8")
            sites[site.name] = SiteQuantizer(settings, like.readers)
    return Variant(NVFP4 if fp4 else FP8, weights, sites or None, exact)


def _formats(request: EvaluateRequest, text: str, progress: bool) -> Evaluation:
    language_model = request.load(request.model)
    tokens, parts, header = _windows(request, language_model, text)
    base = FGMPConfig(
        samples=request.samples,
        threshold_samples=request.threshold_samples,
        window=language_model.window(request.calibration_window),
        seed=request.seed,
        ignore=request.ignore,
    )
    if request.formats is not None and request.ablation is not None:
        raise InputError("--formats and --ablation: both given, expected one of them")
    names = ablation(request.ablation) if request.ablation is not None else request.formats
    if names is None and request.calibration is not None:
        names = ["fp8", "nvfp4", "fgmp:0.7,paper", "fgmp:0.7"]
    formats = parse_formats(names or [], base)
    tasks = _tasks(request, language_model)
    if not formats:
        losses = evaluate(
            language_model.model, [], [], parts, reference=request.dtype, batch=request.batch, progress=progress
        )
        footer = ["", "give --calibration TEXT to see FP8, NVFP4 and FGMP beside it"]
        return _evaluation(summarize([], losses, {}, request.dtype), request, parts, tokens, header, footer, tasks)
    if request.calibration is None:
        raise InputError("--calibration: not given, expected a text that the formats are calibrated on")
    samples = windows(
        language_model,
        read_text(request.calibration, "calibration"),
        request.samples,
        "calibration text",
        window=base.window,
        flag="--calibration-window",
    )
    study = Study(language_model.model, samples, ignore=request.ignore, progress=progress)
    comparison, _ = compare(
        study, formats, parts, exact=request.exact, together=False, reference=request.dtype, batch=request.batch
    )
    header.append(f"calibrated on {request.samples} windows of {base.window} tokens")
    return _evaluation(comparison, request, parts, tokens, header, [], tasks)


def _windows(
    request: EvaluateRequest, language_model: LanguageModel, text: str
) -> tuple[Tensor, list[Window], list[str]]:
    window = language_model.window(request.window, _LONGEST_WINDOW)
    stride = window if request.stride is None else request.stride
    language_model.check_window(window)
    tokens = language_model.tokens(text)
    if request.max_tokens is not None:
        if request.max_tokens < 2:
            raise InputError(f"max-tokens: {request.max_tokens}, expected at least 2")
        tokens = tokens[: request.max_tokens]
    parts = text_windows(tokens, window, stride)
    scored = sum(len(w.ids) - w.first for w in parts)
    header = [
        f"{request.text}: {len(tokens):,} tokens, {len(parts)} windows of {window}, stride {stride}, "
        f"{scored:,} scored, {language_model.special_tokens_text}"
    ]
    return tokens, parts, header


def _evaluation(
    comparison: Comparison,
    request: EvaluateRequest,
    parts: Sequence[Window],
    tokens: Tensor,
    header: list[str],
    footer: list[str],
    tasks: dict[str, Any] | None,
) -> Evaluation:
    window = len(parts[0].ids) if request.window is None else request.window
    for task, numbers in (tasks or {}).items():
        footer = [*footer, f"{task}: " + ", ".join(f"{k} {v:.4f}" for k, v in numbers.items())]
    return Evaluation(
        comparison=comparison,
        window=window,
        stride=window if request.stride is None else request.stride,
        windows=len(parts),
        header=header,
        footer=footer,
        tasks=tasks,
    )


def _tasks(request: EvaluateRequest, language_model: LanguageModel) -> dict[str, Any] | None:
    if not request.tasks:
        return None
    from ..evaluate.lm_eval_tasks import run_tasks

    return run_tasks(language_model, request.tasks, batch=request.batch)
