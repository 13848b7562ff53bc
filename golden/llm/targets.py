"""What is quantized in a model: its linears, found by name, after other layers of that kind have become linears.

GPT-2's `Conv1D` stores its weight transposed, and mixture-of-experts models fuse the weights of all experts into one
3-D parameter that no module's call shows. `prepare` replaces both, in place and sharing memory, by modules that are
made of `nn.Linear`, so that everything after it knows one kind of layer; `restore` turns them back.
"""

import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError

__all__ = ["DEFAULT_IGNORE", "LinearExperts", "TransposedLinear", "prepare", "restore", "target_linears"]

DEFAULT_IGNORE = ("lm_head", "*.lm_head", "*.gate", "*.router", "*.router.*", "*.shared_expert_gate")
"""Never quantized unless asked for: the output embedding, and the routers of mixture-of-experts models."""


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

    def _split(self, name: str) -> nn.ModuleList:
        weights = self.fused.get_parameter(name)
        bias = getattr(self.fused, f"{name}_bias", None) if self.fused.has_bias else None
        linears = nn.ModuleList()
        for expert in range(weights.shape[0]):
            weight = weights.data[expert].T if self.fused.is_transposed else weights.data[expert]
            linears.append(_linear(nn.Linear, weight, None if bias is None else bias.data[expert]))
        return linears

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """(tokens, H) to (tokens, H)."""
        first, count = self.get_submodule(self.first), len(self.down_proj)
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        index, scale = top_k_index.reshape(len(x), -1), top_k_weights.reshape(len(x), -1)
        result = torch.zeros_like(x)
        for expert in range(count):
            tokens, position = torch.where(index == expert)
            if not len(tokens):
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


def prepare(model: nn.Module, ignore: Sequence[str] = ()) -> None:
    """Replace, in place, every `Conv1D` and every module of fused experts by modules made of linears.

    Fused experts of a kind that is not known stay if a glob of `ignore` matches their name, else InputError names them.
    """
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
            model.set_submodule(name, _linear(TransposedLinear, module.weight.data.T, module.bias.data))
        elif isinstance(getattr(module, "down_proj", None), nn.Parameter) and module.down_proj.dim() == 3:
            if not hasattr(module, "has_gate") or getattr(module, "has_post_expert_norm", False):
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore):
                    continue
                raise InputError(
                    f"experts {name}: {type(module).__name__} is not known, expected fused experts as transformers 5 "
                    "has them, or a glob in ignore that matches this name"
                )
            model.set_submodule(name, LinearExperts(module))


def restore(model: nn.Module) -> None:
    """The inverse of `prepare`, with the weights that the linears have now."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LinearExperts):
            model.set_submodule(name, module.fuse())
        elif isinstance(module, TransposedLinear):
            from transformers.pytorch_utils import Conv1D

            conv = Conv1D(module.out_features, module.in_features)
            conv.weight = nn.Parameter(module.weight.data.T.contiguous())
            conv.bias = nn.Parameter(module.bias.data)
            model.set_submodule(name, conv)


def target_linears(model: Any, ignore: Sequence[str] = DEFAULT_IGNORE) -> dict[str, nn.Linear]:
    """The linears that are quantized, by name: those of the decoder blocks, but for names that a glob ignores.

    Blocks are the members of module lists; a model without any offers all its linears. The output embedding is never
    among them. Raises InputError if nothing is left.
    """
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    lists = [f"{n}." if n else "" for n, m in model.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module is not output
        and (not lists or any(name.startswith(prefix) for prefix in lists))
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore)
    }
    if not linears:
        raise InputError(f"model {type(model).__name__}: no linear layers found, expected at least one not ignored")
    return linears


def _linear(kind: type[nn.Linear], weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear around existing tensors, without allocating or initializing its own."""
    with torch.device("meta"):
        linear = kind(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear
