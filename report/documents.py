"""Finds what runs wrote: JSON that says its schema, quantized folders, packed files."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..golden.schema import printable
from ..quantizer.model.language_model import is_quantized

__all__ = ["FOLDER", "PACKED", "PASSED", "Document", "find_documents"]

FOLDER, PACKED, PASSED = "quantized folder", "packed file", "passed over"
"""Kinds of documents that are no JSON that is told of; those passed over lie in a folder and are of no known schema."""


@dataclass(frozen=True)
class Document:
    """One thing to tell of: its `kind` is a schema, `FOLDER` or `PACKED`; `content` is JSON data, or its path.

    `source` is what it is called: the path as it was given, or what it is called in the folder that was.
    """

    kind: str
    source: str
    content: Any


def find_documents(paths: Sequence[Path], known: Sequence[str]) -> list[Document]:
    """What `paths` hold, in their order; of a folder that is no model, what lies in it.

    Raises InputError for a path that holds nothing of a `known` kind.
    """
    found: list[Document] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"report {path}: not found, expected a file or folder that fgmp wrote")
        here = list(_in_folder(path, known) if path.is_dir() and not is_quantized(path) else _document(path, known))
        if all(document.kind == PASSED for document in here):
            raise InputError(
                f"report {path}: holds nothing to tell of, expected JSON of fgmp's commands (--json), packed files or "
                "quantized models"
            )
        found += here
    return found


def _in_folder(folder: Path, known: Sequence[str]) -> Iterator[Document]:
    # Figures first.
    for path in sorted(folder.iterdir(), key=lambda path: (path.suffix != ".json", path.name)):
        if path.is_dir():
            if is_quantized(path):
                yield Document(FOLDER, path.name, path)
        elif path.suffix == ".safetensors":
            yield Document(PACKED, path.name, path)
        elif path.suffix == ".json" and path.is_file():  # no pipe, no link that leads nowhere
            try:
                found = [replace(document, source=path.name) for document in _json(path)]
            except InputError:
                found = []
            told = [document for document in found if document.kind in known]
            yield from told or [Document(PASSED, path.name, path)]


def _document(path: Path, known: Sequence[str]) -> Iterator[Document]:
    if path.is_dir():
        yield Document(FOLDER, str(path), path)
    elif path.suffix == ".safetensors":
        yield Document(PACKED, str(path), path)
    else:
        for document in _json(path):
            if document.kind not in known:
                given = printable(repr(document.kind))
                raise InputError(f"report {path}: schema {given}, expected one of {', '.join(known)}")
            yield document


def _json(path: Path) -> Iterator[Document]:
    """Of a JSON file: the object that it holds, or those in a list."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"report {path}: not JSON ({printable(str(error))}), expected what --json prints") from None
    if isinstance(value, dict) and "commands" in value:  # a run of fgmp claims
        value = value.get("printed")
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            raise InputError(f"report {path}: holds {printable(repr(item))}, expected an object with a schema")
        yield Document(str(item.get("schema")), str(path), item)
