"""How many results were compared, how many differ, and what the first difference is: one count for all benches."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Tally", "totals"]


class Counted(Protocol):
    """Anything that says how much of it was compared and differs."""

    @property
    def compared(self) -> int:
        """Comparisons."""

    @property
    def differences(self) -> int:
        """Those that were not equal."""


@dataclass
class Tally:
    """A running count.

    Attributes:
        compared: comparisons made.
        differences: comparisons that were not equal.
        first: the first difference, in words.
    """

    compared: int = 0
    differences: int = 0
    first: str | None = None

    def add(self, compared: int, differences: int, first: str | None = None) -> None:
        """Count comparisons; `first` says what the first difference among them is."""
        self.compared += compared
        self.differences += differences
        if differences and self.first is None:
            self.first = first

    def expect(self, what: str, found: object, expected: object) -> None:
        """Count one comparison."""
        self.add(1, int(found != expected), f"{what}: {found}, expected {expected}")

    def expect_bytes(self, what: str, found: bytes, expected: bytes, results: int) -> None:
        """Count `results` values, whose bytes these are; differences are counted in bytes."""
        different = [i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b]
        at = different[0] if different else 0
        where = f"byte {at}: {found[at]:#04x}, expected {expected[at]:#04x}" if different else "none"
        self.add(results, len(different), f"{what}: {where}")
        if len(found) != len(expected):
            self.add(0, 1, f"{what}: {len(found)} bytes, expected {len(expected)}")


def totals(counted: Iterable[Counted]) -> dict[str, int]:
    """The sums, as they stand in summaries: "compared" and "differences"."""
    items = list(counted)
    return {"compared": sum(c.compared for c in items), "differences": sum(c.differences for c in items)}
