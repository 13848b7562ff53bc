"""The layers to quantize: linears, found by name, after other layers of that kind have become linears.

GPT-2's `Conv1D` stores its weight transposed, and mixture-of-experts models fuse the weights of all experts into one
3-D parameter that no module's call shows. `prepare` replaces both, in place and sharing memory, by modules that are
made of `nn.Linear`, so that everything after it knows one kind of layer; `restore` turns them back.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..config import DEFAULT_IGNORE
from .registrations import registrations, replace_registered

__all__ = [
    "NO_LINEAR",
    "LeftAlone",
    "LinearExperts",
    "TransposedLinear",
    "left_alone",
    "prepare",
    "restore",
    "target_linears",
]


NO_LINEAR = "no linear holds it"


class TransposedLinear(nn.Linear):
    """Stands in for a `transformers.pytorch_utils.Conv1D`; its weight is a transposed view of the original's."""


class LinearExperts(nn.Module):
    """Stands in for a module with fused 3-D expert weights: one `nn.Linear` per expert and projection.

    Takes what transformers' expert modules take: hidden states (tokens, H), expert indices and weights (tokens, k).
    """

    def __init__(self, fused: Any):
        super().__init__()
        # Not registered: its parameters are ours now, only its gating rule is still needed.
        self.__dict__["fused"] = fused
        self.first = "gate_up_proj" if fused.has_gate else "up_proj"
        self.add_module(self.first, self._split(self.first))
        self.down_proj = self._split("down_proj")
        self.call_all = False  # whether experts without tokens are called too, with nothing to add

    def _split(self, name: str) -> nn.ModuleList:
        weights = self.fused.get_parameter(name)
        bias = getattr(self.fused, f"{name}_bias", None) if self.fused.has_bias else None
        linears = nn.ModuleList()
        for expert in range(weights.shape[0]):
            weight = weights.data[expert].T if self.fused.is_transposed else weights.data[expert]
            linears.append(_linear(nn.Linear, weight, None if bias is None else bias.data[expert]))
        return linears

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(self.__dict__.get("fused"), name)  # what else the model asks its experts for
            if isinstance(value, nn.Parameter):  # theirs are ours now
                raise
            return value

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """(tokens, H) to (tokens, H)."""
        first, count = self.get_submodule(self.first), len(self.down_proj)
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        index, scale = top_k_index.reshape(len(x), -1), top_k_weights.reshape(len(x), -1)
        result = torch.zeros_like(x)
        for expert in range(count):
            tokens, position = torch.where(index == expert)
            if not len(tokens) and not self.call_all:
                continue
            y = first[expert](x[tokens])
            y = self.fused._apply_gate(y) if self.fused.has_gate else self.fused.act_fn(y)
            y = self.down_proj[expert](y) * scale[tokens, position, None]
            result.index_add_(0, tokens, y.to(result.dtype))
        return result.view(hidden_states.shape)

    def fuse(self) -> Any:
        """The original module, with what our linears hold now."""
        for name in (self.first, "down_proj"):
            linears = list(self.get_submodule(name))
            weight = torch.stack([m.weight.data.T if self.fused.is_transposed else m.weight.data for m in linears])
            self.fused.register_parameter(name, nn.Parameter(weight.contiguous()))
            if self.fused.has_bias:
                bias = torch.stack([m.bias.data for m in linears])
                self.fused.register_parameter(f"{name}_bias", nn.Parameter(bias))
        return self.fused


def prepare(model: nn.Module, ignore: Sequence[str] = (), *, within: str = "") -> None:
    """Replace, in place, every `Conv1D` and every module of fused experts by modules made of linears.

    Only in the module called `within`, if that is given.
    Fused experts of a kind that is not known stay if a glob of `ignore` matches their name, else InputError names them.
    """
    held = registrations(model)
    for name, module in list(model.get_submodule(within).named_modules(prefix=within)):
        if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
            replace_registered(held, module, _linear(TransposedLinear, module.weight.data.T, module.bias.data))
        elif isinstance(getattr(module, "down_proj", None), nn.Parameter) and module.down_proj.dim() == 3:
            if not hasattr(module, "has_gate") or getattr(module, "has_post_expert_norm", False):
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore):
                    continue
                raise InputError(
                    f"experts {name}: {type(module).__name__} is not known, expected fused experts as transformers 5 "
                    "has them, or a glob in ignore that matches this name"
                )
            replace_registered(held, module, LinearExperts(module))


def restore(model: nn.Module) -> None:
    """The inverse of `prepare`, with the weights that the linears have now."""
    held = registrations(model)
    for module in list(model.modules()):
        if isinstance(module, LinearExperts):
            replace_registered(held, module, module.fuse())
        elif isinstance(module, TransposedLinear):
            from transformers.pytorch_utils import Conv1D

            conv = Conv1D(module.out_features, module.in_features)
            conv.weight = nn.Parameter(module.weight.data.T.contiguous())
            conv.bias = nn.Parameter(module.bias.data)
            replace_registered(held, module, conv)


