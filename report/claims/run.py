"""Measures claims: runs the commands, keeps what they print, and takes the figures from it."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import DifferenceError, InputError
from ...files import write_json
from ...synth.liberty.find import find_liberty
from .catalogue import CLAIMS, RUNS, TABLES, Run, quality_points

__all__ = ["SCHEMA", "figures_of", "measure"]

SCHEMA = "fgmp-claims/1"


def measure(
    names: Sequence[str], out: Path, liberty: str | None, *, again: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run those of `names` whose output `out` does not hold yet (all with `again`); the figures of all that it holds.

    `liberty` is the library for those that need one; without, they find one in the usual places. Raises InputError for
    a name that there is not, and for a command that cannot run; DifferenceError if results differ.
    """
    for name in names:
        if name not in RUNS:
            raise InputError(f"run: {name!r}, expected one of {', '.join(RUNS)}")
    waiting = [name for name in RUNS if name in names and (again or not (out / f"{name}.json").is_file())]
    if liberty is None and any(RUNS[name].needs_liberty for name in waiting):
        find_liberty()  # or say now that there is none
    held: dict[str, Any] = {}
    for name, run in RUNS.items():
        path = out / f"{name}.json"
        if name in waiting:
            say(f"{name}: about {run.minutes:g} minutes")
            if again:  # what commands would continue from
                shutil.rmtree(out / "work" / name, ignore_errors=True)
            write_json(path, _run(run, out / "work" / name, liberty))
        if path.is_file():
            held[name] = _kept(path)
    return figures_of(held)


def _kept(path: Path) -> Any:
    try:
        kept = json.loads(path.read_text())
        if "printed" in kept and "commands" in kept:
            return kept
    except (ValueError, TypeError):
        pass
    raise InputError(f"claims {path}: not what a run leaves, expected JSON of one (remove it to measure again)")


def figures_of(held: Mapping[str, Any]) -> dict[str, Any]:
    """Figures and tables from what runs printed, `held` by name."""
    refined = held.get("refinements")
    try:
        figures = {c.name: c.figure(held[c.run]["printed"]) for c in CLAIMS if c.run in held}
        tables = {name: t.rows(held[t.run]["printed"]) for name, t in TABLES.items() if t.run in held}
        points = quality_points(refined["printed"]) if refined else {}
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"claims: a run printed something else than its claims are taken from ({what})") from None
    return {
        "schema": SCHEMA,
        "runs": {name: {k: v for k, v in kept.items() if k != "printed"} for name, kept in held.items()},
        "figures": figures,
        "tables": tables,
        "points": points,
    }


def _run(run: Run, out: Path, liberty: str | None) -> dict[str, Any]:
    begin, printed = time.monotonic(), ""
    out.mkdir(parents=True, exist_ok=True)
    for command in run.commands:
        words = run.words(command, out=str(out), liberty=liberty or "")
        if liberty is None and "--liberty" in words:
            del words[(at := words.index("--liberty")) : at + 2]
        done = subprocess.run([sys.executable, "-m", *words], check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode == 1 and "mutants" not in words:  # which is their answer
            raise DifferenceError(f"claims: {command}: results differ")
        if done.returncode not in (0, 1):
            raise InputError(f"claims: {' '.join(words)}: exit code {done.returncode}, expected 0")
        printed = done.stdout
    return {
        "commands": [command.format(out="out/claims", model="MODEL", liberty="LIBRARY") for command in run.commands],
        "seconds": round(time.monotonic() - begin),
        "fgmp": str(__version__),
        "python": platform.python_version(),
        "machine": _machine(),
        "printed": json.loads(printed),
    }


def _machine() -> str:
    """The processor's name, and how many cores there are."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores"
