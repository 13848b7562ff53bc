"""Quantized models as folders of safetensors shards (docs/packed-format.md): written whole or not, checksummed."""

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...errors import InputError
from ...files import partial_name
from ...processes import exhausted
from ..packing import Packed, unpack
from ..schema import json_object, printable
from .layers import REGISTERS, FGMPLinear, set_exact
from .manifest import FOLDER_VERSION, QUANT_METHOD, LayerInfo, json_digest, read_manifest, read_settings
from .places import shared_modules

__all__ = ["check_written", "copy_side_files", "read_folder", "save", "write_folder"]

_MAX_SHARD = 4 << 30
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_READ_SUFFIXES = (*_WEIGHT_SUFFIXES, ".json", ".jinja", ".model", ".py", ".txt", ".tiktoken")
"""What transformers might read: such a file must be one of the folder's own."""

_SIDE_SUFFIXES = (".json", ".jinja", ".model", ".py", ".txt", ".tiktoken")
_SIDE_NAMES = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")
_verified: set[tuple[str, int, int, str]] = set()
_checked: set[tuple[Any, ...]] = set()


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
            check_written(model, partial)
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
    _write_shards(model, folder, max_shard_bytes, dtype)
    manifest = {
        "quant_method": QUANT_METHOD,
        "version": FOLDER_VERSION,
        "config": model.fgmp_config.as_dict(),
        "base_model": base_model,
        "calibration": calibration,
        **_structure(layers),
        "tensors": _headers(folder),
        "aliases": shared_modules(model),
        "files": {file: _file_digest(folder / file) for file in _files(folder)},
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


def read_folder(folder: Path) -> dict[str, Any]:
    """The manifest of a quantized folder, after everything that it says was checked: the one reader for all uses.

    Raises InputError unless every file is the one that was written to the last bit, there are no others that would be
    read, and every packed tensor follows all rules of docs/packed-format.md.
    """
    manifest = read_manifest(folder)
    stats = [(file, (folder / file).stat()) for file in _files(folder)]
    seen = (str(folder.absolute()), manifest["sha256"], *((f, s.st_size, s.st_mtime_ns) for f, s in stats))
    _check_files(folder, manifest)
    if seen not in _checked:  # in this process, and untouched since
        with torch.device("cpu"):  # transformers loads in the context of the meta device
            _check_tensors(folder, manifest)
        _checked.add(seen)
    return manifest


def check_written(model: Any, folder: Path, *, trust_remote_code: bool = False) -> None:
    """Raise InputError unless `folder`, loaded again, has every module and tensor of `model` and computes the same.

    The latter on the sample that a causal language model was calibrated with first.
    """
    from .load import load

    again: Any = load(folder, dtype=getattr(model, "dtype", "auto"), trust_remote_code=trust_remote_code)
    odd = _first_difference(model, again) or _other_logits(model, again)
    if odd is not None:
        raise InputError(
            f"output {folder}: {odd} not the same when the written model is loaded again, expected a model that its "
            "settings describe; nothing was written"
        )


def _other_logits(model: Any, again: Any) -> str | None:
    sample = getattr(model, "fgmp_sample", None)
    if sample is None:
        return None
    set_exact(again, next(m.exact for m in model.modules() if isinstance(m, FGMPLinear)))
    ids = sample[None].to(model.device)
    with torch.no_grad():
        try:
            same = torch.equal(again.to(ids.device)(input_ids=ids).logits, model(input_ids=ids).logits)
        except Exception as error:  # whatever the model's own code raises
            exhausted(str(error), "model")
            return f"running it ({(str(error).splitlines() or [type(error).__name__])[0]}) is"
    return None if same else "its logits are"


def _first_difference(model: nn.Module, again: nn.Module) -> str | None:
    theirs = dict(again.named_modules(remove_duplicate=False))
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module).__name__ != type(theirs.get(name)).__name__:
            return f"module {name} ({type(module).__name__}) is"
    tensors = again.state_dict()
    for name, tensor in model.state_dict().items():
        other = tensors.get(name)
        if other is None or not torch.equal(other.to(tensor.device), tensor):
            return f"tensor {name} is"
    return None