def target_linears(
    model: Any, ignore: Sequence[str] = DEFAULT_IGNORE, reasons: dict[str, str] | None = None
) -> dict[str, nn.Linear]:
    """The linears that are quantized, by name: those of the decoder blocks that compute `x W^T + b` and nothing else.

    Blocks are the members of module lists; a model without any offers all its linears. The output embedding is never
    among them, nor is what a glob of `ignore` matches, nor a linear whose weight another kind of module uses too. A
    linear that stands in several places has the name of the first. `reasons` is given, by name, why others are not
    among them. Raises InputError if nothing is left, or a glob (but for the default ones) matches no linear.
    """
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    lists = [f"{n}." if n else "" for n, m in model.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
    used_elsewhere = {
        id(p): name
        for name, module in model.named_modules()
        if not isinstance(module, nn.Linear)
        for p in module._parameters.values()
        if p is not None
    }
    why: dict[str, str] = {} if reasons is None else reasons
    candidates = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    _check_globs(model, candidates, ignore)
    linears: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if _stacked(module) and any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore):
            why[name] = "ignored by a glob"
    for name, module in candidates.items():
        special = _special(module)
        if module is output:
            why[name] = "the output embedding"
        elif any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore):
            why[name] = "ignored by a glob"
        elif lists and not any(name.startswith(prefix) for prefix in lists):
            why[name] = "outside of the blocks"
        elif special is not None:
            why[name] = special
        elif id(module.weight) in used_elsewhere:
            why[name] = f"its weight is also that of {used_elsewhere[id(module.weight)]}"
        else:
            linears[name] = module
    if not linears:
        detail = "".join(f" ({name}: {reason})" for name, reason in list(why.items())[:1])
        raise InputError(
            f"model {type(model).__name__}: no linear layers found, expected at least one not ignored{detail}"
        )
    return linears


def _special(module: nn.Linear) -> str | None:
    """Why a module that is an `nn.Linear` may compute something else, or None where it is known not to."""
    kind = type(module)
    if getattr(module, "payload", None) is not None:
        return "quantized already"
    if "weight" not in module._parameters:
        return "its weight is computed from other parameters"
    # Falcon's own class computes x W^T and adds b.
    known = kind.forward is nn.Linear.forward or (kind.__name__, kind.__module__.split(".")[0]) == (
        "FalconLinear",
        "transformers",
    )
    if not known or kind.__call__ is not nn.Module.__call__:
        return f"class {kind.__name__} has a forward of its own"
    if "forward" in module.__dict__ and not hasattr(module, "_hf_hook"):  # accelerate only moves tensors
        return "its forward was replaced"
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has hooks"
    return None


def _check_globs(model: nn.Module, linears: Mapping[str, nn.Linear], ignore: Sequence[str]) -> None:
    names = [*linears, *(n for n, m in model.named_modules() if isinstance(m, LinearExperts) or _stacked(m))]
    for pattern in ignore:
        if pattern not in DEFAULT_IGNORE and not fnmatch.filter(names, pattern):
            raise InputError(f"ignore: {pattern!r} matches no linear of {type(model).__name__}, expected one that does")


def _stacked(module: nn.Module) -> bool:
    """Whether a module holds the weights of experts in one tensor."""
    weight = getattr(module, "down_proj", None)
    return isinstance(weight, nn.Parameter) and weight.dim() > 2


@dataclass(frozen=True)
class LeftAlone:
    """Matrices of one kind that were not quantized: why, how many, their weights, and the name of the first."""

    reason: str
    tensors: int
    weights: int
    first: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.tensors} tensors of {self.weights:,} weights, first {self.first}"


def left_alone(model: nn.Module, reasons: Mapping[str, str]) -> tuple[list[LeftAlone], int]:
    """The matrices that stay as they were, by reason, and how many weights all matrices have.

    Embeddings are not counted: nothing multiplies by them. `reasons` are those of `target_linears`, by name of module.
    """
    found: dict[str, list[tuple[str, int]]] = {}
    quantized = 0
    for name, module, parameter in _matrices(model):
        if parameter is None:
            quantized += module.in_features * module.out_features
        else:
            reason = reasons.get(name.rpartition(".")[0], NO_LINEAR)
            found.setdefault(reason, []).append((name, parameter.numel()))
    groups = [
        LeftAlone(reason, len(items), sum(size for _, size in items), min(items)[0]) for reason, items in found.items()
    ]
    return groups, quantized + sum(group.weights for group in groups)


def _matrices(model: nn.Module) -> Iterator[tuple[str, Any, Tensor | None]]:
    """Every matrix of a model by name, with its module; None in place of a packed one."""
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, module in model.named_modules():
        if hasattr(module, "payload") and isinstance(module, nn.Linear):
            yield name, module, None
            continue
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in embedded:
                sizes = [size for size in parameter.shape if size > 1]
                if len(sizes) >= 2:
                    yield f"{name}.{key}" if name else key, module, parameter


def _linear(kind: type[nn.Linear], weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear around existing tensors, without allocating or initializing its own."""
    with torch.device("meta"):
        linear = kind(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear
