"""The standard performance GEMM: how much of the time the lanes multiply, and how fast that is simulated."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import InputError
from ..tally import Tally, totals
from .driver import EngineDriver
from .random_gemms import uniform_gemm
from .verilated import VerilatedEngine
from .wire import result_bytes

__all__ = ["FRACTIONS", "SIZES", "measure"]

SIZES = (64, 256, 1024)
"""M, N, K."""

FRACTIONS = (0.0, 0.5, 0.7, 1.0)


def measure(
    engine: VerilatedEngine,
    driver: EngineDriver,
    *,
    sizes: tuple[int, int, int] = SIZES,
    fractions: Sequence[float] = FRACTIONS,
    on_gemm: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Run the GEMM at each FP4 fraction, packed in and float32 out, streams never stalling.

    `utilization` counts every cycle from START to the last result, `inner_utilization` those from the first to the last
    block pair; `cycles_per_second` is the simulation's speed.
    """
    if sizes[2] > driver.config.k_max:
        raise InputError(f"K: {sizes[2]}, expected at most {driver.config.k_max} in this engine")
    rows = []
    for fraction in fractions:
        gemm = uniform_gemm(*sizes, fraction, seed=1)
        sent = driver.start(gemm)
        begin, cycles = time.perf_counter(), engine.cycles
        result = driver.finish(gemm, sent)
        seconds = time.perf_counter() - begin
        expected = result_bytes(gemm, driver.config)
        tally = Tally()
        tally.expect_bytes(f"{fraction:.0%} FP4", result.data, expected, sizes[0] * sizes[1])
        rows.append(
            {
                "fp4_fraction": fraction,
                "utilization": result.utilization,
                "inner_utilization": result.inner_utilization,
                **result.counters,
                "weight_bytes": result.weight_bytes,
                "activation_bytes": result.activation_bytes,
                **totals([tally]),
                "cycles_per_second": (engine.cycles - cycles) / seconds,
            }
        )
        if on_gemm:
            on_gemm(fraction)
    return rows