def _check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    files = manifest["files"]
    whole = manifest["version"] != "1"
    for file in _files(folder):
        read = _READ_SUFFIXES if whole else _WEIGHT_SUFFIXES
        if file not in files and Path(file).suffix in read:
            raise InputError(f"model folder {folder}: {file} is none of its files, expected only those")
    settings = read_settings(folder)
    if json_digest(settings) != manifest["settings"]:
        raise InputError(f"model folder {folder}: the checksum of config.json does not match, it was altered")
    for file, digest in files.items():
        path = folder / file
        if not path.is_file():
            raise InputError(f"model folder {folder}: file {file} is missing, expected those that were written")
        stat = path.stat()
        seen = (str(path.absolute()), stat.st_size, stat.st_mtime_ns, digest)
        if seen in _verified:  # in this process, and untouched since
            continue
        if _file_digest(path) != digest:
            raise InputError(f"model folder {folder}: the checksum of {file} does not match, the file was altered")
        _verified.add(seen)
    _check_size(folder, settings)


_COUNTED = ("layers", "n_layer", "n_layers", "depth", "n_blocks", "num_blocks")


def _check_size(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse settings that ask for more layers than the weights can hold, before any is made."""
    held = sum(len(names) for names in _tensor_names(folder).values())
    for key, value in settings.items():
        if isinstance(value, dict) and key != "quantization_config":
            _check_size(folder, value)
        elif isinstance(value, int) and value > held and (key in _COUNTED or key.endswith("_layers")):
            raise InputError(
                f"model folder {folder}: {key} {value}, expected no more than the {held} tensors of its weights"
            )


def _tensor_names(folder: Path) -> dict[Path, list[str]]:
    names = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                names[path] = list(file.keys())
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"model folder {folder}: {path.name} is no safetensors file ({error})") from None
    return names


def _headers(folder: Path) -> dict[str, list[Any]]:
    """Type and shape of every tensor, by name."""
    found: dict[str, list[Any]] = {}
    for path in _tensor_names(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dictionary)
                part = file.get_slice(name)
                found[name] = [part.get_dtype(), list(part.get_shape())]
    return found


def _check_headers(folder: Path, manifest: Mapping[str, Any], names: Mapping[Path, list[str]]) -> None:
    """Every tensor that was written is there, as it was, and no other; the index says where."""
    found, expected = _headers(folder), manifest["tensors"]
    for name in sorted(set(found) | set(expected)) if manifest["version"] != "1" else ():
        if found.get(name) != expected.get(name):
            is_, was = _shown(found, name), _shown(expected, name)
            raise InputError(f"model folder {folder}: tensor {printable(name)} is {is_}, expected {was}")
    where = {name: path.name for path, held in names.items() for name in held}
    index = folder / "model.safetensors.index.json"
    if len(names) > 1 or index.is_file():
        content = json_object(
            index.read_bytes() if index.is_file() else b"",
            lambda reason: InputError(f"model folder {folder}: {index.name} is {reason}, expected a weight_map"),
        )
        if content.get("weight_map") != where:
            raise InputError(f"model folder {folder}: {index.name} does not say where each tensor is")
    for name, site in manifest["sites"].items():
        blocks = -(-site["channels"] // 16)
        parts = {"input_static_fp8": site["mode"] == "static", "input_channel_codes": site["channel_codes"]}
        for part, there in parts.items():
            full = f"{name}.{part}"
            kind = ["BOOL", [blocks]] if part == "input_static_fp8" else ["U8", [blocks, 16]]
            if there != (full in where) or (there and found[full] != kind):
                raise InputError(f"model folder {folder}: tensor {full}, expected {kind if there else 'none'}")


def _shown(tensors: Mapping[str, Any], name: str) -> str:
    return f"{tensors[name][0]} {tuple(tensors[name][1])}" if name in tensors else "none"


def _check_tensors(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Sizes and types from the headers first, then the content, one linear at a time."""
    names = _tensor_names(folder)
    _check_headers(folder, manifest, names)
    with ExitStack() as stack:
        opened = {path: stack.enter_context(safe_open(path, "pt")) for path in names}
        where = {name: opened[path] for path, held in names.items() for name in held}
        infos = [LayerInfo(name, entry) for name, entry in manifest["linears"].items()]
        for info in infos:
            for part, shape in info.tensors.items():
                name = f"{info.name}.{part}"
                if name not in where:
                    raise InputError(f"model folder {folder}: tensor {name} is missing")
                found = where[name].get_slice(name)
                if found.get_dtype() != "U8" or tuple(found.get_shape()) != shape:
                    raise InputError(
                        f"model folder {folder}: tensor {name} is {found.get_dtype()} {tuple(found.get_shape())}, "
                        f"expected U8 {shape}"
                    )
        for name, file in where.items():
            if name.endswith(".input_channel_codes") and (file.get_tensor(name) > 15).any():
                raise InputError(f"model folder {folder}: tensor {name} has codes above 15")
        for info in infos:
            parts = [where[f"{info.name}.{part}"].get_tensor(f"{info.name}.{part}") for part in info.tensors]
            tensor = unpack(Packed(info.shape, info.exponent, *parts), f"model folder {folder}: {info.name}")
            fp4 = int((~tensor.mask).sum())
            if fp4 != info.fp4_blocks:
                raise InputError(f"model folder {folder}: {info.name} has {fp4} FP4 blocks, expected {info.fp4_blocks}")


def _structure(layers: Mapping[str, FGMPLinear]) -> dict[str, Any]:
    names: dict[int, str] = {}
    linears, sites = {}, {}
    for name, layer in layers.items():
        site = layer.site
        if site is not None and id(site) not in names:
            names[id(site)] = name
            registers = site.registers
            sites[name] = {
                "channels": layer.in_features,
                "tensor_exponent": registers.exponent,
                "mode": registers.mode,
                "threshold": [registers.threshold.significand, registers.threshold.exponent],
                "four_over_six": site.plan.four_over_six,
                "channel_codes": site.plan.channel_codes is not None,
                "readers": site.readers,
            }
        linears[name] = {
            "shape": [layer.out_features, layer.in_features],
            "tensor_exponent": layer.weight_exponent,
            "fp4_blocks": layer.fp4_blocks,
            "site": None if site is None else names[id(site)],
        }
    return {"linears": linears, "sites": sites}


def _tensors(model: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The state to be saved; of tensors that share memory only the first (the others are tied again on loading)."""
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


def _write_shards(model: nn.Module, folder: Path, limit: int, dtype: torch.dtype | None) -> None:
    """Write the shards one after the other, and their index if there is more than one."""
    groups: list[list[str]] = [[]]
    size = 0
    tensors = _tensors(model, dtype)
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor.nbytes
    where = {}
    for index, names in enumerate(groups, 1):
        file = "model.safetensors" if len(groups) == 1 else f"model-{index:05}-of-{len(groups):05}.safetensors"
        try:
            save_file({name: tensors[name].contiguous() for name in names}, folder / file, {"format": "pt"})
        except SafetensorError as error:
            exhausted(str(error), folder / file)
            raise
        where.update(dict.fromkeys(names, file))
    if len(groups) > 1:
        index_file = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index_file, indent=1) + "\n")


def _files(folder: Path) -> list[str]:
    """All files of a folder but its config.json, which holds their digests, and hidden ones."""
    found = (p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file())
    return [file for file in found if file != "config.json" and not file.startswith(".")]


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
