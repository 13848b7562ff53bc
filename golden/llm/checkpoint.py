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
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...errors import InputError
from ..formats import TENSOR_EXPONENT_LIMIT
from ..packing import Packed, packed_sizes, unpack
from ..selector import SiteRegisters, Threshold
from .config import FGMPConfig
from .layers import FGMPLinear
from .thresholds import SitePlan

__all__ = [
    "FOLDER_VERSION",
    "QUANT_METHOD",
    "LayerInfo",
    "check_linears",
    "check_manifest",
    "read_manifest",
    "save",
    "site_plans",
    "verify",
    "write_folder",
]

QUANT_METHOD = "fgmp"
FOLDER_VERSION = "1"
_MAX_SHARD = 4 << 30
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_verified: set[tuple[str, int, int, str]] = set()


def save(
    model: Any,
    folder: Path | str,
    *,
    tokenizer: Any = None,
    base_model: str | None = None,
    max_shard_bytes: int = _MAX_SHARD,
) -> None:
    """Write a quantized `model` to a new `folder`, with its tokenizer and generation config if there are any.

    Everything is written beside it first and renamed at the end. Raises InputError if the folder exists or the model
    holds no quantized layer.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"output {folder}: exists already, expected the name of a new folder")
    partial = folder.with_name(folder.name + ".writing")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write_folder(model, partial, tokenizer=tokenizer, base_model=base_model, max_shard_bytes=max_shard_bytes)
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
) -> None:
    """Write a quantized model's files into an existing empty `folder`; `calibration` is a digest of the samples."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, FGMPLinear)}
    if not layers:
        raise InputError(f"model {type(model).__name__}: holds no quantized layer, expected one that quantize() made")
    files = _write_shards(model, folder, max_shard_bytes)
    settings: dict[str, Any] = {"architectures": [type(model).__name__]}
    if hasattr(model, "config"):
        config = copy.deepcopy(model.config)
        config.architectures = settings["architectures"]
        config.__dict__.pop("quantization_config", None)
        config.save_pretrained(folder)
        settings = json.loads((folder / "config.json").read_text())
    manifest = {
        "quant_method": QUANT_METHOD,
        "version": FOLDER_VERSION,
        "config": model.fgmp_config.as_dict(),
        "base_model": base_model,
        "calibration": calibration,
        **_structure(layers),
        "files": files,
        "settings": _json_digest(settings),
    }
    manifest["sha256"] = _json_digest(manifest)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    settings["quantization_config"] = manifest
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner only


def read_manifest(folder: Path) -> dict[str, Any]:
    """The `quantization_config` of a folder.

    Raises InputError for anything that is not a whole quantized model of this version.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"model folder {folder}: no config.json, expected a folder that fgmp quantize wrote")
    try:
        manifest = json.loads(path.read_text()).get("quantization_config")
    except (ValueError, AttributeError):
        raise InputError(f"model folder {folder}: config.json is not JSON, expected a model's settings") from None
    check_manifest(manifest, folder)
    return manifest


def check_manifest(manifest: Any, folder: Path | str) -> None:
    """Raise InputError unless `manifest` is of this method and version, unaltered, and consistent."""
    if not isinstance(manifest, dict) or manifest.get("quant_method") != QUANT_METHOD:
        found = manifest.get("quant_method") if isinstance(manifest, dict) else None
        raise InputError(f"model folder {folder}: quant_method {found!r}, expected {QUANT_METHOD!r}")
    if manifest.get("version") != FOLDER_VERSION:
        raise InputError(f"model folder {folder}: version {manifest.get('version')!r}, expected {FOLDER_VERSION!r}")
    if _json_digest(manifest) != manifest.get("sha256"):
        raise InputError(f"model folder {folder}: the checksum of quantization_config does not match, it was altered")
    try:
        texts = [*manifest["files"], *manifest["files"].values(), manifest["settings"]]
        whole = [s["readers"] for s in manifest["sites"].values()]
        whole += [
            n for li in manifest["linears"].values() for n in (*li["shape"], li["fp4_blocks"], li["tensor_exponent"])
        ]
        base = manifest["base_model"]
        if not (manifest["linears"] and manifest["files"] and (base is None or isinstance(base, str))):
            raise ValueError
        if not all(isinstance(t, str) for t in texts) or not all(type(n) is int for n in whole):
            raise ValueError
        for name, linear in manifest["linears"].items():
            rows, columns = linear["shape"]
            legal = rows > 0 < columns and 0 <= linear["fp4_blocks"] <= rows * -(-columns // 16)
            legal &= abs(linear["tensor_exponent"]) <= TENSOR_EXPONENT_LIMIT
            if not legal or (linear["site"] is not None and linear["site"] not in manifest["sites"]):
                raise InputError(f"model folder {folder}: entry of linear {name} is {linear}, expected a legal one")
        site_plans(manifest)
        FGMPConfig.from_dict(manifest["config"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"model folder {folder}: quantization_config lacks what version 1 has") from None


def verify(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise InputError unless every file is there, is the one that was written to the last bit, and no others are."""
    for path in sorted(folder.iterdir()):
        if path.suffix in _WEIGHT_SUFFIXES and path.name not in manifest["files"]:
            raise InputError(f"model folder {folder}: {path.name} is none of its files, expected only those")
    try:
        settings = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        raise InputError(f"model folder {folder}: config.json is not JSON, expected a model's settings") from None
    if _json_digest(settings) != manifest["settings"]:
        raise InputError(f"model folder {folder}: the checksum of config.json does not match, it was altered")
    for file, digest in manifest["files"].items():
        path = folder / file
        if Path(file).name != file or not path.is_file():
            raise InputError(f"model folder {folder}: file {file} is missing, expected those that were written")
        stat = path.stat()
        seen = (str(path.absolute()), stat.st_size, stat.st_mtime_ns, digest)
        if seen in _verified:  # in this process, and untouched since
            continue
        if _file_digest(path) == digest:
            _verified.add(seen)
        else:
            raise InputError(f"model folder {folder}: the checksum of {file} does not match, the file was altered")


