"""Finds and reads Liberty files, compressed or not."""

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from .cells import StandardCells

__all__ = ["LibertyFile", "find_liberty", "read_liberty"]

# Where installed PDKs keep a typical corner: volare and ciel under PDK_ROOT, Debian's qflow packages.
_IN_PDK_ROOT = (
    "sky130A/libs.ref/sky130_fd_sc_hd/lib/sky130_fd_sc_hd__tt_025C_1v80.lib",
    "gf180mcuD/libs.ref/gf180mcu_fd_sc_mcu7t5v0/lib/gf180mcu_fd_sc_mcu7t5v0__tt_025C_3v30.lib",
    "ihp-sg13g2/libs.ref/sg13g2_stdcell/lib/sg13g2_stdcell_typ_1p20V_25C.lib",
)
_USUAL = (
    "/usr/share/qflow/tech/osu018/osu018_stdcells.lib",
    "/usr/share/qflow/tech/osu035/osu035_stdcells.lib",
    "/usr/share/qflow/tech/osu050/osu050_stdcells.lib",
)
_PDK_ROOTS = ("~/.volare", "~/.ciel", "/usr/share/pdk", "/usr/local/share/pdk", "/opt/pdk")


@dataclass(frozen=True)
class LibertyFile:
    """A library and the digest of the file it came from (uncompressed)."""

    path: Path
    sha256: str
    cells: StandardCells


def read_liberty(path: Path | None) -> LibertyFile:
    """Read a Liberty file (.lib or .lib.gz), or without a path the first one found in the usual places.

    Raises InputError for a file that is not there, is cut short or is no Liberty library.
    """
    path = find_liberty() if path is None else path
    if not path.is_file():
        raise InputError(f"liberty: {path} is not a file, expected a Liberty library (.lib or .lib.gz)")
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = _decompressed(path, len(raw))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return LibertyFile(path, hashlib.sha256(raw).hexdigest(), StandardCells(text, str(path)))


_MOST_COMPRESSED = 64
"""Libraries become ten times smaller; what grows by much more is no library."""


def _decompressed(path: Path, size: int) -> bytes:
    limit = _MOST_COMPRESSED * size + (1 << 20)
    try:
        with gzip.open(path) as file:
            raw = file.read(limit + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip file ({error}), expected a whole one") from error
    if len(raw) > limit:
        raise InputError(
            f"{path}: more than {_MOST_COMPRESSED} times larger when decompressed, expected a Liberty library"
        )
    return raw


def find_liberty() -> Path:
    """The first library in the usual places. Raises InputError, which says how to get one, if there is none."""
    roots = [os.environ["PDK_ROOT"]] if "PDK_ROOT" in os.environ else []
    candidates = [Path(root).expanduser() / name for root in (*roots, *_PDK_ROOTS) for name in _IN_PDK_ROOT]
    candidates += map(Path, _USUAL)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(
        "liberty: none found in PDK_ROOT and the usual places, expected --liberty FILE "
        "(Debian: apt install qflow-tech-osu018; SkyWater: pip install ciel)"
    )
