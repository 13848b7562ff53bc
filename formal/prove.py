"""Proves properties, and that each fails where its fault is planted."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import InputError
from .netlist import open_netlist
from .properties import PROPERTIES, Property, unit_of
from .solver import Solver

__all__ = ["Outcome", "properties_named", "prove"]


@dataclass(frozen=True)
class Outcome:
    """Of one property.

    Attributes:
        name: the property.
        cases: how many there are.
        failed: those that are false.
        open: those for which the time did not suffice.
        fault: the case that the planted fault falsifies; None if it does not.
        seconds: taken.
    """

    name: str
    cases: int
    failed: tuple[str, ...]
    open: tuple[str, ...]
    fault: str | None
    seconds: float

    @property
    def proven(self) -> bool:
        """Whether it holds, and its fault is seen."""
        return not self.failed and not self.open and self.fault is not None


def properties_named(names: Sequence[str]) -> list[Property]:
    """Those of these names, or all. Raises InputError for a name that there is not, listing those there are."""
    known = {item.name: item for item in PROPERTIES}
    for name in names:
        if name not in known:
            raise InputError(f"property: {name!r}, expected one of {', '.join(known)}")
    return [known[name] for name in names] if names else list(PROPERTIES)


def prove(name: str, seconds: int = 120) -> Outcome:
    """Prove one property, and falsify it with its fault; each case may take so many `seconds`."""
    (item,) = properties_named([name])
    begin = time.monotonic()
    count = 0
    failed: list[str] = []
    unknown: list[str] = []
    for case, answer in answers(item, seconds, faulty=False):
        count += 1
        if answer is not False:
            (failed if answer else unknown).append(case)
    fault = next((case for case, answer in answers(item, seconds, faulty=True) if answer), None)
    return Outcome(name, count, tuple(failed), tuple(unknown), fault, time.monotonic() - begin)


def answers(item: Property, seconds: int, *, faulty: bool) -> Iterator[tuple[str, bool | None]]:
    """Each case's name, and whether what must never be true can be."""
    design, fixed = unit_of(item, faulty=faulty)
    netlist = open_netlist(design.verilog, "_".join(filter(None, (design.name, item.top))))
    with Solver(seconds) as solver:
        for case, term in item.cases(solver, netlist, fixed):
            yield case, solver.ask(term)
