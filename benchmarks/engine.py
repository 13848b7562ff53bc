"""Simulated cycles per second of the 16-lane engine: the C++ loop, and cocotb with AXI models, on one core each.

Run with: python benchmarks/engine.py [--json]
"""

import argparse
import json
import statistics
import sys
import time

from fgmp.hdl.design import build_preset
from fgmp.sim.engine.axi import axi_simulator, run_axi_gemms
from fgmp.sim.engine.driver import EngineDriver
from fgmp.sim.engine.performance import measure
from fgmp.sim.engine.random_gemms import uniform_gemm
from fgmp.sim.engine.verilated import VerilatedEngine, build_library


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of the standard gemm, default 5")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    design = build_preset("engine")
    engine = VerilatedEngine(build_library(design))
    driver = EngineDriver(engine, design.config)
    rows = [row for _ in range(args.rounds) for row in measure(engine, driver, fractions=(0.7,))]
    fast = statistics.median(row["cycles_per_second"] for row in rows)
    axi_simulator(design)  # compiled before the clock starts
    gemm = uniform_gemm(64, 128, 1024, 0.7, 1)
    begin = time.perf_counter()
    result = run_axi_gemms(design, "benchmark", {"gemm": gemm}, pauses=False)
    slow = result.cycles / (time.perf_counter() - begin)  # start of the simulator included
    numbers = {
        "fast": fast,
        "cocotb": slow,
        "differences": result.differences + sum(row["differences"] for row in rows),
    }
    if args.json:
        print(json.dumps(numbers, indent=2))
    else:
        print(f"C++ loop: {fast:,.0f} cycles/s")
        print(f"cocotb with cocotbext-axi: {slow:,.0f} cycles/s, the simulator's start included")
        print(f"differences: {numbers['differences']}")
    return 1 if numbers["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
