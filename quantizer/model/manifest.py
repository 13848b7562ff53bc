"""The manifest of a quantized folder: the `quantization_config` of its config.json (docs/packed-format.md)."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from ...errors import InputError
from ...formats import BLOCK_SIZE, THRESHOLD_EXPONENT_BITS, THRESHOLD_SIGNIFICAND_BITS, ceil_div
from ...golden.packing import packed_sizes
from ...golden.schema import Digest, Exponent, Name, Size, Strict, json_object, validated
from ...golden.selector import SiteSettings, Threshold
from ..config import FGMPConfig

__all__ = [
    "FOLDER_VERSION",
    "QUANT_METHOD",
    "LayerInfo",
    "check_manifest",
    "json_digest",
    "read_manifest",
    "read_settings",
    "site_settings",
]

QUANT_METHOD = "fgmp"
FOLDER_VERSION = "2"
_VERSIONS = ("1", FOLDER_VERSION)
"""Version 1 covers no other files than the weights, and knows no module that stands in several places."""


class _Linear(Strict):
    shape: tuple[Size, Size]
    tensor_exponent: Exponent
    fp4_blocks: Annotated[int, Field(ge=0)]
    site: Name | None


class _Site(Strict):
    channels: Size
    tensor_exponent: Exponent
    mode: Literal["dynamic", "static", "all_fp4", "all_fp8"]
    threshold: tuple[
        Annotated[int, Field(ge=0, lt=1 << THRESHOLD_SIGNIFICAND_BITS)],
        Annotated[int, Field(ge=0, lt=1 << THRESHOLD_EXPONENT_BITS)],
    ]
    four_over_six: bool
    channel_codes: bool
    readers: Size


_File = Annotated[str, Field(pattern=r"^[\w+@%=,~-][\w.+@%=, ~-]*(/[\w+@%=,~-][\w.+@%=, ~-]*)*$", max_length=512)]


class _Expected(Strict):
    pairs: dict[str, float]
    pj: float
    energy: float
    bits: float
    scores: dict[str, list[float]] | None = None


class _Manifest(Strict):
    quant_method: Literal["fgmp"]
    version: Literal["1", "2"]
    config: FGMPConfig
    base_model: str | None
    calibration: Digest | None
    expected: _Expected | None = None
    linears: Annotated[dict[Name, _Linear], Field(min_length=1)]
    sites: dict[Name, _Site]
    files: Annotated[dict[_File, Digest], Field(min_length=1)]
    aliases: dict[Name, Name] = {}
    tensors: dict[Name, tuple[Name, list[Annotated[int, Field(ge=0, lt=1 << 40)]]]] = {}
    settings: Digest
    sha256: Digest


def read_settings(folder: Path) -> dict[str, Any]:
    """The object in a folder's config.json. Raises InputError if there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"model folder {folder}: no config.json, expected a folder that fgmp quantize wrote")
    return json_object(
        path.read_bytes(),
        lambda reason: InputError(f"model folder {folder}: config.json is {reason}, expected a model's settings"),
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The `quantization_config` of a folder.

    Raises InputError for anything that is not a whole quantized model of a known version.
    """
    manifest: Any = read_settings(folder).get("quantization_config")
    check_manifest(manifest, folder)
    return {"aliases": {}, "tensors": {}, **manifest}


def check_manifest(manifest: Any, folder: Path | str) -> None:
    """Raise InputError unless `manifest` is of this method and a known version, unaltered, and consistent."""
    where = f"model folder {folder}"
    found = manifest.get("quant_method") if isinstance(manifest, dict) else None
    if not isinstance(manifest, dict) or found != QUANT_METHOD:
        raise InputError(f"{where}: quant_method {found!r}, expected {QUANT_METHOD!r}")
    if manifest.get("version") not in _VERSIONS:
        raise InputError(f"{where}: version {manifest.get('version')!r}, expected {' or '.join(_VERSIONS)}")
    if json_digest(manifest) != manifest.get("sha256"):
        raise InputError(f"{where}: the checksum of quantization_config does not match, it was altered")
    checked = validated(_Manifest, json.dumps(manifest), f"{where}: quantization_config")
    FGMPConfig.from_dict(manifest["config"])  # which knows its keys
    readers: dict[str, int] = {}
    for name, linear in checked.linears.items():
        rows, columns = linear.shape
        if linear.fp4_blocks > rows * ceil_div(columns, BLOCK_SIZE):
            raise InputError(f"{where}: linear {name}: {linear.fp4_blocks} FP4 blocks, expected no more than it has")
        if linear.site is None:
            continue
        site = checked.sites.get(linear.site)
        if site is None or site.channels != columns:
            raise InputError(f"{where}: linear {name}: site {linear.site!r}, expected one of {columns} channels")
        readers[linear.site] = readers.get(linear.site, 0) + 1
    for name, site in checked.sites.items():
        if site.readers > readers.get(name, 0):
            raise InputError(f"{where}: site {name}: {site.readers} readers, expected at most {readers.get(name, 0)}")


def site_settings(manifest: Mapping[str, Any]) -> dict[str, SiteSettings]:
    """Each site's settings as the manifest has it; patterns and channel codes are empty until the shards fill them."""
    settings = {}
    for name, site in manifest["sites"].items():
        blocks = ceil_div(site["channels"], BLOCK_SIZE)
        static = torch.zeros(blocks, dtype=torch.bool) if site["mode"] == "static" else None
        codes = torch.zeros(blocks, BLOCK_SIZE, dtype=torch.uint8) if site["channel_codes"] else None
        settings[name] = SiteSettings(
            site["tensor_exponent"],
            Threshold(*site["threshold"]),
            site["mode"],
            static_fp8=static,
            channel_codes=codes,
            four_over_six=site["four_over_six"],
        )
    return settings


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
        return self.shape[0] * ceil_div(self.shape[1], BLOCK_SIZE)

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the three byte tensors, by the ends of their names."""
        mask, scale, payload = packed_sizes(self.shape, self.fp4_blocks)
        return {"weight_mask": mask, "weight_scale": (scale,), "weight": (payload,)}

    @property
    def bytes(self) -> int:
        """Bytes of the three tensors."""
        mask, scale, payload = packed_sizes(self.shape, self.fp4_blocks)
        return mask[0] * mask[1] + scale + payload


def json_digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of an object as JSON, without what cannot be in it: its own digest, the object that holds it."""
    text = json.dumps({k: v for k, v in values.items() if k not in ("sha256", "quantization_config")}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
