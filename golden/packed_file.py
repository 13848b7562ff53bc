"""Packed tensors in a safetensors file: versioned, checksummed, written whole or not at all (docs/packed-format.md)."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError, first_line
from ..files import whole_file
from .packing import Packed, unpack
from .schema import Digest, Exponent, Name, Size, Strict, printable, validated

__all__ = ["FORMAT_VERSION", "load_packed", "save_packed"]

FORMAT_VERSION = "1"
_PARTS = ("weight_mask", "weight_scale", "weight")


def save_packed(path: Path, tensors: Mapping[str, Packed]) -> None:
    """Write `tensors` to `path`, under a temporary name first."""
    flat: dict[str, Tensor] = {}
    index: dict[str, Any] = {}
    for name, packed in tensors.items():
        parts = dict(zip(_PARTS, (packed.mask, packed.scales, packed.payload), strict=True))
        flat.update({f"{name}.{part}": tensor.contiguous() for part, tensor in parts.items()})
        index[name] = {
            "shape": list(packed.shape),
            "tensor_exponent": packed.exponent,
            "sha256": _digest(parts),
        }
    text = json.dumps(index, sort_keys=True)
    metadata = {
        "format": "fgmp",
        "version": FORMAT_VERSION,
        "tensors": text,
        "tensors_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    with whole_file(path) as partial:
        save_file(flat, partial, metadata)
        partial.chmod(0o644)  # safetensors writes for the owner only


def load_packed(path: str | Path) -> dict[str, Packed]:
    """Read a packed file and verify every checksum.

    Raises InputError for a file that is missing, truncated, altered, not ours or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"packed file {path}: not found, expected a .safetensors file written by fgmp")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no dictionary)
        _check_metadata(path, metadata)
        index = validated(dict[Name, _Entry], metadata.get("tensors", ""), f"packed file {path}: index")
        expected = {f"{name}.{part}" for name in index for part in _PARTS}
        for name in sorted(set(kinds) ^ expected):
            raise InputError(f"packed file {path}: tensor {printable(name)} is missing or unexpected")
        for name, kind in kinds.items():
            if kind != "U8":
                raise InputError(f"packed file {path}: tensor {name} is {kind}, expected U8")
        flat = load_file(path)
    except InputError:
        raise
    except Exception as error:  # safetensors raises its own type and, for broken offsets or dtypes, several others
        reason = first_line(error)
        raise InputError(f"packed file {path}: not a whole safetensors file ({reason})") from None
    return {name: _checked(path, name, entry, flat) for name, entry in index.items()}


def _check_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != "fgmp":
        raise InputError(f"packed file {path}: format {metadata.get('format')!r}, expected 'fgmp'")
    if metadata.get("version") != FORMAT_VERSION:
        raise InputError(f"packed file {path}: version {metadata.get('version')!r}, expected {FORMAT_VERSION!r}")
    text = metadata.get("tensors", "")
    if hashlib.sha256(text.encode()).hexdigest() != metadata.get("tensors_sha256"):
        raise InputError(f"packed file {path}: the checksum of its index does not match, the file was altered")


class _Entry(Strict):
    """A matrix's entry in the index."""

    shape: tuple[Size, Size]
    tensor_exponent: Exponent
    sha256: Digest


def _checked(path: Path, name: str, entry: _Entry, flat: Mapping[str, Tensor]) -> Packed:
    parts = {part: flat[f"{name}.{part}"] for part in _PARTS}
    if _digest(parts) != entry.sha256:
        raise InputError(f"packed file {path}: the checksum of tensor {name} does not match, the file was altered")
    packed = Packed(entry.shape, entry.tensor_exponent, *(parts[part] for part in _PARTS))
    unpack(packed, f"packed file {path}: {name}")  # all rules, for every reader
    return packed


def _digest(parts: Mapping[str, Tensor]) -> str:
    """SHA-256 over dtype, shape and bytes of the three parts."""
    digest = hashlib.sha256()
    for part in _PARTS:
        tensor = parts[part]
        digest.update(f"{part} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
