"""Calibration on samples of text: sensitivities and activation ranges (docs/numerics.md section 5).

Nothing is kept of a sample: a parameter's or a site's gradient is squared, added and dropped as soon as it is complete.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ...errors import InputError
from ...formats import TENSOR_EXPONENT_LIMIT
from ...golden.blocks import check_no_nan, tensor_exponent
from ...processes import exhausted
from ..prepare.sites import Site, hooked, kind
from . import distributed
from .error_factor import error_factor
from .resume import Checkpoint

__all__ = ["Calibration", "calibrate"]


@dataclass(frozen=True)
class Calibration:
    """Sensitivities and ranges of one model.

    Attributes:
        sites: the activation tensors.
        weights: by linear, float32, what broadcasts to its weight (N, K): mean squared gradient per weight, or its
            factored estimate; empty if no gradients were taken.
        channels: by site, float32 (K,), mean squared gradient per input channel; empty if no gradients were taken.
        squares: by site, float32 (K,), mean square of each input channel.
        rows: by linear, how many rows of activations it multiplies in a sample, on average. A linear that none reached
            has the mean of its site, or else of all.
        exponents: tensor exponent of the activations by site, one octave of headroom included.
        factors: by site, float32 (K', K'), `error_factor` of the mean products of its input channels, where it was
            asked for.
        unreached: linears without a gradient in any sample. Their sensitivities are the means over those of their kind:
            linears whose names differ in numbers only (other layers, other experts) and whose shapes are equal.
    """

    sites: list[Site]
    weights: dict[str, Tensor]
    channels: dict[str, Tensor]
    squares: dict[str, Tensor]
    exponents: dict[str, int]
    rows: dict[str, float]
    factors: dict[str, Tensor] = field(default_factory=dict)
    unreached: tuple[str, ...] = ()


def calibrate(
    model: nn.Module,
    linears: Mapping[str, nn.Linear],
    sites: Sequence[Site],
    samples: Sequence[Any],
    loss: Callable[[Any], Tensor],
    *,
    sensitivity: str | None = "fisher",
    factors: bool = False,
    checkpoint: Checkpoint | None = None,
    progress: bool = True,
) -> Calibration:
    """Run every sample once: forward, and backward from `loss(sample)` unless `sensitivity` is None.

    `sensitivity` "fisher" measures each weight's mean squared gradient; "factored" measures only rows and columns.
    `factors` are measured too where asked for: K x K a site.
    Under torch.distributed each process takes its share of the samples, and all return the sums of all.
    Raises InputError if a weight or an activation is NaN.
    """
    for name, linear in linears.items():
        check_no_nan(linear.weight.detach(), f"{name}.weight")
    totals = _zeros(linears, sites, sensitivity)
    if factors:
        device = {site.name: linears[site.name].weight.device for site in sites}
        totals |= {f"moments/{s.name}": torch.zeros(s.channels, s.channels, device=device[s.name]) for s in sites}
    mine = distributed.share(len(samples))
    done = checkpoint.load(totals) if checkpoint else 0
    bar = tqdm(total=len(mine), initial=done, desc="calibrate", unit="sample", disable=not progress, leave=False)
    watching = _Watch(model, linears, sites, totals, sensitivity)
    with bar, watching, torch.set_grad_enabled(sensitivity is not None):
        for count, index in enumerate(mine, 1):
            if count <= done:
                continue
            _measure(loss, samples[index], index, sensitivity is not None)
            if checkpoint:
                checkpoint.save(totals, count)
            bar.update()
    if checkpoint and done < len(mine):
        checkpoint.save(totals, len(mine), force=True)
    for name, total in totals.items():
        if not torch.isfinite(total).all():
            kind, _, of = name.partition("/")
            raise InputError(f"calibration: {kind} of {of} is not finite, expected a model that computes in range")
        distributed.combine_(total, "max" if name.startswith("amax/") else "sum")
    return _means(linears, sites, totals, len(samples), sensitivity)


def _measure(loss: Callable[[Any], Tensor], sample: Any, index: int, backward: bool) -> None:
    """Run one sample, forward and, where `backward`, back; raises InputError where the model cannot."""
    try:
        value = loss(sample)
        if not torch.isfinite(value):
            raise InputError(f"loss of calibration sample {index}: {value.item()}, expected a finite number")
        if backward:
            value.backward()
    except InputError:
        raise
    except Exception as error:  # whatever the model's own code raises
        exhausted(str(error), "calibration")
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = "run and differentiated" if backward else "run"
        raise InputError(
            f"calibration: sample {index} cannot be {what} ({reason}), expected a model that can; a policy without "
            "gradients, unclipped, needs no backward pass"
        ) from error


def _zeros(linears: Mapping[str, nn.Linear], sites: Sequence[Site], sensitivity: str | None) -> dict[str, Tensor]:
    totals = {}
    for name, linear in linears.items():
        device = linear.weight.device
        if sensitivity == "fisher":
            totals[f"weight/{name}"] = torch.zeros(linear.weight.shape, device=device)
        elif sensitivity == "factored":
            totals[f"output/{name}"] = torch.zeros(linear.out_features, device=device)
    for site in sites:
        device = linears[site.name].weight.device
        totals[f"amax/{site.name}"] = torch.zeros((), device=device)
        totals[f"squares/{site.name}"] = torch.zeros(site.channels, device=device)
        totals[f"reads/{site.name}"] = torch.zeros(len(site.watched), dtype=torch.float64, device=device)
        if sensitivity is not None:
            totals[f"channel/{site.name}"] = torch.zeros(site.channels, device=device)
            totals[f"gradients/{site.name}"] = torch.zeros((), dtype=torch.float64, device=device)
    return totals


class _Watch:
    """Context manager: hooks that add to `totals` whatever passes."""

    def __init__(
        self,
        model: nn.Module,
        linears: Mapping[str, nn.Linear],
        sites: Sequence[Site],
        totals: dict[str, Tensor],
        sensitivity: str | None,
    ):
        self._model, self._linears, self._totals, self._sensitivity = model, linears, totals, sensitivity
        self._inputs = hooked(linears, {n: self._site_hook(s, i) for s in sites for i, n in enumerate(s.watched)})
        self._handles: list[Any] = []
        self._trained: list[nn.Parameter] = []

    def __enter__(self) -> None:
        self._trained = [p for p in self._model.parameters() if p.requires_grad]
        self._model.requires_grad_(False)
        self._inputs.__enter__()
        if self._sensitivity is not None:
            for module in self._model.modules():
                if isinstance(module, nn.Embedding):
                    self._handles.append(module.register_forward_hook(_begin))
        weights: dict[int, list[str]] = {}  # two linears may share one parameter
        for name, linear in self._linears.items():
            if self._sensitivity == "fisher":
                weights.setdefault(id(linear.weight), []).append(name)
            elif self._sensitivity == "factored":
                self._handles.append(linear.register_forward_hook(self._output_hook(name)))
        for names in weights.values():
            weight = self._linears[names[0]].weight
            weight.requires_grad_(True)
            self._handles.append(weight.register_post_accumulate_grad_hook(self._weight_hook(names)))

    def __exit__(self, *_: object) -> None:
        self._inputs.__exit__()
        for handle in self._handles:
            handle.remove()
        self._model.requires_grad_(False)
        for parameter in self._trained:
            parameter.requires_grad_(True)
            parameter.grad = None

    def _site_hook(self, site: Site, index: int) -> Any:
        """Of the site's `index`-th watched linear."""
        totals = self._totals

        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            values = x.detach().reshape(-1, site.channels).float()
            check_no_nan(values, f"input of {site.name}")
            infinite = values.isinf()
            values = values.masked_fill(infinite, 0) if infinite.any() else values
            if len(values):
                amax = totals[f"amax/{site.name}"]
                torch.maximum(amax, values.abs().amax(), out=amax)
            totals[f"squares/{site.name}"] += values.square().sum(0)
            if f"moments/{site.name}" in totals:
                with _tensor_cores(x.dtype):
                    totals[f"moments/{site.name}"].addmm_(values.T, values)
            totals[f"reads/{site.name}"][index] += len(values)
            if self._sensitivity is None or not torch.is_grad_enabled():
                return
            if not x.requires_grad:  # no embedding is before it: begin here
                x.requires_grad_(True)

            def add(gradient: Tensor) -> None:
                rows = gradient.reshape(-1, site.channels).float()
                totals[f"channel/{site.name}"] += rows.square().sum(0)
                totals[f"gradients/{site.name}"] += len(rows)

            x.register_hook(add)  # on the tensor: sees the gradient summed over all linears that read it

        return hook

    def _weight_hook(self, names: Sequence[str]) -> Any:
        totals = [self._totals[f"weight/{name}"] for name in names]

        def hook(parameter: Tensor) -> None:
            if parameter.grad is not None:
                for total in totals:  # in the sum's own dtype, without a copy of the gradient
                    total.addcmul_(parameter.grad, parameter.grad)
                parameter.grad = None

        return hook

    def _output_hook(self, name: str) -> Any:
        total = self._totals[f"output/{name}"]

        def add(gradient: Tensor) -> None:
            total.add_(gradient.reshape(-1, gradient.shape[-1]).float().square().sum(0))

        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(add)

        return hook


