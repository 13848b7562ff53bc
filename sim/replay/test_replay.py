"""Replays what is recorded in this folder with cocotb, on any simulator that it knows, and compares every beat.

Needs cocotb alone: `python test_replay.py [verilator|icarus|questa|...]`, or load it in a flow of your own, with the
folder of the files in REPLAY_FOLDER.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge, Timer

__all__ = ["replay"]

FOLDER = Path(os.environ.get("REPLAY_FOLDER", Path(__file__).parent))
MANIFEST = json.loads((FOLDER / "replay.json").read_text())
STALL = float(os.environ.get("REPLAY_STALL", "0.25"))
PATIENCE = 20_000


def beats(name: str) -> list[int]:
    """The beats of a stream, one a line."""
    return [int(line, 16) for line in (FOLDER / f"{name}.hex").read_text().split()]


class Bench:
    """A unit, its clock, what drives it, and what was found wrong."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.clk = getattr(dut, MANIFEST["clock"])
        self.errors: list[str] = []
        self.compared = self.due = self.moved = 0
        self.expected = beats(MANIFEST["results"]["name"])
        self.sources = [Source(self, stream, seed) for seed, stream in enumerate(MANIFEST["sources"])]

    def wrong(self, what: str) -> None:
        self.errors.append(what)
        if len(self.errors) <= 10:
            self.dut._log.error(what)
        assert len(self.errors) <= 1000, self.errors[0]  # a stream that never ends is one that moves

    async def clock(self) -> None:
        while True:
            self.clk.value = 0
            await Timer(5, "step")
            self.clk.value = 1
            await Timer(5, "step")

    async def until(self, condition: Callable[[], Any]) -> None:
        quiet, seen = 0, self.moved
        while not condition():
            await FallingEdge(self.clk)
            quiet = quiet + 1 if self.moved == seen else 0
            seen = self.moved
            assert quiet < PATIENCE, f"nothing moved for {PATIENCE} cycles; {self.compared} beats compared"

    async def results(self) -> None:
        stream = MANIFEST["results"]
        valid, ready = getattr(self.dut, stream["valid"]), getattr(self.dut, stream["ready"])
        payload = [getattr(self.dut, name) for name in stream["payload"]]
        chance = random.Random(99)
        held: int | None = None
        while True:
            await FallingEdge(self.clk)
            taking = chance.random() >= STALL
            ready.value = int(taking)
            await RisingEdge(self.clk)
            if not int(valid.value):
                if held is not None:
                    self.wrong(f"beat {self.compared} was withdrawn while it waited")
                held = None
                continue
            found = 0
            for port in payload:
                found = found << len(port) | int(port.value)
            if held is not None and found != held:
                self.wrong(f"beat {self.compared} changed while it waited")
            held = None if taking else found
            if taking:
                if self.compared >= self.due:
                    self.wrong(f"surplus beat {self.compared}")
                elif found != self.expected[self.compared]:
                    self.wrong(f"beat {self.compared}: expected {self.expected[self.compared]:x}, found {found:x}")
                self.compared += 1
                self.moved += 1

    async def write(self, address: int, value: int) -> None:
        dut = self.dut
        await FallingEdge(self.clk)
        dut.s_axi_awaddr.value, dut.s_axi_wdata.value, dut.s_axi_wstrb.value = address, value, 15
        dut.s_axi_awvalid.value = dut.s_axi_wvalid.value = dut.s_axi_bready.value = 1
        waiting = {"aw", "w"}
        while waiting:
            await RisingEdge(self.clk)
            taken = {name for name in waiting if int(getattr(dut, f"s_axi_{name}ready").value)}
            await FallingEdge(self.clk)
            for name in taken:
                getattr(dut, f"s_axi_{name}valid").value = 0
            waiting -= taken
        await self.answer("b", address)

    async def read(self, address: int, value: int) -> None:
        dut = self.dut
        await FallingEdge(self.clk)
        dut.s_axi_araddr.value, dut.s_axi_arvalid.value, dut.s_axi_rready.value = address, 1, 1
        await RisingEdge(self.clk)
        while not int(dut.s_axi_arready.value):
            await RisingEdge(self.clk)
        await FallingEdge(self.clk)
        dut.s_axi_arvalid.value = 0
        found = await self.answer("r", address)
        if found != value:
            self.wrong(f"register {address:#x}: expected {value:#x}, found {found:#x}")

    async def answer(self, channel: str, address: int) -> int:
        dut = self.dut
        await RisingEdge(self.clk)
        while not int(getattr(dut, f"s_axi_{channel}valid").value):
            await RisingEdge(self.clk)
        if int(getattr(dut, f"s_axi_{channel}resp").value):
            self.wrong(f"register {address:#x}: not OKAY")
        found = int(dut.s_axi_rdata.value) if channel == "r" else 0
        self.moved += 1
        await FallingEdge(self.clk)
        getattr(dut, f"s_axi_{channel}ready").value = 0
        return found

    async def step(self, operation: str, index: int, value: int) -> None:
        dut = self.dut
        if operation == "set":
            port = getattr(dut, MANIFEST["settings"][index])
            await FallingEdge(self.clk)
            port.value = value & (1 << len(port)) - 1
        elif operation == "send":
            self.sources[index].end += value
        elif operation == "expect":
            self.due += value
            await self.until(lambda: self.compared >= self.due)
            for _ in range(64):  # whatever comes too many comes now
                await FallingEdge(self.clk)
        elif operation == "check":
            name = MANIFEST["flags"][index]
            if int(getattr(dut, name).value) != value:
                self.wrong(f"flag {name}: expected {value} after beat {self.compared}")
        elif operation == "clear":
            for level in (1, 0):
                await FallingEdge(self.clk)
                dut.clear_flags.value = level
        elif operation == "wait":
            await self.until(lambda: int(dut.irq.value))
        else:
            await getattr(self, operation)(index, value)


