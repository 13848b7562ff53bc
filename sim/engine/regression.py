"""`fgmp simulate ENGINE`: the checks in the C++ loop, the bench with AXI models in cocotb, the performance GEMM."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...hdl.config import EngineConfig
from ...hdl.design import build_preset
from ..runner import CACHE, CampaignResult, check_tools
from .axi import run_axi_bench
from .checks import Bench
from .driver import EngineDriver
from .performance import SIZES, measure
from .scenarios import SCENARIOS, run_scenarios
from .verilated import VerilatedEngine, build_library

__all__ = ["regress_engine"]

_AXI_BENCH = "AXI models in cocotb"


def regress_engine(
    preset: str,
    changes: Sequence[str] = (),
    *,
    seed: int = 1,
    gemms: int = 6,
    cache: Path = CACHE,
    announce: Callable[[str, int], None] | None = None,
    on_scenario: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Everything about one engine; returns campaigns, totals and the performance GEMM's numbers."""
    check_tools("verilator")
    design = build_preset(preset, changes, preset.replace("-", "_"))  # Verilator shortens very long names
    config = design.config
    if not isinstance(config, EngineConfig):
        raise InputError(f"preset {preset}: is no engine")
    fits = config.k_max >= SIZES[2]
    if announce:
        announce(preset, len(SCENARIOS) + 1 + fits)
    done = on_scenario or (lambda name: None)
    engine = VerilatedEngine(build_library(design, cache=cache), seed=seed)
    bench = Bench(engine, EngineDriver(engine, config), seed)
    results: list[CampaignResult] = []
    for name in SCENARIOS:
        results += run_scenarios(bench, [name])
        done(name)
    results.append(run_axi_bench(design, _AXI_BENCH, gemms=gemms, seed=seed, cache=cache))
    done(_AXI_BENCH)
    performance = []
    if fits:
        performance = measure(engine, bench.driver)
        done("performance gemm")
    compared = sum(r.compared for r in results) + sum(p["compared"] for p in performance)
    differences = sum(r.differences for r in results) + sum(p["differences"] for p in performance)
    return {
        "compared": compared,
        "differences": differences,
        "cycles": sum(r.cycles for r in results) + sum(p["cycles"] for p in performance),
        "campaigns": [asdict(r) for r in results],
        "performance": performance,
    }
