"""The cocotb bench: runs every campaign of a folder on one simulated unit. Loaded by the simulator, not by users.

The folder (environment variable FGMP_RUN, set by the runner) with one folder a campaign; `summary.json` is
written into it. The test fails at the end if anything differed, so that one run reports all campaigns.
"""

import json
import os
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import Timer

from fgmp.hdl.design import Port
from fgmp.sim.campaign import Campaign, read_campaign
from fgmp.sim.scoreboard import Scoreboard, as_integer
from fgmp.sim.streams import Clock, ProtocolError, Sink, Source

_DRAIN = 10
_PATIENCE = 2000  # cycles without any movement before a bench gives up
_SURPLUS = 16  # results beyond those expected before it does


@cocotb.test()
async def campaigns(dut: Any) -> None:
    """All campaigns of the folder, in order of their folders' names."""
    run = Path(os.environ["FGMP_RUN"])
    ports = {p["name"]: Port(**p) for p in json.loads((run / "ports.json").read_text())}
    fault = int(os.environ.get("FGMP_FAULT", "0"))
    summary: list[dict[str, Any]] = []
    (run / "summary.json").write_text(json.dumps(summary))
    for folder in sorted(p for p in run.iterdir() if p.is_dir()):
        campaign = read_campaign(folder)
        board, cycles = await run_campaign(dut, campaign, ports, fault)
        summary.append(
            {
                "name": campaign.name,
                "compared": board.compared,
                "differences": board.differences,
                "first": board.first,
                "cycles": cycles,
            }
        )
        (run / "summary.json").write_text(json.dumps(summary))
        # One line a campaign: the runner shows progress by counting them.
        with (run / "progress").open("a") as progress:
            progress.write(campaign.name + "\n")
    failed = [entry for entry in summary if entry["differences"]]
    assert not failed, failed[0]["first"]


async def run_campaign(dut: Any, campaign: Campaign, ports: dict[str, Port], fault: int) -> tuple[Scoreboard, int]:
    """One campaign, from reset on; what was compared, and in how many cycles."""
    board = Scoreboard(campaign.name, ports["i_payload"], ports["o_payload"])
    source = Source(dut, "i", campaign.stalls[0], campaign.seed)
    sink = Sink(dut, "o", campaign.stalls[1], campaign.seed)
    clock = Clock(dut, source, sink)
    if hasattr(dut, "fault_select"):
        dut.fault_select.value = fault
    dut.clear_flags.value = 0
    _set(dut, campaign.groups[0].registers)
    # The worst a neighbour can do during reset: offer nonsense and take nothing.
    dut.i_valid.value = 1
    dut.i_payload.value = int("10" * (len(dut.i_payload) // 2), 2)
    dut.o_ready.value = 0
    await clock.reset()
    dut.i_valid.value = 0
    sink.close()
    inputs, results = [*map(as_integer, campaign.inputs)], [*map(as_integer, campaign.results)]
    sent = received = 0
    for number, group in enumerate(campaign.groups):
        _set(dut, group.registers)
        source.send(inputs[sent : sent + group.inputs])
        completing = _completing(inputs[sent : sent + group.inputs], ports["i_payload"], group.results)
        sink.taken.clear()
        quiet = 0
        # A unit that takes nothing and gives results without end moves; there are too many of them then.
        most = group.results + _SURPLUS
        while (not source.idle or len(sink.taken) < group.results) and len(sink.taken) <= most:
            quiet = 0 if await clock.tick() else quiet + 1
            if quiet > _PATIENCE:
                raise ProtocolError(
                    f"campaign {campaign.name!r}: nothing moved for {_PATIENCE} cycles, "
                    f"{len(sink.taken)} of {group.results} results of group {number} arrived"
                )
        # Whatever comes too many comes now: ready stays high for longer than the pipeline is deep.
        sink.open()
        for _ in range(_DRAIN):
            await clock.tick()
        for index, (expected, actual) in enumerate(zip(results[received:], sink.taken, strict=False)):
            if index < group.results:
                board.check_result(received + index, expected, actual, completing[index])
        board.check_count(group.results, len(sink.taken))
        await Timer(1)
        for name, value in group.flags.items():
            board.check_flag(name, value, int(getattr(dut, name).value), number)
        dut.clear_flags.value = 1
        await clock.tick()
        dut.clear_flags.value = 0
        sink.close()
        sent += group.inputs
        received += group.results
    return board, clock.cycles


def _set(dut: Any, registers: Any) -> None:
    for name, value in registers.items():
        handle = getattr(dut, name)
        handle.value = value & (1 << len(handle)) - 1


def _completing(inputs: list[int], port: Port, results: int) -> list[int]:
    """The inputs that complete a result: those marked last, or all of them."""
    if results == len(inputs):
        return inputs
    bit = port.fields["last"][0]
    return [payload for payload in inputs if payload >> bit & 1]