class Source:
    """Drives one stream: valid waits for nothing, and what is not valid is noise."""

    def __init__(self, bench: Bench, stream: dict[str, Any], seed: int) -> None:
        self.bench, self.beats, self.next, self.end = bench, beats(stream["name"]), 0, 0
        self.chance = random.Random(seed)
        dut = bench.dut
        self.valid, self.ready = getattr(dut, stream["valid"]), getattr(dut, stream["ready"])
        self.payload = [getattr(dut, name) for name in stream["payload"]]
        self.width = stream["width"]
        self.offered = False
        self.show(1)  # during reset too, which must not be heard

    def show(self, valid: int) -> None:
        self.valid.value = valid
        value = self.beats[self.next] if self.offered else self.chance.getrandbits(self.width)
        for port in reversed(self.payload):
            port.value = value & (1 << len(port)) - 1
            value >>= len(port)

    async def run(self) -> None:
        while True:
            await FallingEdge(self.bench.clk)
            self.offered = self.offered or (self.next < self.end and self.chance.random() >= STALL)
            self.show(int(self.offered))
            await RisingEdge(self.bench.clk)
            if self.offered and int(self.ready.value):
                self.next += 1
                self.offered = False
                self.bench.moved += 1


def fields(line: int, ports: list[tuple[str, int]]) -> list[int]:
    """What a line says of each port; the first has the highest bits."""
    values = []
    for _, width in reversed(ports):
        values.append(line & (1 << width) - 1)
        line >>= width
    return values[::-1]


async def cycles(dut: Any) -> None:
    """All cycles of a unit without streams."""
    errors: list[str] = []
    compared = 0
    inputs, outputs = MANIFEST["inputs"], MANIFEST["outputs"]
    clock = getattr(dut, MANIFEST["clock"]) if MANIFEST["clock"] else None
    expected, checked = beats("expected"), beats("checked")
    for number, given in enumerate(beats("inputs")):
        for (name, _), value in zip(inputs, fields(given, inputs), strict=True):
            getattr(dut, name).value = value
        if clock is not None:
            clock.value = 0
        await Timer(5, "step")
        compared += checked[number] != 0
        wanted, counts = fields(expected[number], outputs), fields(checked[number], outputs)
        for (name, _), value, counted in zip(outputs, wanted, counts, strict=True):
            if counted and (found := int(getattr(dut, name).value)) != value:
                errors.append(f"beat {number}: expected {value:x} of {name}, found {found:x}")
        if clock is not None:
            clock.value = 1
        await Timer(5, "step")
    for line in errors[:10]:
        dut._log.error(line)
    assert not errors, f"{len(errors)} differences, first: {errors[0]}"
    assert compared == MANIFEST["results"]["beats"]
    dut._log.info(f"PASS: {compared} beats compared, none differs")


@cocotb.test()
async def replay(dut: Any) -> None:
    """The whole script."""
    if "inputs" in MANIFEST:
        await cycles(dut)
        return
    bench = Bench(dut)
    reset, active = getattr(dut, MANIFEST["reset"]), MANIFEST["reset_active"]
    for name in MANIFEST["quiet"]:
        getattr(dut, name).value = 0
    getattr(dut, MANIFEST["results"]["ready"]).value = 0
    reset.value = active
    cocotb.start_soon(bench.clock())
    for _ in range(3):
        await FallingEdge(bench.clk)
    reset.value = 1 - active
    for source in bench.sources:
        source.show(0)
        cocotb.start_soon(source.run())
    cocotb.start_soon(bench.results())
    for line in (FOLDER / "script.hex").read_text().split():
        word = int(line, 16)
        operation = MANIFEST["operations"][word >> 56]
        if operation == "end":
            break
        await bench.step(operation, word >> 32 & 0xFFFFFF, word & 0xFFFFFFFF)
    assert not bench.errors, f"{len(bench.errors)} differences, first: {bench.errors[0]}"
    assert bench.compared == len(bench.expected)
    dut._log.info(f"PASS: {bench.compared} beats compared, none differs")


if __name__ == "__main__":
    from cocotb_tools.check_results import get_results
    from cocotb_tools.runner import get_runner

    runner = get_runner(sys.argv[1] if len(sys.argv) > 1 else "verilator")
    sources = [FOLDER / name for name in MANIFEST["verilog"]]
    runner.build(sources=sources, hdl_toplevel=MANIFEST["unit"], build_dir=FOLDER / "build")
    results = runner.test(
        hdl_toplevel=MANIFEST["unit"], test_module="test_replay", build_dir=FOLDER / "build", test_dir=FOLDER
    )
    sys.exit(get_results(results) != (1, 0))  # tests, and those that failed
