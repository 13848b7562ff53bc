"""`fgmp convert`: a checkpoint of a foreign format, or a folder of ours, into a folder that others load."""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ...errors import InputError
from ...files import check_folder, staged
from ...golden.schema import printable
from ..model.folder import Header, headers
from ..model.language_model import DTYPES, check_model_folder, is_quantized
from ..model.manifest import read_settings
from ..model.save import copy_side_files
from ..model.shards import Shard, write_shards
from .compressed_tensors import CompressedTensors
from .export import export
from .fine_grained_fp8 import FineGrainedFP8
from .foreign import Foreign
from .modelopt import ModelOpt

__all__ = ["FOREIGN", "TARGETS", "convert", "foreign_format"]

FOREIGN: tuple[Foreign, ...] = (CompressedTensors(), ModelOpt(), FineGrainedFP8())
"""Formats that can be read."""

TARGETS = ("plain", "compressed-tensors")

_CODES = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "U8", "I8")
_UNKNOWN = re.compile(
    r"(weight_scale\w*|\w*_scale_inv|qscale_\w+|\w*weight_packed|weight_zero_point|bitmask|compressed)$"
)
"""Names of tensors that stand for weights; nothing of the kind may be left over."""


def foreign_format(folder: Path) -> tuple[Foreign, dict[str, Any]] | None:
    """The foreign format of a checkpoint and its settings; None for a plain one.

    Raises InputError for a quantized one that is not known.
    """
    config = read_settings(folder)
    inner = config.get("text_config")
    settings = config.get("quantization_config")
    if settings is None and isinstance(inner, dict):
        settings = inner.get("quantization_config")
    beside = folder / "hf_quant_config.json"  # ModelOpt's
    if settings is None and beside.is_file():
        try:
            settings = json.loads(beside.read_text())
        except ValueError:
            raise InputError(
                f"model folder {folder}: {beside.name} is not JSON, expected ModelOpt's settings"
            ) from None
    if settings is None:
        return None
    if not isinstance(settings, dict):
        raise InputError(f"model folder {folder}: quantization_config {settings!r}, expected an object")
    try:
        for foreign in FOREIGN:
            if foreign.recognizes(settings):
                return foreign, settings
    except InputError as error:
        raise InputError(f"model folder {folder}: {error}") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        what = printable(f"{type(error).__name__}: {error}")
        raise InputError(f"model folder {folder}: quantization settings that nobody writes so ({what})") from None
    method = settings.get("quant_method")
    names = ", ".join(foreign.name for foreign in FOREIGN)
    raise InputError(f"model folder {folder}: quantized by {method!r}, expected one of {names}")