@contextmanager
def _tensor_cores(dtype: torch.dtype) -> Iterator[None]:
    """Let a GPU multiply float32 that were `dtype` in its tensor cores: TF32 holds 16-bit floats exactly."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype in (torch.bfloat16, torch.float16) else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _begin(_: nn.Module, __: Any, output: Any) -> Any:
    """Where gradients end: the embedded text, as a copy that the model may write to in place."""
    if not torch.is_grad_enabled() or not isinstance(output, Tensor) or output.requires_grad:
        return None
    return output.detach().requires_grad_(True).clone()


def _means(
    linears: Mapping[str, nn.Linear],
    sites: Sequence[Site],
    totals: dict[str, Tensor],
    samples: int,
    sensitivity: str | None,
) -> Calibration:
    seen = {s.name: totals[f"reads/{s.name}"].sum() for s in sites}
    squares = {s.name: totals[f"squares/{s.name}"] / seen[s.name].clamp(min=1).float() for s in sites}
    weights: dict[str, Tensor] = {}
    channels: dict[str, Tensor] = {}
    if sensitivity is not None:
        for site in sites:
            rows = totals[f"gradients/{site.name}"].clamp(min=1).float()
            channels[site.name] = totals[f"channel/{site.name}"] / rows
            for name in site.linears:
                if sensitivity == "fisher":
                    weights[name] = totals[f"weight/{name}"].div_(samples)
                else:
                    # dL/dw sums g * x over a sample's tokens; were they independent, its mean square would be this.
                    weights[name] = torch.outer(totals[f"output/{name}"] / samples, squares[site.name])
    exponents = {}
    empty = [site for site in sites if not seen[site.name]]
    for site in sites:
        if site not in empty:
            exponents[site.name] = min(tensor_exponent(totals[f"amax/{site.name}"]) + 1, TENSOR_EXPONENT_LIMIT)
    kinds = {name: kind(name, linear) for name, linear in linears.items()}
    for site in empty:
        alike = {kinds[name] for name in site.linears}
        kin = [s.name for s in sites if s not in empty and alike.intersection(kinds[name] for name in s.linears)]
        if not kin:
            raise InputError(f"site {site.name}: not reached by the calibration text, expected more or other text")
        exponents[site.name] = max(exponents[name] for name in kin)
        squares[site.name] = torch.stack([squares[name] for name in kin]).mean(0)
    unreached: list[str] = []
    if sensitivity is not None:
        dead = [name for name in weights if not weights[name].any() and linears[name].weight.any()]
        silent = [site.name for site in sites if not channels[site.name].any()]
        for what, values in ((dead, weights), (silent, channels)):
            for name in what:
                values[name] = _mean_of_kin(name, what, kinds, values)
        unreached = [n for n in linears if n in dead or any(n in s.linears for s in sites if s.name in silent)]
    factors = {
        site.name: error_factor(totals.pop(f"moments/{site.name}") / seen[site.name].clamp(min=1).float())
        for site in sites
        if f"moments/{site.name}" in totals  # of which each is let go for its factor
    }
    rows = _rows(sites, totals, samples)
    return Calibration(list(sites), weights, channels, squares, exponents, rows, factors, tuple(unreached))


def _rows(sites: Sequence[Site], totals: Mapping[str, Tensor], samples: int) -> dict[str, float]:
    """How many rows of a sample each linear multiplies; the mean of its site, or else of all, where none reached it."""
    rows: dict[str, float] = {}
    for site in sites:
        seen = totals[f"reads/{site.name}"] / samples
        own = seen.tolist() if len(site.watched) > 1 else [float(seen)] * len(site.linears)
        rows |= {name: count or float(seen.mean()) for name, count in zip(site.linears, own, strict=True)}
    some = [count for count in rows.values() if count]
    return {name: count or sum(some) / len(some) for name, count in rows.items()}


def _mean_of_kin(name: str, without: Sequence[str], kinds: Mapping[str, str], values: Mapping[str, Tensor]) -> Tensor:
    """Mean over what has a value of its own: those of one kind, element by element, or else all, in one number."""
    kin = [n for n in values if n not in without and kinds[n] == kinds[name]]
    if kin:
        total = torch.zeros_like(values[name])
        for other in kin:
            total += values[other].to(total.device) / len(kin)
        return total
    rest = [values[n].mean().item() for n in values if n not in without]
    if not rest:
        raise InputError("calibration: no gradient reached any linear, expected a loss that depends on them")
    return torch.full_like(values[name], sum(rest) / len(rest))
