"""Read a quantized model's folder (docs/packed-format.md): every file, tensor and rule is checked first."""

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from ...errors import InputError
from ...formats import BLOCK_SIZE, ceil_div
from ...golden.packing import Packed, unpack
from ...golden.schema import json_object, printable
from .manifest import LayerInfo, json_digest, read_manifest, read_settings

__all__ = ["file_digest", "files_of", "headers", "read_folder"]
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_READ_SUFFIXES = (*_WEIGHT_SUFFIXES, ".json", ".jinja", ".model", ".py", ".txt", ".tiktoken")
"""Files that transformers might read: such a file must be one of the folder's own."""

_verified: set[tuple[str, int, int, str]] = set()
_checked: set[tuple[Any, ...]] = set()


class Header(NamedTuple):
    """A tensor as its shard's header has it: safetensors' name of its type, its shape, and the shard's file."""

    dtype: str
    shape: tuple[int, ...]
    file: str


def read_folder(folder: Path) -> dict[str, Any]:
    """The manifest of a quantized folder, after everything that it says was checked: the one reader for all uses.

    Raises InputError unless every file is the one that was written to the last bit, there are no others that would be
    read, and every packed tensor follows all rules of docs/packed-format.md.
    """
    manifest = read_manifest(folder)
    stats = [(file, (folder / file).stat()) for file in files_of(folder)]
    seen = (str(folder.absolute()), manifest["sha256"], *((f, s.st_size, s.st_mtime_ns) for f, s in stats))
    _check_files(folder, manifest)
    found = headers(folder)
    _check_size(folder, read_settings(folder), len(found))
    if seen not in _checked:  # in this process, and untouched since
        with torch.device("cpu"):  # transformers loads in the context of the meta device
            _check_headers(folder, manifest, found)
            _check_tensors(folder, manifest, found)
        _checked.add(seen)
    return manifest


def _check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    files = manifest["files"]
    whole = manifest["version"] != "1"
    for file in files_of(folder):
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
        if file_digest(path) != digest:
            raise InputError(f"model folder {folder}: the checksum of {file} does not match, the file was altered")
        _verified.add(seen)


_COUNTED = ("layers", "n_layer", "n_layers", "depth", "n_blocks", "num_blocks")


def _check_size(folder: Path, settings: Mapping[str, Any], held: int) -> None:
    """Refuse settings that ask for more layers than the `held` tensors can make up, before any is made."""
    for key, value in settings.items():
        if isinstance(value, dict) and key != "quantization_config":
            _check_size(folder, value, held)
        elif isinstance(value, int) and value > held and (key in _COUNTED or key.endswith("_layers")):
            raise InputError(
                f"model folder {folder}: {key} {value}, expected no more than the {held} tensors of its weights"
            )


def headers(folder: Path) -> dict[str, Header]:
    """Type, shape and file of every tensor in a folder's shards, by name; each shard is opened once."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dictionary)
                    part = file.get_slice(name)
                    found[name] = Header(part.get_dtype(), tuple(part.get_shape()), path.name)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"model folder {folder}: {path.name} is no safetensors file ({error})") from None
    return found


def _check_headers(folder: Path, manifest: Mapping[str, Any], found: Mapping[str, Header]) -> None:
    """Every tensor that was written is there, as it was, and no other; the index says where."""
    where = f"model folder {folder}"
    expected = {name: (dtype, tuple(shape)) for name, (dtype, shape) in manifest["tensors"].items()}
    for name in sorted(set(found) | set(expected)) if manifest["version"] != "1" else ():
        _check_header(f"{where}: tensor {printable(name)}", found.get(name), expected.get(name))
    _check_index(folder, found)
    for entry in (LayerInfo(name, entry) for name, entry in manifest["linears"].items()):
        for part, shape in entry.tensors.items():
            name = f"{entry.name}.{part}"
            _check_header(f"{where}: tensor {name}", found.get(name), ("U8", shape))
    for name, site in manifest["sites"].items():
        blocks = ceil_div(site["channels"], BLOCK_SIZE)
        static = ("BOOL", (blocks,)) if site["mode"] == "static" else None
        codes = ("U8", (blocks, BLOCK_SIZE)) if site["channel_codes"] else None
        for full, kind in ((f"{name}.input_static_fp8", static), (f"{name}.input_channel_codes", codes)):
            _check_header(f"{where}: tensor {full}", found.get(full), kind)


def _check_header(what: str, found: Header | None, expected: tuple[str, tuple[int, ...]] | None) -> None:
    """Raise InputError, beginning with `what`, unless a tensor has the type and shape expected; None: no tensor."""
    if (found and found[:2]) != expected:
        shown = ("none" if kind is None else f"{kind[0]} {kind[1]}" for kind in (found, expected))
        raise InputError("{} is {}, expected {}".format(what, *shown))


def _check_index(folder: Path, found: Mapping[str, Header]) -> None:
    where = {name: header.file for name, header in found.items()}
    index = folder / "model.safetensors.index.json"
    if len(set(where.values())) > 1 or index.is_file():
        content = json_object(
            index.read_bytes() if index.is_file() else b"",
            lambda reason: InputError(f"model folder {folder}: {index.name} is {reason}, expected a weight_map"),
        )
        if content.get("weight_map") != where:
            raise InputError(f"model folder {folder}: {index.name} does not say where each tensor is")


def _check_tensors(folder: Path, manifest: Mapping[str, Any], found: Mapping[str, Header]) -> None:
    """The content of packed tensors and channel codes, one linear at a time."""
    with ExitStack() as stack:
        opened = {
            file: stack.enter_context(safe_open(folder / file, "pt")) for file in {h.file for h in found.values()}
        }

        def read(name: str) -> Any:
            return opened[found[name].file].get_tensor(name)

        for name in found:
            if name.endswith(".input_channel_codes") and (read(name) > 15).any():
                raise InputError(f"model folder {folder}: tensor {name} has codes above 15")
        for info in (LayerInfo(name, entry) for name, entry in manifest["linears"].items()):
            parts = [read(f"{info.name}.{part}") for part in info.tensors]
            tensor = unpack(Packed(info.shape, info.exponent, *parts), f"model folder {folder}: {info.name}")
            fp4 = int((~tensor.fp8).sum())
            if fp4 != info.fp4_blocks:
                raise InputError(f"model folder {folder}: {info.name} has {fp4} FP4 blocks, expected {info.fp4_blocks}")


def files_of(folder: Path) -> list[str]:
    """All files of a folder but its config.json, which holds their digests, and hidden ones."""
    found = (p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file())
    return [file for file in found if file != "config.json" and not file.startswith(".")]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
