"""`fgmp simulate ENGINE`: the checks in the C++ loop, the bench with AXI models in cocotb, the performance GEMM."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...hdl.config import EngineConfig
from ...hdl.design import build_preset
from ..library import recorded, recording
from ..runner import CACHE, CampaignResult, check_tools
from ..waves.recording import trace_format
from .axi import run_axi_bench
from .checks import Bench
from .driver import EngineDriver
from .performance import SIZES, measure
from .scenarios import SCENARIOS, check_scenario, run_scenarios
from .verilated import VerilatedEngine, build_library

__all__ = ["regress_engine"]

_AXI_BENCH = "AXI models in cocotb"


def regress_engine(
    preset: str,
    changes: Sequence[str] = (),
    *,
    seed: int = 1,
    gemms: int = 6,
    only: Sequence[str] = (),
    waves_to: Path | None = None,
    cache: Path = CACHE,
    announce: Callable[[str, int], None] | None = None,
    on_scenario: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Everything about one engine; returns campaigns, totals and the performance GEMM's numbers.

    With `only`, the scenarios of these names and nothing else. `waves_to` records scenarios: waveforms with the
    engine's view, or activities, by its suffix; the bench with AXI models and the performance GEMM are left out then.
    """
    check_tools("verilator")
    design = build_preset(preset, changes, preset.replace("-", "_"))  # Verilator shortens very long names
    config = design.config
    if not isinstance(config, EngineConfig):
        raise InputError(f"preset {preset}: is no engine")
    for name in only:
        check_scenario(name)
    scenarios = list(only) or list(SCENARIOS)
    whole = not only and waves_to is None
    fits = whole and config.k_max >= SIZES[2]
    if announce:
        announce(preset, len(scenarios) + whole + fits)
    done = on_scenario or (lambda name: None)
    trace = None if waves_to is None else trace_format(waves_to)
    engine = VerilatedEngine(build_library(design, trace=trace, cache=cache), seed=seed)
    bench = Bench(engine, EngineDriver(engine, config), seed)
    results: list[CampaignResult] = []
    with ExitStack() as stack:
        if waves_to is not None:
            path = stack.enter_context(recorded(design, waves_to))
            stack.enter_context(recording(engine.stop_recording, path))
            engine.record(path)
        for name in scenarios:
            results += run_scenarios(bench, [name])
            done(name)
    if whole:
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
