"""Units with random parameters, one after the other: `fgmp simulate --campaign HOURS`."""

import random
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..hdl.config import EngineConfig, LaneConfig, SelectorConfig
from ..hdl.config import preset as preset_config
from ..hdl.values import random_config
from .engine.regression import regress_engine
from .regression import no_campaigns, regress
from .runner import SimulationError

__all__ = ["run_random_units"]

_DEFAULT = ("engine", "lane", "selector")


def run_random_units(
    presets: Sequence[str], seconds: float, *, seed: int, count: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Build units of the kinds of `presets` with random parameters, lint and simulate them against the golden model.

    Goes on for so many `seconds`, at least one unit. Unit number n of a `seed` is always the same. Returns how many
    there were, how much was compared, and of each failure what it was and the command that shows it again.
    """
    kinds = list(presets) or list(_DEFAULT)
    for name in kinds:
        if not isinstance(preset_config(name), (LaneConfig, SelectorConfig, EngineConfig)):
            raise no_campaigns(name)
    end = time.monotonic() + seconds
    failures: list[dict[str, str]] = []
    units = compared = 0
    while not units or time.monotonic() < end:
        chance = random.Random(f"{seed} {units}")
        kind = chance.choice(kinds)
        config = random_config(preset_config(kind), chance)
        changes = [f"{name}={_text(value)}" for name, value in asdict(config).items()]
        own = chance.randrange(1, 1 << 30)
        command = shlex.join(
            ["fgmp", "simulate", kind, "--seed", str(own), "--count", str(count), "--no-model", "--set", *changes]
        )
        units += 1
        say(f"{units}: {command}")
        problem, number = _problem(kind, changes, own, count)
        compared += number
        if problem is not None:
            failures.append({"command": command, "problem": problem})
            say(f"   fails: {problem}")
    return {"schema": "fgmp-campaign/1", "seed": seed, "units": units, "compared": compared, "failures": failures}


def _problem(kind: str, changes: Sequence[str], seed: int, count: int) -> tuple[str | None, int]:
    """What is wrong with a unit, if anything, and how many results were compared. Its build is not kept."""
    with tempfile.TemporaryDirectory(prefix="fgmp-unit-") as folder:
        try:
            if isinstance(preset_config(kind), EngineConfig):
                summary = regress_engine(kind, changes, seed=seed, cache=Path(folder))
                different = [c["first"] for c in summary["campaigns"] if c["differences"]]
                return (different[0] if different else None), summary["compared"]
            results = regress(kind, changes, count=count, seed=seed, share=7, model=False, cache_folder=Path(folder))
        except SimulationError as error:
            return str(error), 0
        wrong = [result.first for result in results if result.differences]
        return (wrong[0] if wrong else None), sum(result.compared for result in results)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
