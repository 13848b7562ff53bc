"""Where results go, and files that appear whole or not at all, whoever else writes them at the same time."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from .errors import InputError

__all__ = ["check_file", "check_folder", "whole_file", "write_bytes", "write_json", "write_text"]


def check_folder(out: Path, expected: str = "a folder or a place for one") -> None:
    """Raise InputError, before long work, if a folder cannot be made or written at `out`."""
    existing = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"output {out}: cannot be written, expected {expected}")


def check_file(path: Path | None) -> None:
    """Raise InputError, before long work, if no file can be written at `path`."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"output {path}: is a folder, expected a file or a place for one")
    check_folder(path.parent, "a file in a folder that can be written")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Make the folder of `path` and give a name in it to write to; what is there afterwards becomes `path`.

    If the block raises, `path` stays as it was. A link stays one; pipes and devices are written to directly.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, and its folder."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a text file in UTF-8, and its folder."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    """Write JSON. Raises ValueError for numbers that JSON does not have."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
