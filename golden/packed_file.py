"""Packed tensors in a safetensors file: versioned, checksummed, written whole or not at all (docs/packed-format.md)."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError
from ..files import whole_file
from .packing import Packed

__all__ = ["FORMAT_VERSION", "load_packed", "save_packed"]

FORMAT_VERSION = "1"
_PARTS = ("weight_mask", "weight_scale", "weight")


def save_packed(path: Path, tensors: Mapping[str, Packed]) -> None:
    """Write `tensors` to `path`, under a temporary name first."""
    flat: dict[str, Tensor] = {}
    index: dict[str, Any] = {}
    for name, packed in tensors.items():
        parts = dict(zip(_PARTS, (packed.mask, packed.scale, packed.payload), strict=True))
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


def load_packed(path: Path) -> dict[str, Packed]:
    """Read a packed file and verify every checksum.

    Raises InputError for a file that is missing, truncated, altered, not ours or of another version.
    """
    if not path.is_file():
        raise InputError(f"packed file {path}: not found, expected a .safetensors file written by fgmp")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        flat = load_file(path)
    except Exception as error:  # safetensors raises its own type and, for broken offsets or dtypes, several others
        reason = str(error).splitlines()[0]
        raise InputError(f"packed file {path}: not a whole safetensors file ({reason})") from None
    if metadata.get("format") != "fgmp":
        raise InputError(f"packed file {path}: format {metadata.get('format')!r}, expected 'fgmp'")
    if metadata.get("version") != FORMAT_VERSION:
        raise InputError(f"packed file {path}: version {metadata.get('version')!r}, expected {FORMAT_VERSION!r}")
    text = metadata.get("tensors", "")
    if hashlib.sha256(text.encode()).hexdigest() != metadata.get("tensors_sha256"):
        raise InputError(f"packed file {path}: the checksum of its index does not match, the file was altered")
    index = json.loads(text)
    expected = {f"{name}.{part}" for name in index for part in _PARTS}
    if set(flat) != expected:
        odd = sorted(set(flat) ^ expected)[0]
        raise InputError(f"packed file {path}: tensor {odd} is missing or unexpected")
    return {name: _checked(path, name, entry, flat) for name, entry in index.items()}


def _checked(path: Path, name: str, entry: dict[str, Any], flat: Mapping[str, Tensor]) -> Packed:
    parts = {part: flat[f"{name}.{part}"] for part in _PARTS}
    try:
        (rows, columns), exponent, digest = entry["shape"], entry["tensor_exponent"], entry["sha256"]
        legal = all(isinstance(n, int) for n in (rows, columns, exponent)) and min(rows, columns) > 0
    except (KeyError, TypeError, ValueError):
        legal = False
    if not legal:
        raise InputError(f"packed file {path}: index entry of {name} is {entry}, expected shape, exponent and checksum")
    if _digest(parts) != digest:
        raise InputError(f"packed file {path}: the checksum of tensor {name} does not match, the file was altered")
    return Packed((rows, columns), exponent, *(parts[part] for part in _PARTS))


def _digest(parts: Mapping[str, Tensor]) -> str:
    """SHA-256 over dtype, shape and bytes of the three parts."""
    digest = hashlib.sha256()
    for part in _PARTS:
        tensor = parts[part]
        digest.update(f"{part} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
