"""Where results go."""

import os
from pathlib import Path

from ..errors import InputError

__all__ = ["check_folder"]


def check_folder(out: Path, expected: str = "a folder or a place for one") -> None:
    """Raise InputError, before long work, if a folder cannot be made or written at `out`."""
    existing = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"output {out}: cannot be written, expected {expected}")
