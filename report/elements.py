"""What a page is made of: sections, and in them facts, tables, pictures and precision maps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

__all__ = ["Picture", "PrecisionMap", "PrecisionMaps", "Section", "Table", "Text"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; cells are text as it is shown, the first column to the left, the others to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    left: int = 1
    """How many columns, from the first, are words and stand to the left."""


@dataclass(frozen=True)
class Picture:
    """A drawing as SVG that takes its colors from the page."""

    caption: str
    svg: Markup


@dataclass(frozen=True)
class PrecisionMap:
    """The precision of one tensor's blocks.

    Attributes:
        name: of the linear.
        shape: output channels and blocks of 16 input channels.
        cell: output channels and blocks that one cell stands for; (1, 1) if each block is shown.
        data: base64 of the cells, output channel by output channel: a bit each (first in bit 0, 1: FP8), or, where
            cells are larger than a block, a byte each: the share in FP8, 255 for all.
        fp8_share: of all blocks.
    """

    name: str
    shape: tuple[int, int]
    cell: tuple[int, int]
    data: str
    fp8_share: float


@dataclass(frozen=True)
class PrecisionMaps:
    """Maps that are shown side by side, each of which opens on its own."""

    caption: str
    maps: Sequence[PrecisionMap]


@dataclass(frozen=True)
class Section:
    """What one run found.

    Attributes:
        title: a line.
        source: the file or folder that it was read from.
        facts: name and value, as they are shown.
        parts: in order.
        good: whether the run found what it should (None: it is no check).
    """

    title: str
    source: str = ""
    facts: Sequence[tuple[str, str]] = ()
    parts: Sequence[Any] = field(default_factory=tuple)
    good: bool | None = None
