"""The command line's parser: every mistake in one line, and options that may be repeated."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from .errors import InputError

__all__ = ["Parser", "whole"]

_SHOWN = 60


class _Help(argparse.HelpFormatter):
    """Fills paragraphs of a description, and leaves those whose lines are indented, which are examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = [paragraph.strip("\n") for paragraph in text.split("\n\n")]
        filled = super()._fill_text
        return "\n\n".join(p if p.startswith("  ") else filled(p, width, indent) for p in paragraphs)


class Parser(argparse.ArgumentParser):
    """Raises InputError where argparse would print its usage and exit."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"formatter_class": _Help, **kwargs})
        self.register("type", int, whole)
        self.register("action", "collect", _Collect)

    def error(self, message: str) -> NoReturn:
        """One line; `--help` has the rest."""
        raise InputError(f"{message.replace(chr(10), ' ')} (see {self.prog} --help)")


class _Collect(argparse.Action):
    """Action "collect", for `nargs="+"`: `--x a b` and `--x a --x b` are the same; the first replaces the default."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        seen: set[str] = namespace.__dict__.setdefault("_collected", set())
        before: Sequence[Any] = getattr(namespace, self.dest) if self.dest in seen else ()
        seen.add(self.dest)
        setattr(namespace, self.dest, [*before, *values])


def whole(text: str) -> int:
    """A whole number of at most 18 digits; argparse's own message would repeat all digits of a longer one."""
    digits = text.strip().lstrip("+-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
        raise argparse.ArgumentTypeError(f"{shown!r}, expected a whole number")
    return int(text)
