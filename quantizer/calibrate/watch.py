"""Hooks that add what passes through a model to running sums."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...golden.blocks import check_no_nan
from ..prepare.sites import Site, hooked
from .recompute import on_gradient, recomputing

__all__ = ["Watch"]


class Watch:
    """Context manager: hooks that add to `totals` whatever passes."""

    def __init__(
        self,
        model: nn.Module,
        linears: Mapping[str, nn.Linear],
        sites: Sequence[Site],
        totals: MutableMapping[str, Tensor],
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

        def count(x: Tensor) -> None:
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

        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            if not recomputing():
                count(x)
            if self._sensitivity is None or not torch.is_grad_enabled():
                return
            if not x.requires_grad:  # no embedding is before it: begin here
                x.requires_grad_(True)

            def add(gradient: Tensor) -> None:
                rows = gradient.reshape(-1, site.channels).float()
                totals[f"channel/{site.name}"] += rows.square().sum(0)
                totals[f"gradients/{site.name}"] += len(rows)

            on_gradient(x, add)

        return hook

    def _weight_hook(self, names: Sequence[str]) -> Any:
        def hook(parameter: Tensor) -> None:
            if parameter.grad is not None:
                for name in names:  # in the sum's own dtype, without a copy of the gradient
                    self._totals[f"weight/{name}"].addcmul_(parameter.grad, parameter.grad)
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