def check_linears(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise InputError unless every linear's three tensors are there and follow all rules of docs/packed-format.md."""
    files = sorted(file for file in manifest["files"] if file.endswith(".safetensors"))
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(folder / file, "pt")) for file in files]
        where = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        for name, entry in manifest["linears"].items():
            info = LayerInfo(name, entry)
            parts = {}
            for part in ("weight_mask", "weight_scale", "weight"):
                if f"{name}.{part}" not in where:
                    raise InputError(f"model folder {folder}: tensor {name}.{part} is missing")
                parts[part] = where[f"{name}.{part}"].get_tensor(f"{name}.{part}")
            tensor = unpack(Packed(info.shape, info.exponent, *parts.values()), f"model folder {folder}: {name}")
            found = int((~tensor.mask).sum())
            if found != info.fp4_blocks:
                raise InputError(f"model folder {folder}: {name} has {found} FP4 blocks, expected {info.fp4_blocks}")


def site_plans(manifest: Mapping[str, Any]) -> dict[str, SitePlan]:
    """Each site's plan as the manifest has it; patterns and channel codes are empty until the shards fill them."""
    plans = {}
    for name, site in manifest["sites"].items():
        registers = SiteRegisters(site["tensor_exponent"], Threshold(*site["threshold"]), site["mode"])
        blocks = -(-site["channels"] // 16)
        static = torch.zeros(blocks, dtype=torch.bool) if site["mode"] == "static" else None
        codes = torch.zeros(blocks, 16, dtype=torch.uint8) if site["channel_codes"] else None
        plans[name] = SitePlan(registers, static, codes, site["four_over_six"])
    return plans


class LayerInfo:
    """One linear as a manifest describes it: sizes that follow from shape and FP4 blocks."""

    def __init__(self, name: str, entry: Mapping[str, Any]):
        self.name = name
        self.shape: tuple[int, int] = tuple(entry["shape"])
        self.exponent: int = entry["tensor_exponent"]
        self.fp4_blocks: int = entry["fp4_blocks"]
        self.site: str | None = entry["site"]

    @property
    def blocks(self) -> int:
        """Blocks of the weight."""
        return self.shape[0] * -(-self.shape[1] // 16)

    @property
    def bytes(self) -> int:
        """Bytes of the three tensors."""
        mask, scale, payload = packed_sizes(self.shape, self.fp4_blocks)
        return mask[0] * mask[1] + scale + payload


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


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state to be saved; of tensors that share memory only the first (the others are tied again on loading)."""
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[Any, ...]] = set()
    for name, tensor in model.state_dict().items():
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        tensors[name] = tensor
    return tensors


def _write_shards(model: nn.Module, folder: Path, limit: int) -> dict[str, str]:
    """Write the shards one after the other; returns the digest of each file, the index included."""
    groups: list[list[str]] = [[]]
    size = 0
    tensors = _tensors(model)
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor.nbytes
    digests, where = {}, {}
    for index, names in enumerate(groups, 1):
        file = "model.safetensors" if len(groups) == 1 else f"model-{index:05}-of-{len(groups):05}.safetensors"
        save_file({name: tensors[name].contiguous() for name in names}, folder / file, {"format": "pt"})
        digests[file] = _file_digest(folder / file)
        where.update(dict.fromkeys(names, file))
    if len(groups) > 1:
        index_file = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": where}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index_file, indent=1) + "\n")
        digests[path.name] = _file_digest(path)
    return digests


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of an object as JSON, without what cannot be in it: its own digest, the object that holds it."""
    text = json.dumps({k: v for k, v in values.items() if k not in ("sha256", "quantization_config")}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
