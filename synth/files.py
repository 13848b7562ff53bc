"""Files that appear whole or not at all, whoever else writes them at the same time."""

import json
import os
from pathlib import Path
from uuid import uuid4

from ..errors import InputError
from ..golden.files import check_folder

__all__ = ["check_file", "write_bytes", "write_json", "write_text"]


def check_file(path: Path | None) -> None:
    """Raise InputError, before long work, if no file can be written at `path`."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"output {path}: is a folder, expected a file or a place for one")
    check_folder(path.parent, "a file in a folder that can be written")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write a text file in UTF-8, and its folder."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    """Write JSON. Raises ValueError for numbers that JSON does not have."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
