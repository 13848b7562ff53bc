"""The regression of a unit without streams: every activity, each answer compared with the golden model."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ...cache import SIMULATORS as CACHE
from ...formats import ceil_div
from ...hdl.design import Design
from ..campaign import check_names
from ..runner import CampaignResult
from ..scoreboard import as_integer
from ..tally import Tally
from .vectors import Vectors, vectors_by_activity
from .verilated_part import VerilatedPart

__all__ = ["regress_part"]


def regress_part(
    design: Design,
    *,
    count: int,
    seed: int,
    only: Sequence[str] = (),
    cache: Path = CACHE,
    announce: Callable[[int], None] | None = None,
    on_activity: Callable[[str], None] | None = None,
) -> list[CampaignResult]:
    """Compile `design` and run these activities, or all, with `count` vectors each; differences are counted.

    `announce` is told how many there are, `on_activity` the name of each that is done. Raises InputError for a unit
    without activities, or an activity that there is not.
    """
    activities = vectors_by_activity(design, count=count, seed=seed)
    check_names(only, list(activities))
    unit = VerilatedPart(design, cache=cache)
    names = list(only) or list(activities)
    if announce:
        announce(len(names))
    results = []
    for name in names:
        results.append(_run(unit, name, activities[name]))
        if on_activity:
            on_activity(name)
    return results


def _run(unit: VerilatedPart, name: str, streams: Sequence[Vectors]) -> CampaignResult:
    tally = Tally()
    for index, vectors in enumerate(streams):
        found = unit.run(vectors.inputs)
        for port, (at, expected) in vectors.expected.items():
            different = np.flatnonzero((found[port][at] != expected).any(1))
            first = None
            if len(different):
                where = different[0]
                shown = (_hexadecimal(bits) for bits in (found[port][at[where]], expected[where]))
                first = f"{name}, stream {index}, cycle {at[where]}: {port} {{}}, expected {{}}".format(*shown)
            tally.add(len(at), len(different), first)
    return CampaignResult(name, **vars(tally), cycles=sum(vectors.cycles for vectors in streams))


def _hexadecimal(bits: np.ndarray) -> str:
    value = as_integer(np.packbits(bits, bitorder="little"))
    return f"0x{value:0{ceil_div(len(bits), 4)}x}"
