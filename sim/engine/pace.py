"""Scenarios about time: the cycles that a GEMM takes, which are in its span, and who is charged with the others."""

from collections.abc import Iterator

import torch

from ...formats import BLOCK_SIZE, ceil_div
from ...golden.packing import pack, unpack
from ...golden.random_blocks import blocks_in_precisions
from ...hdl.config import EngineConfig
from ...hdl.engine.rate import GemmLoad, gemm_rate
from .checks import Bench, program
from .driver import cycle_limit
from .gemm import Gemm
from .random_gemms import random_mixed, uniform_gemm
from .wire import operand_streams, result_bytes

__all__ = ["late_streams", "promised_rate"]

_CYCLES_OFF = 4
"""What the model of the rate may be off, beside one cycle in a hundred."""
_TO_STREAM = 24
"""Cycles from the last block pair to the last beat, beside those in which the last tile's rows are rounded."""
_ROUNDED = 4
"""Lanes whose sums are rounded in a cycle."""
_LATE = 600


def promised_rate(bench: Bench) -> None:
    """Without stalls a GEMM takes the cycles that the model of the rate says, and all but the last few are counted.

    The last block pair is followed by its tile's results alone. Every cycle before has a block pair, or is charged.
    """
    config, driver = bench.config, bench.driver
    for sizes in _sizes(config):
        for fraction in (0.0, 0.5, 1.0):
            gemm = uniform_gemm(*sizes, fraction, seed=3)
            counters = driver.run(gemm).counters
            said = gemm_rate(config, _load(gemm)).cycles
            what = f"rate of M, N, K = {sizes}, {fraction:.0%} FP4"
            near = abs(said - counters["cycles"]) <= _CYCLES_OFF + counters["cycles"] / 100
            bench.expect(f"{what}: {said} cycles said, {counters['cycles']} taken", near, True)
            after = counters["cycles"] - counters["products"] - _charged(counters)
            most = _TO_STREAM + _rounded(config, gemm)
            bench.expect(f"{what}: {after} cycles behind the last block pair", 0 < after <= most, True)
    _rows_by_precision(bench)


def _sizes(config: EngineConfig) -> Iterator[tuple[int, int, int]]:
    """M, N, K: bound by rows, by weights in many K tiles, by short steps, by results, a tile alone, many N tiles."""
    rows, lanes = config.rows, config.lanes
    for m, n, k in ((rows, 2 * lanes, 512), (2, lanes, 1024), (2 * rows + 1, lanes + 1, 16), (rows, 4 * lanes, 16),
                    (rows, lanes, 256), (2, 4 * lanes, 256)):  # fmt: skip
        yield m, n, min(k, config.k_max)


def _rounded(config: EngineConfig, gemm: Gemm) -> int:
    """Cycles in which the rows of the last tile are rounded, and those of the one before it."""
    rows, lanes = min(gemm.rows, config.rows), min(gemm.outputs, config.lanes)
    last_rows, last_lanes = (gemm.rows - 1) % config.rows + 1, (gemm.outputs - 1) % config.lanes + 1
    before = rows * ceil_div(lanes, _ROUNDED) if gemm.rows > rows or gemm.outputs > lanes else 0
    return before + last_rows * ceil_div(last_lanes, _ROUNDED)


def _load(gemm: Gemm) -> GemmLoad:
    return GemmLoad(
        rows=gemm.rows,
        outputs=gemm.outputs,
        columns=gemm.columns,
        weight_fp4=1 - unpack(gemm.weight).fp8_share,
        activation_fp4=1 - gemm.quantized().fp8_share,
    )


def _charged(counters: dict[str, int]) -> int:
    return sum(value for name, value in counters.items() if name.startswith("stall_"))


def _rows_by_precision(bench: Bench) -> None:
    """Where rows go by precision, one that comes last and then first must wait for its sum; else none does.

    Row 0 alone is FP8: behind the others in the first step, before them in the last, which is in order. Where fetching
    a step's weights takes longer than its rows, none has to wait.
    """
    config = bench.config
    if config.k_max < 2 * BLOCK_SIZE or config.rows <= config.lanes // (2 * config.weight_streams) + 1:
        return
    generator = torch.Generator().manual_seed(5)
    fp8 = torch.zeros(config.rows, 2, dtype=torch.bool)
    fp8[0] = True
    columns = 2 * BLOCK_SIZE
    activations = blocks_in_precisions(torch.randn(config.rows, columns, generator=generator), fp8)
    weight = pack(random_mixed(config.lanes, columns, 0.5, generator))
    result = bench.driver.run(Gemm(weight, activations.tensor((config.rows, columns), 0)))
    waits = result.counters["stall_sums"] > 0
    bench.expect("a row that comes last and then first waits", waits, config.row_order == "precision")


def late_streams(bench: Bench) -> None:
    """Streams that come late: who is charged, and that the span begins with the first block pair, in the next GEMM too.

    While weights are missing nothing is known of activations, so both together are charged to weights.
    """
    engine, driver, config = bench.engine, bench.driver, bench.config
    gemm = uniform_gemm(min(config.rows, 8), config.lanes, min(config.k_max, 64), 0.5, 3)
    streams = operand_streams(gemm, config)
    late = {
        "weights": [name for name in streams if name != "activations"],
        "activations": ["activations"],
        "both": list(streams),
    }
    for who, names in late.items():
        program(bench, gemm)
        for name, data in streams.items():
            if name not in names:
                engine.send(name, data)
        engine.wait(_LATE)
        for name in names:
            engine.send(name, streams[name])
        engine.run(cycle_limit(gemm, config))
        counters = driver.counters()
        charged = "weights" if who == "both" else who
        what = f"{who} {_LATE} cycles late"
        bench.expect(f"{what}: charged to {charged}", counters[f"stall_{charged}"] > _LATE // 2, True)
        once = _charged(counters) <= counters["cycles"] - counters["products"]
        bench.expect(f"{what}: no cycle is charged twice", once, True)
        bench.expect(f"{what}: not in the span", counters["span"] < counters["cycles"] - (_LATE - 50), True)
        bench.expect(f"{what}: results", engine.packet() == result_bytes(gemm, config), True)
        bench.clear_events()
    bench.recovers("late streams")
