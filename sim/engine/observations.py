"""Scenarios about what software sees of the engine: events, the interrupt, counters, and ABORT between two GEMMs."""

import torch

from ...formats import ceil_div
from ...golden.packing import pack
from ...golden.random_blocks import blocks_in_precisions
from ...hdl.engine.registers import EVENTS
from .checks import Bench, operand, program
from .driver import cycle_limit
from .gemm import Gemm, field_value
from .random_gemms import random_mixed, uniform_gemm
from .wire import operand_streams, result_bytes

__all__ = ["aborted_pairs", "charged_stalls", "events_and_interrupts", "no_event_is_lost"]

_ALL = (1 << len(EVENTS)) - 1
_MOST_CHARGED = 0.5
"""Of the cycles without a block pair, the share that must be charged to the only stream that stalls."""


def events_and_interrupts(bench: Bench) -> None:
    """Each event by itself raises the interrupt if, and only if, its bit is enabled; clearing it ends that."""
    engine, driver = bench.engine, bench.driver
    for event in _events(bench):
        bit = 1 << [name for name, _ in EVENTS].index(event)
        for enabled in (bit, _ALL & ~bit & ~1, 0):
            driver.write("INTERRUPT_ENABLE", enabled)
            _cause(bench, event, enabled)
            seen = driver.events()
            bench.expect(f"{event}: set", event in seen, True)
            others = sum(1 << i for i, (name, _) in enumerate(EVENTS) if name in seen)
            wanted = int(bool(others & enabled))
            bench.expect(f"{event}: interrupt with {enabled:#x}", driver.read("STATUS") >> 2 & 1, wanted)
            bench.expect(f"{event}: line with {enabled:#x}", engine.interrupt, wanted)
            driver.write("EVENTS", bit)
            bench.expect(f"{event}: cleared", driver.events(), seen - {event})
            bench.clear_events()
            bench.expect(f"{event}: no interrupt", (driver.read("STATUS") >> 2 & 1, engine.interrupt), (0, 0))
            engine.discard()
            driver.write("CONTROL", field_value("CONTROL", abort=1))
            engine.run(50)
            engine.discard()
        bench.recovers(event)


def _events(bench: Bench) -> list[str]:
    """All that can be caused: an accumulator cannot overflow while K is legal."""
    # With one block all of it is FP8, which has no scale.
    without = {"overflow"} | ({"format_error"} if bench.config.k_max < 32 else set())
    return [name for name, _ in EVENTS if name not in without]


