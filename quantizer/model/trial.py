"""The trial of a written folder: loaded again, it must be the model that was written, and compute what that did."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, first_line
from ...processes import exhausted
from .layers import FGMPLinear
from .load import load

__all__ = ["Witness", "check_written", "witness"]


@dataclass(frozen=True)
class Witness:
    """What a model is, without the model: types of its modules, digests of its tensors, and what it computes.

    `logits` are those of `sample`, token ids of what a causal language model was calibrated with first; None of others.
    """

    modules: dict[str, str]
    tensors: dict[str, str]
    dtype: torch.dtype | str
    device: torch.device | str
    exact: bool
    sample: Tensor | None
    logits: Tensor | None


def witness(model: Any) -> Witness:
    """What is to be known of a quantized `model` when it is gone. Raises InputError if it cannot be run."""
    sample = getattr(model, "fgmp_sample", None)
    try:
        logits = None if sample is None else _logits(model, sample, model.device)
    except Exception as error:  # whatever the model's own code raises
        reason = _reason(error)
        raise InputError(f"model {type(model).__name__}: cannot be run once it is quantized ({reason})") from error
    return Witness(
        _modules(model),
        {name: _digest(tensor) for name, tensor in model.state_dict().items()},
        getattr(model, "dtype", "auto"),
        getattr(model, "device", "cpu"),
        next(m.exact for m in model.modules() if isinstance(m, FGMPLinear)),
        sample,
        logits,
    )


def check_written(seen: Witness, folder: Path, *, trust_remote_code: bool = False) -> None:
    """Raise InputError unless `folder`, loaded again, has every module and tensor of the model and computes the same.

    One model is in memory here, if the caller has let the other go.
    """
    again: Any = load(folder, dtype=seen.dtype, exact=seen.exact, trust_remote_code=trust_remote_code)
    odd = _first_difference(seen, again)
    if odd is None and seen.sample is not None and seen.logits is not None:
        try:
            same = torch.equal(seen.logits, _logits(again.to(seen.device), seen.sample, seen.device))
            odd = None if same else "its logits are"
        except Exception as error:  # whatever the model's own code raises
            odd = f"running it ({_reason(error)}) is"
    if odd is not None:
        raise InputError(
            f"output {folder}: {odd} not the same when the written model is loaded again, expected a model that its "
            "settings describe; nothing was written"
        )


def _first_difference(seen: Witness, again: nn.Module) -> str | None:
    theirs = _modules(again)
    for name, kind in seen.modules.items():
        if theirs.get(name) != kind:
            return f"module {name} ({kind}) is"
    tensors = again.state_dict()
    for name, digest in seen.tensors.items():
        if name not in tensors or _digest(tensors[name]) != digest:
            return f"tensor {name} is"
    return None


def _reason(error: Exception) -> str:
    exhausted(str(error), "model")
    return first_line(error)


def _modules(model: nn.Module) -> dict[str, str]:
    return {name: type(module).__name__ for name, module in model.named_modules(remove_duplicate=False)}


def _digest(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _logits(model: Any, sample: Tensor, device: torch.device | str) -> Tensor:
    """Of a model whose layers keep no decoded weight meanwhile, so that it takes no more memory than its bytes do."""
    layers = [m for m in model.modules() if isinstance(m, FGMPLinear)]
    before = [layer.keep_decoded for layer in layers]
    try:
        for layer in layers:
            layer.keep_decoded = False
        with torch.no_grad():
            return model(input_ids=sample[None].to(device)).logits
    finally:
        for layer, kept in zip(layers, before, strict=True):
            layer.keep_decoded = kept
