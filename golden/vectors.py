"""Test vectors for people with benches of their own: npz for Python, hex for Verilog's `$readmemh`, and a manifest.

The same call gives the same bytes anywhere: inputs come from the raw stream of numpy's PCG64, which numpy promises to
keep (it does not for the distributions built on it), and the zip archive carries no times.
"""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..errors import InputError
from ..files import write_files
from ..formats import BLOCK_SIZE, E4M3, MAX_BLOCK_SCALE_CODE, accumulator_bits, ceil_div
from .blocks import Blocks
from .lane import check_k, expected_rows
from .selector import SiteSettings, Threshold, select

__all__ = ["UNITS", "write_vectors"]

UNITS = ("lane", "selector")


_MOST = 1_000_000
"""Rows or blocks in one set of files: of a lane, gigabytes of hexadecimal."""


def write_vectors(unit: str, count: int, seed: int, out: Path, *, k: int = 256, k_max: int = 4096) -> list[Path]:
    """Write `unit`.npz, one `unit`_FIELD.hex per array, and `unit`_manifest.json to `out`; returns the paths.

    `count` rows of `k` values for the lane (accumulator built for `k_max`), `count` blocks for the selector.
    Raises InputError for an unknown unit, a count below 1 or a K that the accumulator does not hold.
    """
    if unit not in UNITS:
        raise InputError(f"unit: {unit!r}, expected one of {', '.join(UNITS)}")
    if not 1 <= count <= _MOST:
        raise InputError(f"count: {count}, expected 1 to {_MOST}")
    if seed < 0:
        raise InputError(f"seed: {seed}, expected at least 0")
    draw = _Draw(seed)
    if unit == "lane":
        if k_max % BLOCK_SIZE:
            raise InputError(f"k_max: {k_max}, expected a multiple of {BLOCK_SIZE}")
        check_k(k, k_max)
        arrays, configuration = _lane(draw, count, k, k_max)
    else:
        arrays, configuration = _selector(draw, count)
    files = {f"{unit}_{name}.hex": _hex(array) for name, array in arrays.items()}
    files[f"{unit}.npz"] = _npz(arrays)
    manifest = {
        "unit": unit,
        "count": count,
        "seed": seed,
        "configuration": configuration,
        "fgmp": __version__,
        "contract": "docs/numerics.md",
        "arrays": {n: {"dtype": str(a.dtype), "shape": list(a.shape)} for n, a in arrays.items()},
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
    }
    files[f"{unit}_manifest.json"] = (json.dumps(manifest, indent=2) + "\n").encode()
    write_files({out / name: content for name, content in files.items()})
    return [out / name for name in sorted(files)]


_Arrays = dict[str, np.ndarray]


class _Draw:
    """Integers from the raw PCG64 stream."""

    def __init__(self, seed: int):
        self._bits = np.random.PCG64(seed)

    def __call__(self, low: int, high: int, *shape: int) -> np.ndarray:
        """int64 from `low` to `high` - 1; the bias of the remainder is below 2**-40 here."""
        raw = self._bits.random_raw(int(np.prod(shape))) >> np.uint64(1)
        return (raw.astype(np.int64) % (high - low) + low).reshape(shape)


def _lane(draw: _Draw, count: int, k: int, k_max: int) -> tuple[_Arrays, dict[str, Any]]:
    """Random rows in random precisions; block slots of 16 bytes as the lane's port takes them."""
    blocks = ceil_div(k, BLOCK_SIZE)
    sides = {}
    for name in ("a", "w"):
        fp8 = torch.from_numpy(draw(0, 2, count, blocks) == 1)
        scales = torch.from_numpy(draw(1, MAX_BLOCK_SCALE_CODE + 1, count, blocks).astype(np.uint8))
        codes = torch.from_numpy(draw(0, 256, count, blocks, BLOCK_SIZE).astype(np.uint8))
        codes = torch.where(codes & 0x7F == E4M3.nan_code, codes - 1, codes)
        codes.flatten(1)[:, k:] = 0  # K is padded with zero codes
        sides[name] = Blocks(fp8, torch.where(fp8, 0, scales), torch.where(fp8[..., None], codes, codes & 15))
    exponent = torch.from_numpy(draw(-94, 95, count))
    expected = expected_rows(sides["a"], sides["w"], exponent, k_max)
    arrays: _Arrays = {}
    for name, side in sides.items():
        arrays[f"{name}_codes"] = side.payload().numpy()
        arrays[f"{name}_scale"] = side.scales.numpy()
        arrays[f"{name}_fp8"] = side.fp8.numpy().astype(np.uint8)
    arrays["exponent"] = exponent.numpy().astype(np.int8)
    arrays["raw"] = expected.raw.numpy()
    arrays["float32"] = expected.float32.numpy().astype(np.uint32)
    arrays["bfloat16"] = expected.bfloat16.numpy().astype(np.uint16)
    return arrays, {"k": k, "k_max": k_max, "accumulator_bits": accumulator_bits(k_max)}


def _selector(draw: _Draw, count: int) -> tuple[_Arrays, dict[str, Any]]:
    """Heavy-tailed float32 blocks over many octaves, one threshold near the median score, mode dynamic."""
    # Integer draws only: float functions may differ in their last bit between machines.
    mantissa = draw(0, 1 << 23, count, BLOCK_SIZE)
    spread = np.minimum(draw(0, 8, count, BLOCK_SIZE), draw(0, 8, count, BLOCK_SIZE))
    octave = 127 - 6 + draw(0, 12, count, 1) + spread
    sign = draw(0, 2, count, BLOCK_SIZE)
    bits = (sign << 31 | octave << 23 | mantissa).astype(np.uint32)
    x = torch.from_numpy(bits.view(np.int32)).view(torch.float32)
    probe = select(x, SiteSettings(0)).score.flatten()
    settings = SiteSettings(0, Threshold.nearest(float(probe.sort().values[count // 2])))
    selected = select(x, settings)
    blocks = selected[:, 0]
    arrays = {
        "x": bits,
        "codes": blocks.payload().numpy(),
        "scale": blocks.scales.numpy(),
        "fp8": blocks.fp8.numpy().astype(np.uint8),
        "score": selected.score[:, 0].numpy().astype(np.int64),
    }
    threshold = settings.threshold
    configuration = {
        "input_format": "float32",
        "mode": settings.mode,
        "tensor_exponent": settings.exponent,
        "threshold": {"significand": threshold.significand, "exponent": threshold.exponent},
    }
    return arrays, configuration


def _hex(array: np.ndarray) -> bytes:
    """One line a vector for `$readmemh`: its elements, last index leftmost, each in two's complement."""
    rows = np.ascontiguousarray(array.reshape(len(array), -1))
    little = rows.astype(rows.dtype.newbyteorder("<")).view(np.uint8).reshape(len(rows), -1)
    return b"".join(row[::-1].tobytes().hex().encode() + b"\n" for row in little)


def _npz(arrays: _Arrays) -> bytes:
    """An npz archive without time stamps (numpy's own carries the current time in some versions)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # else it says on which system it was written
            archive.writestr(entry, content.getvalue())
    return buffer.getvalue()
