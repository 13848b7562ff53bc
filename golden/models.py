"""Loads language models and finds what is quantized in them: linears, and the sites (activation tensors) they read."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError

__all__ = ["SHIPPED_MODEL", "LanguageModel", "Site", "find_sites", "load_model", "target_linears"]

SHIPPED_MODEL = Path(__file__).parent / "assets" / "cpython-llama"
"""The small Llama that travels with the package."""


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in float32, ready for evaluation, and its tokenizer."""

    model: Any
    tokenizer: Any
    path: Path

    def tokens(self, text: str) -> Tensor:
        """int64 token ids of `text`, one-dimensional."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)


@dataclass(frozen=True)
class Site:
    """One activation tensor: its name, how many channels it has, and the linears that read it."""

    name: str
    channels: int
    linears: tuple[str, ...]


def load_model(path: Path) -> LanguageModel:
    """Load a transformers causal language model from a local folder, in float32.

    Raises InputError if the folder, its config, its safetensors weights or its tokenizer are missing or broken.
    """
    if not path.is_dir():
        raise InputError(f"model folder {path}: not found, expected a folder with config.json and safetensors weights")
    if not (path / "config.json").is_file():
        raise InputError(f"model folder {path}: no config.json, expected a transformers model folder")
    if not any(path.glob("*.safetensors")):
        raise InputError(f"model folder {path}: no weights, expected model.safetensors or its shards")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a folder is all there is to read: never ask a hub
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    except Exception as error:  # transformers raises whatever its parts raise on a broken folder
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"model folder {path}: cannot be loaded ({reason})") from None
    if info["missing_keys"]:
        raise InputError(f"model folder {path}: weights lack {sorted(info['missing_keys'])[0]}")
    return LanguageModel(model.eval(), tokenizer, path)


def target_linears(model: Any) -> dict[str, nn.Linear]:
    """The linears that are quantized: all but the output embedding, by name."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 2:
            raise InputError(
                f"model {type(model).__name__}: {name} has {parameter.dim()} dimensions, expected linears only"
            )
    output = model.get_output_embeddings()
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not output}
    if not linears:
        raise InputError(f"model {type(model).__name__}: no linear layers found, expected at least one nn.Linear")
    return linears


def find_sites(model: Any, linears: dict[str, nn.Linear], sample: Tensor) -> list[Site]:
    """Run `sample` (1-D token ids) once and group the linears by the very tensor they read."""
    readers: dict[int, list[str]] = {}
    kept: list[Tensor] = []  # keeps the tensors alive, so that an id means one tensor only

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            kept.append(inputs[0])
            readers.setdefault(id(inputs[0]), []).append(name)

        return hook

    handles = [linear.register_forward_pre_hook(note(name)) for name, linear in linears.items()]
    try:
        with torch.no_grad():
            model(input_ids=sample[None])
    finally:
        for handle in handles:
            handle.remove()
    read = {name for names in readers.values() for name in names}
    for name in linears:
        if name not in read:
            raise InputError(f"linear {name}: not reached by the calibration text, expected every linear to be used")
    return [Site(names[0], linears[names[0]].in_features, tuple(names)) for names in readers.values()]
