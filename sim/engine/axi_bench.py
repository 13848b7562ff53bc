"""The cocotb bench of the engine: AXI models by cocotbext-axi drive what was prepared. Loaded by the simulator.

The folder (environment variable FGMP_RUN) has one folder a GEMM: `gemm.json` (register writes, pauses, whether
every block is FP4) and the bytes of the three streams. `summary.json` is written into it.
"""

import itertools
import json
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge, Timer, with_timeout
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiStreamBus, AxiStreamFrame, AxiStreamSink, AxiStreamSource

from fgmp.hdl.engine.registers import COUNTERS, EVENTS, register

_PERIOD = 10


@cocotb.test()
async def gemms(dut: Any) -> None:
    """All GEMMs of the folder, one after the other, back to back."""
    folder = Path(os.environ["FGMP_RUN"])
    cocotb.start_soon(Clock(dut.aclk, _PERIOD, unit="ns").start())
    dut.aresetn.value = 0
    operands = json.loads((folder / "streams.json").read_text())
    streams: dict[str, Any] = {
        name: AxiStreamSource(AxiStreamBus.from_prefix(dut, f"s_axis_{name}"), dut.aclk, dut.aresetn, False)
        for name in operands
    }
    streams["results"] = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis_results"), dut.aclk, dut.aresetn, False)
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.aclk, dut.aresetn, reset_active_level=False)
    for _ in range(3):
        await RisingEdge(dut.aclk)
    dut.aresetn.value = 1
    await RisingEdge(dut.aclk)
    summary = []
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        summary.append(await _gemm(dut, path, streams, master))
        (folder / "summary.json").write_text(json.dumps(summary))
    wrong = [entry["wrong"] for entry in summary if entry["wrong"]]
    assert not wrong, wrong[0]


async def _gemm(dut: Any, path: Path, streams: dict[str, Any], master: Any) -> dict[str, Any]:
    gemm = json.loads((path / "gemm.json").read_text())
    chance = random.Random(gemm["seed"])
    for name, stream in streams.items():
        stream.clear_pause_generator()
        stream.pause = False  # what the generator said last would stay
        # Every frame in full, twice, would be most of the time of a run.
        stream.log.setLevel(logging.WARNING)
        if gemm["pauses"][name]:
            stream.set_pause_generator(_pauses(chance, gemm["pauses"][name]))
    for address, value in gemm["writes"]:
        await master.write_dword(address, value)
    for name, stream in streams.items():
        if name != "results" and (path / f"{name}.bin").exists():
            stream.send_nowait(AxiStreamFrame((path / f"{name}.bin").read_bytes()))
    await master.write_dword(register("INTERRUPT_ENABLE").offset, 1)
    watch = cocotb.start_soon(_only_fp4(dut, list(streams))) if gemm["only_fp4"] else None
    await master.write_dword(register("CONTROL").offset, 1)
    frame = await with_timeout(streams["results"].recv(), gemm["limit"] * _PERIOD, "ns")
    while not int(dut.irq.value):
        await RisingEdge(dut.aclk)
    if watch is not None:
        watch.cancel()
    counters = {name: await master.read_dword(register(name.upper()).offset) for name, _ in COUNTERS}
    events = await master.read_dword(register("EVENTS").offset)
    await master.write_dword(register("EVENTS").offset, events)
    for _ in range(2):
        await RisingEdge(dut.aclk)
    expected = (path / "results.bin").read_bytes()
    wrong = []
    if bytes(frame.tdata) != expected:
        where = next((i for i, (a, b) in enumerate(zip(frame.tdata, expected, strict=False)) if a != b), -1)
        wrong.append(
            f"{gemm['name']}: {len(frame.tdata)} result bytes, expected {len(expected)}; first difference {where}"
        )
    if events != 1:
        wrong.append(
            f"{gemm['name']}: events {[n for b, (n, _) in enumerate(EVENTS) if events >> b & 1]}, expected done"
        )
    if int(dut.irq.value):
        wrong.append(f"{gemm['name']}: the interrupt stayed")
    return {"name": gemm["name"], "bytes": len(expected), "counters": counters, "wrong": wrong[0] if wrong else None}


async def _only_fp4(dut: Any, streams: list[str]) -> None:
    """While every block is FP4: no second bank is read, and nothing that only FP8 uses changes in a lane."""
    core = dut.core
    paths = [getattr(core, name.replace("weights", "weight_path")) for name in streams if name.startswith("weights")]
    buffers = [core.activation_path.buffer, *(bank for p in paths for bank in (p.buffer.bank_0, p.buffer.bank_1))]
    banks = [buffer.bank_1.read_enable for buffer in buffers]
    await Timer(1, "ns")
    lane = core.lane_0
    first: dict[str, int] = {}
    for cycle in itertools.count():
        await FallingEdge(dut.aclk)
        for bank in banks:
            assert not int(bank.value), f"cycle {cycle}: {bank._path} reads for an FP4 block"
        upper = {
            "held weight": int(lane.following.value) >> 64 & (1 << 64) - 1,
            "activation": int(lane.a_significands.value),
        }
        # The first weight of all may find anything there.
        for name, value in upper.items():
            assert first.setdefault(name, value) == value, f"cycle {cycle}: the upper half of the {name} changed"


def _pauses(chance: random.Random, probability: float) -> Iterator[bool]:
    while True:
        yield chance.random() < probability
