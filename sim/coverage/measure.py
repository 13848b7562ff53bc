"""`fgmp coverage`: runs a unit's regression in a build that counts, and says what never happened."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...cache import SIMULATORS as CACHE
from ...hdl.config import EngineConfig, LaneConfig
from ...hdl.design import Design, build_preset
from ...hdl.engine.registers import EVENTS
from ..engine.checks import Bench
from ..engine.driver import EngineDriver
from ..engine.gemm import Gemm
from ..engine.scenarios import SCENARIOS, run_scenarios
from ..engine.verilated import VerilatedEngine, build_library
from ..regression import campaigns_of
from ..runner import CampaignResult, check_tools
from ..tally import totals
from ..verilated_unit import VerilatedUnit
from .bins import Bins, engine_bins, lane_bins, selector_bins
from .structure import read_structure
from .waivers import EMPTY_BINS

__all__ = ["SCHEMA", "coverage_lines", "least_share", "measure_coverage"]

SCHEMA = "fgmp-coverage/1"
_SHOWN = 8
_PLURALS = {"line": "lines", "branch": "branches", "toggle": "toggles"}


def measure_coverage(
    preset: str,
    changes: Sequence[str] = (),
    *,
    count: int = 4000,
    seed: int = 1,
    cache: Path = CACHE,
    announce: Callable[[int], None] = lambda total: None,
    on_campaign: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """The coverage of one unit's regression as JSON data: functional bins, toggles, lines, holes and waivers.

    Raises InputError for a unit without a bench.
    """
    check_tools("verilator")
    design = build_preset(preset, changes)
    with tempfile.TemporaryDirectory(prefix="fgmp-coverage-") as folder:
        path = Path(folder) / "coverage.dat"
        run = _engine if isinstance(design.config, EngineConfig) else _unit
        bins, results = run(design, path, count, seed, cache, announce, on_campaign)
        structure = read_structure(path, design.name)
    empty = [f"{group}: {name}" for group, counts in bins.items() for name, hits in counts.items() if not hits]
    holes = [name for name in empty if name not in EMPTY_BINS]
    total = sum(map(len, bins.values())) - len(empty) + len(holes)
    return {
        "schema": SCHEMA,
        "unit": design.name,
        **totals(results),
        "bins": bins,
        "functional": {
            "covered": total - len(holes),
            "total": total,
            "holes": holes,
            "waived": {name: EMPTY_BINS[name] for name in empty if name in EMPTY_BINS},
        },
        "structure": {
            kind: {"covered": structure.covered[kind], "total": structure.total[kind]} for kind in structure.total
        },
        "waived": dict(structure.waived),
        "holes": dict(structure.holes.most_common()),
    }


def least_share(result: Mapping[str, Any]) -> float:
    """The smallest share among lines, branches and toggles."""
    return min((part["covered"] / part["total"] for part in result["structure"].values()), default=1.0)


def coverage_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The result for people."""
    bins = result["functional"]
    yield f"{result['unit']}: results compared {result['compared']:,}, differences {result['differences']:,}"
    yield f"  {'bins':9} {bins['covered']:,} of {bins['total']:,}"
    for kind, part in result["structure"].items():
        share = part["covered"] / part["total"]
        yield f"  {_PLURALS[kind]:9} {part['covered']:,} of {part['total']:,}, {share:.1%}"
    for name in bins["holes"]:
        yield f"  empty: {name}"
    for name, reason in bins["waived"].items():
        yield f"  empty, waived: {name}: {reason}"
    for reason, count in result["waived"].items():
        yield f"  waived: {count:,} points: {reason}"
    holes = list(result["holes"].items())
    if holes:
        shown = ", ".join(f"{name} ({count})" for name, count in holes[:_SHOWN])
        yield f"  never: {shown}" + (f", and {len(holes) - _SHOWN} more signals" if len(holes) > _SHOWN else "")


def _unit(
    design: Design, path: Path, count: int, seed: int, cache: Path, announce: Callable[[int], None],
    on_campaign: Callable[[], object],
) -> tuple[Bins, list[CampaignResult]]:  # fmt: skip
    campaigns = campaigns_of(design, count=count, seed=seed)
    announce(len(campaigns))

    def counted(name: str) -> None:
        on_campaign()

    unit = VerilatedUnit(design, coverage=True, cache=cache)
    results = unit.run(campaigns, only_count=True, on_campaign=counted, coverage_to=path)
    bins = lane_bins if isinstance(design.config, LaneConfig) else selector_bins
    return bins(design, campaigns), results


class _Watched(EngineDriver):
    """A driver that remembers its GEMMs, and the events that it read."""

    def __init__(self, engine: VerilatedEngine, config: EngineConfig):
        super().__init__(engine, config)
        self.gemms: list[Gemm] = []
        self.seen: Counter[str] = Counter({name: 0 for name, _ in EVENTS})

    def start(self, gemm: Gemm) -> tuple[int, int]:
        sent = super().start(gemm)
        self.gemms.append(gemm)
        return sent

    def read(self, name: str) -> int:
        value = super().read(name)
        if name == "EVENTS":
            self.seen.update(event for bit, (event, _) in enumerate(EVENTS) if value >> bit & 1)
        return value


class _Paused(VerilatedEngine):
    """An engine that counts how often each stream was made to pause."""

    def __init__(self, library: Path, seed: int):
        self.paused: Counter[str] = Counter()
        super().__init__(library, seed=seed)

    def stall(self, stream: str, probability: float) -> None:
        self.paused[stream] += probability > 0
        super().stall(stream, probability)


def _engine(
    design: Design, path: Path, count: int, seed: int, cache: Path, announce: Callable[[int], None],
    on_campaign: Callable[[], object],
) -> tuple[Bins, list[CampaignResult]]:  # fmt: skip
    config = design.config
    assert isinstance(config, EngineConfig)
    announce(len(SCENARIOS))
    engine = _Paused(build_library(design, coverage=True, cache=cache), seed)
    driver = _Watched(engine, config)
    bench = Bench(engine, driver, seed)
    results: list[CampaignResult] = []
    for name in SCENARIOS:
        results += run_scenarios(bench, [name])
        on_campaign()
    engine.write_coverage(path)
    return engine_bins(config, driver.gemms, driver.seen, engine.paused), results
