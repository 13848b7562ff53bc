"""Write a quantized model as a folder (docs/packed-format.md): whole or not at all, loaded again and compared first."""

import copy
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...files import partial_name
from ..prepare.registrations import shared_modules
from .folder import file_digest, files_of, headers
from .layers import REGISTERS, FGMPLinear
from .manifest import FOLDER_VERSION, QUANT_METHOD, json_digest
from .shards import Shard, write_shards
from .trial import check_written, witness

__all__ = ["copy_side_files", "save", "saved_tensors", "write_folder"]


_MAX_SHARD = 4 << 30


_SIDE_SUFFIXES = (".json", ".jinja", ".model", ".py", ".txt", ".tiktoken")


_SIDE_NAMES = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")


def save(
    model: Any,
    folder: Path | str,
    *,
    tokenizer: Any = None,
    base_model: str | None = None,
    max_shard_bytes: int = _MAX_SHARD,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a quantized `model` to a new `folder`, with its tokenizer and generation config if there are any.

    Everything is written beside it first; a model of transformers is loaded again from there and compared, tensor by
    tensor; then the folder is renamed. `dtype` is that of what is not quantized (default: as it is); a tensor that
    would lose by it stays as it is. Raises InputError if the folder exists, the model holds no quantized layer, or
    what was written does not load.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"output {folder}: exists already, expected the name of a new folder")
    partial = partial_name(folder)
    try:
        partial.mkdir(parents=True)
        write_folder(
            model, partial, tokenizer=tokenizer, base_model=base_model, max_shard_bytes=max_shard_bytes, dtype=dtype
        )
        if hasattr(model, "config"):
            check_written(witness(model), partial)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_folder(
    model: Any,
    folder: Path,
    *,
    tokenizer: Any,
    base_model: str | None,
    calibration: str | None = None,
    max_shard_bytes: int = _MAX_SHARD,
    dtype: torch.dtype | None = None,
    source: Path | None = None,
) -> None:
    """Write a quantized model's files into an existing empty `folder`.

    `calibration` is a digest of the samples; `source` the folder of the original model, whose other files (chat
    templates, processors, licenses, custom code) come along.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, FGMPLinear)}
    if not layers:
        raise InputError(f"model {type(model).__name__}: holds no quantized layer, expected one that quantize() made")
    settings: dict[str, Any] = {"architectures": [type(model).__name__]}
    if hasattr(model, "config"):
        config = copy.deepcopy(model.config)
        config.architectures = settings["architectures"]
        config.__dict__.pop("quantization_config", None)
        if dtype is not None:
            config.dtype = dtype
        config.save_pretrained(folder)
        settings = json.loads((folder / "config.json").read_text())
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if source is not None:
        copy_side_files(source, folder)
    tensors = saved_tensors(model, dtype)
    write_shards(folder, {name: Shard.of(t) for name, t in tensors.items()}, max_shard_bytes)
    manifest = {
        "quant_method": QUANT_METHOD,
        "version": FOLDER_VERSION,
        "config": model.fgmp_config.as_dict(),
        "base_model": base_model,
        "calibration": calibration,
        "expected": getattr(model, "fgmp_expected", None),
        **_structure(layers),
        "tensors": {name: [h.dtype, list(h.shape)] for name, h in headers(folder).items()},
        "aliases": shared_modules(model),
        "files": {file: file_digest(folder / file) for file in files_of(folder)},
        "settings": json_digest(settings),
    }
    manifest["sha256"] = json_digest(manifest)
    settings["quantization_config"] = manifest
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes for the owner only


def copy_side_files(source: Path, folder: Path) -> None:
    """Copy what belongs to a model but is neither weights nor settings, where `folder` has no such file yet."""
    for path in sorted(source.iterdir()):
        kept = path.suffix in _SIDE_SUFFIXES or path.name.upper().startswith(_SIDE_NAMES)
        if not kept or not path.is_file() or path.name.endswith(".index.json") or path.name.startswith("."):
            continue
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)


def _structure(layers: Mapping[str, FGMPLinear]) -> dict[str, Any]:
    names: dict[int, str] = {}
    linears, sites = {}, {}
    for name, layer in layers.items():
        quantizer = layer.quantizer
        if quantizer is not None and id(quantizer) not in names:
            names[id(quantizer)] = name
            settings = quantizer.settings
            sites[name] = {
                "channels": layer.in_features,
                "tensor_exponent": settings.exponent,
                "mode": settings.mode,
                "threshold": [settings.threshold.significand, settings.threshold.exponent],
                "four_over_six": settings.four_over_six,
                "channel_codes": settings.channel_codes is not None,
                "readers": quantizer.readers,
            }
        linears[name] = {
            "shape": [layer.out_features, layer.in_features],
            "tensor_exponent": layer.weight_exponent,
            "fp4_blocks": layer.fp4_blocks,
            "site": None if quantizer is None else names[id(quantizer)],
        }
    return {"linears": linears, "sites": sites}


def saved_tensors(model: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The state to be saved, in `dtype` where that loses nothing.

    Of tensors that share memory it has only the first; the others are tied again on loading.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[Any, ...]] = set()
    for name, tensor in model.state_dict().items():
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        if name.endswith(f".{REGISTERS}") or (tensor.numel() and key in seen):
            continue
        seen.add(key)
        tensors[name] = tensor if dtype is None else _narrowed(tensor, dtype)
    return tensors


def _narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A float tensor in `dtype`, unless that would change a value."""
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    narrow = tensor.to(dtype)
    return narrow if torch.equal(narrow.to(tensor.dtype), tensor) else tensor
