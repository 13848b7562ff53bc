"""Text to calibrate and to evaluate with: a UTF-8 file, this Python's own text, or a data set by name."""

from pathlib import Path

from ...errors import InputError, first_line
from .default_text import read_corpus

__all__ = ["read_text"]

_OWN = ("python:train", "python:held-out")
"""Names of the running Python's own text, where no text is at hand: two parts that share no document."""


def read_text(source: str, purpose: str) -> str:
    """The text of the file `source`, or, where there is no such file, of the data set NAME[:CONFIG[:SPLIT]].

    `python:train` and `python:held-out` are sources and documentation of the running Python (`default_text`).
    A data set needs the extra `hub`; its `text` column is joined. Raises InputError, with `purpose`, if there is none.
    """
    path = Path(source)
    if path.is_file():
        try:
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{purpose} {source}: not UTF-8 at byte {error.start}, expected a text file") from None
        if not text.strip():
            raise InputError(f"{purpose} {source}: is empty, expected text")
        return text
    if source in _OWN:
        corpus = read_corpus()
        return corpus.train if source == _OWN[0] else corpus.held_out
    if source.lower().startswith("python:"):
        raise InputError(f"{purpose} {source}: expected {' or '.join(_OWN)}, this Python's own text")
    if path.exists() or path.suffix in {".txt", ".md", ".json"} or path.is_absolute() or source.startswith("."):
        raise InputError(f"{purpose} {source}: not found, expected a text file or a data set NAME[:CONFIG[:SPLIT]]")
    try:
        import datasets
    except ModuleNotFoundError:
        raise InputError(
            f"{purpose} {source}: no such file, and data sets by name need: pip install 'fgmp[hub]'"
        ) from None
    name, config, split = (*source.split(":"), "", "")[:3]
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train")
        return "".join(rows["text"])
    except Exception as error:  # whatever the hub, the network or the data set's files raise
        reason = first_line(error)
        raise InputError(f"{purpose} {source}: neither a file nor a data set that can be read ({reason})") from None