def _cause(bench: Bench, event: str, enabled: int) -> None:
    """Let `event` happen, and the rest of its GEMM end."""
    engine, driver = bench.engine, bench.driver
    gemm = _small(bench)
    if event == "config_error":
        for name in ("M", "N", "K", "FORMAT"):
            driver.write(name, 0)
        driver.write("CONTROL", field_value("CONTROL", start=1))
        return
    streams = operand_streams(gemm, bench.config)
    program(bench, gemm)
    driver.write("INTERRUPT_ENABLE", enabled)
    if event == "start_rejected":
        driver.write("CONTROL", field_value("CONTROL", start=1))
        driver.write("CONTROL", field_value("CONTROL", start=1))
        return
    which = next((s for s in streams if event.startswith(operand(s))), None)
    if which is not None:
        data = streams[which]
        streams[which] = data + bytes(32) if event.endswith("_long") else data[: max(len(data) - 16, 1)]
    if event in ("nan", "format_error"):
        streams["activations"] = _spoiled(streams["activations"], event)
    for stream, content in streams.items():
        engine.send(stream, content)
    for _ in range(cycle_limit(gemm, bench.config) // 100):
        engine.wait(100)
        if driver.events() >= {"done"}:
            break
    engine.wait(200)


def _small(bench: Bench) -> Gemm:
    """Two rows of up to four blocks; of the activations every other one is FP8."""
    columns = min(64, bench.config.k_max)
    generator = torch.Generator().manual_seed(bench.chance.randrange(1 << 30))
    weight = random_mixed(bench.config.lanes + 1, columns, 0.5, generator)
    fp8 = torch.tensor([[True, False, True, False]])[:, : columns // 16].expand(2, -1)
    activations = blocks_in_precisions(torch.randn(2, columns, generator=generator) * 8, fp8)
    return Gemm(pack(weight), activations.tensor((2, columns), 0))


def _spoiled(data: bytes, event: str) -> bytes:
    """The first record of `_small`'s activations: a mask 0b0101, two scales, then 16, 8, 16 and 8 bytes of codes."""
    changed = bytearray(data)
    assert changed[0] & 3 == 1, changed[0]
    changed[{"nan": 3 + 7, "format_error": 1}[event]] = {"nan": 0xFF, "format_error": 0}[event]
    return bytes(changed)


def no_event_is_lost(bench: Bench) -> None:
    """EVENTS is cleared in every cycle around a GEMM's end: DONE stays, or was there to be seen before.

    "An event in the same cycle wins": otherwise software that clears events would wait forever.
    """
    engine, driver = bench.engine, bench.driver
    gemm = _small(bench)
    program(bench, gemm)
    for stream, data in operand_streams(gemm, bench.config).items():
        engine.send(stream, data)
    length = engine.run(cycle_limit(gemm, bench.config))
    bench.clear_events()
    engine.packet()
    for before in range(max(length - 14, 0), length + 3):
        program(bench, gemm)
        for stream, data in operand_streams(gemm, bench.config).items():
            engine.send(stream, data)
        seen = engine.interrupt_cycles
        engine.wait(before)
        bench.clear_events()
        engine.wait(40)
        there = "done" in driver.events() or engine.interrupt_cycles > seen
        bench.expect(f"DONE, EVENTS cleared after {before} of {length} cycles", there, True)
        bench.expect("its results", engine.packet() == result_bytes(gemm, bench.config), True)
        bench.clear_events()
    bench.recovers("clearing of events")


def charged_stalls(bench: Bench) -> None:
    """A stream that stalls is what the cycles without a block pair are charged to; if none does, hardly any are."""
    engine, driver, config = bench.engine, bench.driver, bench.config
    names = ("weights", "activations", "results")
    for operand_name in names:
        # A short K, so that there are as many results as block pairs, or a long one.
        columns = 16 if operand_name == "results" else min(config.k_max, 512)
        # Few rows need weights often, however many the engine holds.
        rows = 32 if operand_name == "weights" else max(config.rows, 32)
        gemm = uniform_gemm(rows, 4 * config.lanes, columns, 0.5, 3)
        free = driver.run(gemm).counters
        waited = {name: free[f"stall_{name}"] for name in names}
        streams = [s for s in (*config.operand_streams, "results") if s.startswith(operand_name)]
        for stream in streams:
            engine.stall(stream, 0.96)
        result = driver.run(gemm, limit=40 * cycle_limit(gemm, config))
        for stream in streams:
            engine.stall(stream, 0)
        bench.expect(f"{operand_name} stall: results", result.data == result_bytes(gemm, config), True)
        counters = result.counters
        more = {name: counters[f"stall_{name}"] - waited[name] for name in names}
        # In few and long rows of results it is hardly the GEMM, and in one tile of activations hardly the span.
        longer = [counters[name] - free[name] for name in ("span", "cycles")]
        slower = any(
            more_cycles > free[name] // 8 for name, more_cycles in zip(("span", "cycles"), longer, strict=True)
        )
        bench.expect(f"{operand_name} stall: time is lost", slower, True)
        lost = max(longer)
        charged = more[operand_name] > _MOST_CHARGED * lost and max(more, key=lambda n: more[n]) == operand_name
        bench.expect(f"{operand_name} stall: of {lost} cycles {more}: charged to it", charged, True)
        bench.expect(f"{operand_name} stall: products", counters["products"], free["products"])
    _after_the_last_pair(bench)


def _after_the_last_pair(bench: Bench) -> None:
    """While the results of the last block pair wait, the GEMM goes on, and neither span nor stalls do."""
    engine, driver, config = bench.engine, bench.driver, bench.config
    gemm = uniform_gemm(1, config.lanes, min(config.k_max, 256), 0.5, 3)
    engine.stall("results", 1)
    program(bench, gemm)
    for stream, data in operand_streams(gemm, config).items():
        engine.send(stream, data)
    engine.wait(cycle_limit(gemm, config))
    before = driver.counters()
    engine.wait(300)
    after = driver.counters()
    bench.expect("all block pairs", before["products"], ceil_div(gemm.columns, 16))
    still = [name for name in before if name == "span" or name.startswith("stall_")]
    bench.expect("counters while results wait", {n: after[n] for n in still}, {n: before[n] for n in still})
    bench.expect("cycles while results wait", after["cycles"] >= before["cycles"] + 300, True)
    bench.expect("busy while results wait", driver.read("STATUS") & 1, 1)
    engine.stall("results", 0)
    engine.run(cycle_limit(gemm, config))
    bench.expect("results that waited", engine.packet() == result_bytes(gemm, config), True)
    ended = driver.counters()
    bench.expect("counters at the end", {n: ended[n] for n in still}, {n: before[n] for n in still})
    bench.clear_events()


def aborted_pairs(bench: Bench) -> None:
    """ABORT forgets a GEMM that runs and one that waits; START may follow in the next write, but not be in the same."""
    engine, driver, chance = bench.engine, bench.driver, bench.chance
    both = field_value("CONTROL", start=1, abort=1)
    for columns in (16, 0):
        for name, value in (("M", 1), ("N", 1), ("K", columns), ("FORMAT", 0)):
            driver.write(name, value)
        driver.write("CONTROL", both)
        bench.expect(f"START and ABORT, K={columns}", (driver.events(), driver.read("STATUS")), (set(), 0))
        engine.wait(20)
        bench.expect(f"START and ABORT, K={columns}, later", (driver.events(), driver.read("STATUS")), (set(), 0))
    for at_once in (False, True) * 4:
        first, second, third = bench.long_gemm(), _small(bench), _small(bench)
        ended = driver.read("JOBS")
        driver.start(first)
        program(bench, second)
        bench.expect("running and waiting", driver.read("STATUS") & 3, 3)
        engine.run(chance.randint(1, 600))
        engine.discard()
        for address, value in third.register_writes():
            engine.write(address, value)
        driver.write("CONTROL", field_value("CONTROL", abort=1))
        if not at_once:
            bench.expect("ABORT of two", driver.read("STATUS") & 3, 0)
            engine.wait(20)
            bench.expect("nothing runs later", driver.read("STATUS"), 0)
            bench.expect("ABORT ends no GEMM", driver.read("JOBS"), ended)
        bench.clear_events()
        driver.write("CONTROL", field_value("CONTROL", start=1))
        for stream, data in operand_streams(third, bench.config).items():
            engine.send(stream, data)
        engine.run(cycle_limit(third, bench.config))
        bench.expect("START after ABORT: events", driver.events(), {"done"})
        bench.expect("START after ABORT: GEMMs", driver.read("JOBS"), ended + 1)
        packets = list(iter(engine.packet, None))
        bench.expect("START after ABORT: results", packets[-1:] == [result_bytes(third, bench.config)], True)
        bench.clear_events()
    bench.recovers("ABORT of two GEMMs")