def convert(
    source: Path, out: Path, *, to: str = "plain", dtype: str | None = None, max_shard_bytes: int = 4 << 30,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Write `out`, a new folder, from `source`; returns what was done with the linears.

    A foreign checkpoint becomes a plain one, shard by shard: `dtype` is that of weights that were quantized (default:
    the checkpoint's own). A folder that fgmp quantized becomes a plain one, or for "compressed-tensors" one whose
    uniform linears stay packed. `on_tensor` is told how many tensors are done, of how many.

    Raises InputError if `out` exists, for sources that are neither, and tensors that do not fit together.
    """
    if to not in TARGETS:
        raise InputError(f"to: {to!r}, expected {' or '.join(TARGETS)}")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype: {dtype!r}, expected one of {', '.join(DTYPES)}")
    if not source.is_dir():
        raise InputError(f"model folder {source}: not found, expected a folder with config.json and safetensors")
    if out.exists():
        raise InputError(f"output {out}: exists already, expected the name of a new folder")
    check_folder(out, "the name of a new folder")
    own = is_quantized(source)
    found = None if own else foreign_format(source)
    if not own and found is None:
        raise InputError(f"model folder {source}: is not quantized, expected a model that is")
    if not own and to != "plain":
        raise InputError(f"--to {to}: given for a model of another format, expected plain")
    with staged(out) as work:
        if own:
            return export(source, work, to, dtype, max_shard_bytes)
        assert found is not None
        return _import(source, work, *found, dtype, max_shard_bytes, on_tensor)


def _import(
    source: Path, out: Path, foreign: Foreign, settings: Mapping[str, Any], dtype: str | None, limit: int,
    on_tensor: Callable[[int, int], None],
) -> dict[str, Any]:  # fmt: skip
    config = read_settings(source)
    wanted = DTYPES[dtype] if dtype else _own_dtype(config)
    found = _tensors(source)
    if refused := [name for name in found if name.rpartition(".")[2] in foreign.refused]:
        raise InputError(f"model folder {source}: tensor {refused[0]}, expected weights that need none")
    linears = _linears(foreign, found)
    if not linears:
        raise InputError(f"model folder {source}: no weights of {foreign.name}, expected at least one linear's")
    taken = {name for parts in linears.values() for name in parts.values()}
    shards: dict[str, Shard] = {}
    for name, header in found.items():
        if name in taken:
            continue
        if name.endswith(tuple(f".{dropped}" for dropped in foreign.dropped)):
            continue
        if header.dtype in _CODES or _UNKNOWN.search(name):
            raise InputError(
                f"model folder {source}: tensor {printable(name)}, {header.dtype}: nothing of {foreign.name} that is "
                "known here, expected weights with their scales"
            )
        shards[name] = Shard(_bytes(header), partial(_read, source, header, name))
    for stem, parts in linears.items():
        shape = _weight_shape(found, parts)
        size = shape[0] * shape[1] * torch.empty(0, dtype=wanted).element_size()
        shards[f"{stem}.weight"] = Shard(size, partial(_decoded, source, found, parts, foreign, settings, wanted, stem))
    order = sorted(shards)
    write_shards(out, {name: shards[name] for name in order}, limit, on_tensor)
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            part.pop("quantization_config", None)
            for key in {"dtype", "torch_dtype"} & part.keys():
                part[key] = str(wanted).removeprefix("torch.")
    config.setdefault("dtype" if "torch_dtype" not in config else "torch_dtype", str(wanted).removeprefix("torch."))
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    copy_side_files(source, out)
    (out / "hf_quant_config.json").unlink(missing_ok=True)
    return {
        "from": foreign.name,
        "to": "plain",
        "linears": len(linears),
        "dtype": str(wanted).removeprefix("torch."),
        "tensors": len(shards),
    }


def _tensors(folder: Path) -> dict[str, Header]:
    """The tensors of a checkpoint: those that its index names, or of its one file.

    Raises InputError for files that are missing; others that lie there belong to other programs.
    """
    check_model_folder(folder)
    found = headers(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        where = json.loads(index.read_text())["weight_map"]
        for name, file in where.items():
            if name not in found:
                raise InputError(f"model folder {folder}: tensor {printable(name)} is not in {file}, expected it there")
        return {name: found[name]._replace(file=where[name]) for name in where}
    if (folder / "model.safetensors").is_file():
        return {name: header for name, header in found.items() if header.file == "model.safetensors"}
    return found


def _own_dtype(config: Mapping[str, Any]) -> torch.dtype:
    """What the checkpoint says that it computes in; bfloat16 if it says nothing."""
    for part in (config, config.get("text_config")):
        for key in ("dtype", "torch_dtype"):
            value = part.get(key) if isinstance(part, dict) else None
            if isinstance(value, str) and value in DTYPES:
                return DTYPES[value]
    return torch.bfloat16


def _linears(foreign: Foreign, found: Mapping[str, Header]) -> dict[str, dict[str, str]]:
    """Of each quantized linear, its tensors' names by part."""
    stems = {name.rpartition(".")[0]: None for name in found if name.rpartition(".")[2] in foreign.parts}
    linears = {}
    for stem in stems:
        parts = {part: f"{stem}.{part}" for part in foreign.parts if f"{stem}.{part}" in found}
        if foreign.is_linear({part: found[name].dtype for part, name in parts.items()}):
            linears[stem] = parts
    return linears


def _weight_shape(found: Mapping[str, Header], parts: Mapping[str, str]) -> tuple[int, int]:
    header = found[parts.get("weight_packed") or parts["weight"]]
    if len(header.shape) != 2:
        raise InputError(f"tensor {parts.get('weight')}: {len(header.shape)} dimensions, expected two")
    return header.shape[0], header.shape[1] * (2 if header.dtype == "U8" else 1)


def _bytes(header: Header) -> int:
    width = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2}.get(header.dtype, 1)
    return width * int(torch.Size(header.shape).numel())


def _read(folder: Path, header: Header, name: str) -> Tensor:
    with safe_open(folder / header.file, "pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def _decoded(
    folder: Path, found: Mapping[str, Header], parts: Mapping[str, str], foreign: Foreign,
    settings: Mapping[str, Any], dtype: torch.dtype, stem: str,
) -> Tensor:  # fmt: skip
    tensors = {part: _read(folder, found[name], name) for part, name in parts.items()}
    try:
        values = foreign.decode(tensors, settings)
    except InputError as error:
        raise InputError(f"model folder {folder}: linear {stem}: {error}") from None
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        what = printable(f"{type(error).__name__}: {error}")
        raise InputError(f"model folder {folder}: linear {stem}: tensors that do not fit together ({what})") from None
    narrow = values.to(dtype)
    if not torch.isfinite(narrow).all():
        what = "NaN or infinity in its weight" if not torch.isfinite(values).all() else f"beyond {dtype}"
        raise InputError(f"model folder {folder}: linear {stem}: {what}, expected numbers")
    return narrow
