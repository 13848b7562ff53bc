"""Lines, branches and toggles, from what Verilator counted, with waivers for what cannot happen."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .waivers import WAIVERS

__all__ = ["Point", "Structure", "read_structure"]


@dataclass(frozen=True)
class Point:
    """One thing that may happen: a direction of a bit's toggle, a branch, a line.

    Attributes:
        kind: "toggle", "branch" or "line".
        module: the module's name, without the unit's.
        name: the signal with bit and direction, or the line.
        count: how often it happened.
    """

    kind: str
    module: str
    name: str
    count: int


@dataclass(frozen=True)
class Structure:
    """What happened at least once.

    Attributes:
        covered, total: by kind; waived ones are in neither.
        waived: reasons, and how many points each takes.
        holes: of modules, signals that lack something, with the number of points.
    """

    covered: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)
    waived: Counter[str] = field(default_factory=Counter)
    holes: Counter[str] = field(default_factory=Counter)

    def share(self, kind: str) -> float:
        """Covered over all, of a kind."""
        return self.covered[kind] / self.total[kind] if self.total[kind] else 1.0


def read_points(path: Path, unit: str) -> list[Point]:
    """The points of a file that Verilator wrote; those of several instances of a module are one."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for line in path.read_text("latin-1").splitlines():
        if not line.startswith("C '"):
            continue
        body, _, count = line[3:].rpartition("' ")
        keys = dict(part.split("\x02", 1) for part in body.split("\x01") if part)
        module = keys["page"].rpartition("/")[2].removeprefix(unit).lstrip("_") or "top"
        name = keys["o"] if keys["t"] == "toggle" else f"line {keys['l']} {keys['o']}"
        counts[keys["t"], module, name] += int(count)
    return [Point(*key, count) for key, count in counts.items()]


def read_structure(path: Path, unit: str, waivers: Sequence[tuple[str, str]] = WAIVERS) -> Structure:
    """Count the points of a file that Verilator wrote; what never happened and is waived counts for nothing."""
    compiled = [(re.compile(pattern), reason) for pattern, reason in waivers]
    found = Structure()
    for point in read_points(path, unit):
        if not point.count:
            place = f"{point.module}.{point.name}"
            reason = next((reason for pattern, reason in compiled if pattern.search(place)), None)
            if reason is not None:
                found.waived[reason] += 1
                continue
            found.holes[re.sub(r"(\[\d+\])?(:[01]->[01])?$", "", place)] += 1
        found.total[point.kind] += 1
        found.covered[point.kind] += point.count > 0
    return found
