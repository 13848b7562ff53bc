"""Text that every CPython carries: the language reference topics and the standard library's source files.

The text is read from the running interpreter and never stored in the repository. It differs a little between Python
versions, so whoever prints a number that depends on it prints `Corpus.digest` too.
"""

import ast
import hashlib
import importlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError

__all__ = ["Corpus", "read_corpus"]

# Tests are not prose, tables are not language, and the rest is packaged apart by some distributions.
_SKIPPED_FOLDERS = {
    *("site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "turtledemo", "lib2to3"),
    *("ensurepip", "tkinter", "distutils", "encodings", "pydoc_data", "__phello__", "_pyrepl"),
}
_HELD_OUT_SHARE = 20  # one document in twenty


@dataclass(frozen=True)
class Corpus:
    """The text in two parts that share no document.

    `train` and `held_out` are joined documents; the part of a document is decided by its name, so that it stays the
    same in every Python version.
    """

    train: str
    held_out: str

    @property
    def digest(self) -> str:
        """SHA-256 over both parts, hexadecimal."""
        return hashlib.sha256((self.train + "\0" + self.held_out).encode()).hexdigest()


def read_corpus() -> Corpus:
    """Read the text of the running CPython.

    Raises InputError if this Python carries no standard library sources (a stripped installation).
    """
    parts: tuple[list[str], list[str]] = ([], [])
    for name, text in _documents():
        held_out = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % _HELD_OUT_SHARE == 0
        parts[held_out].append(text)
    corpus = Corpus("\n\n".join(parts[0]), "\n\n".join(parts[1]))
    if len(corpus.held_out) < 100_000:
        raise InputError(
            f"standard library at {_stdlib()}: found {len(corpus.held_out)} characters of held-out text, expected at "
            "least 100000 (install Python with its library sources, for example Debian's libpython3-stdlib)"
        )
    return corpus


def _stdlib() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _documents() -> Iterator[tuple[str, str]]:
    """Name and text of each document, in an order that does not depend on the file system."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions leave it out
        topics = {}
    for topic, text in sorted(topics.items()):
        yield f"topic:{topic}", text
    root = _stdlib()
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        relative = path.relative_to(root)
        if _SKIPPED_FOLDERS.intersection(relative.parts) or relative.name.startswith("_sysconfigdata"):
            continue
        try:
            text = path.read_text("utf-8")
            ast.parse(text)
        except (UnicodeDecodeError, SyntaxError):  # templates and deliberately broken files
            continue
        if text.strip():
            yield relative.as_posix(), text
