"""A recording: the steps of a bench and the beats of its streams, from campaigns or GEMMs. The golden model answers."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ...formats import ceil_div
from ...hdl.config import EngineConfig
from ...hdl.design import Design
from ...hdl.engine.config import STREAM_BYTES
from ...hdl.engine.registers import EVENTS, IDENTIFICATION, MAP_VERSION, register
from ..campaign import Campaign, named
from ..engine.gemm import Gemm, field_value
from ..engine.random_gemms import random_gemm
from ..engine.wire import operand_streams, result_bytes
from ..regression import campaigns_of
from ..scoreboard import as_integer

__all__ = ["OPERATIONS", "Recording", "Step", "Stream", "record"]

OPERATIONS = ("end", "set", "send", "expect", "check", "clear", "write", "read", "wait")
"""What a step does; the index is its number in the script.

set, check: the input or output of that index has a value. send: so many beats more of the stream of that index.
expect: wait for so many beats of the result stream, and for surplus ones. clear: sticky flags. write, read: a register
of the engine, which must answer OKAY and, when read, with that value. wait: for the interrupt.
"""

_IDENTITY = (("ID", IDENTIFICATION), ("VERSION", MAP_VERSION))
"""What an engine is asked first."""


@dataclass(frozen=True)
class Step:
    """One line of the script."""

    operation: str
    index: int = 0
    value: int = 0

    def line(self) -> str:
        """64 bits: operation, 8; index or address, 24; value, 32."""
        return f"{OPERATIONS.index(self.operation):02x}{self.index:06x}{self.value & 0xFFFFFFFF:08x}"


@dataclass(frozen=True)
class Stream:
    """A stream of a unit: ports, and all beats that go through it.

    Attributes:
        name: for files.
        valid, ready: ports.
        payload: ports, the highest bits first.
        width: of a beat, bits.
        beats: as integers.
    """

    name: str
    valid: str
    ready: str
    payload: tuple[str, ...]
    width: int
    beats: tuple[int, ...]


@dataclass(frozen=True)
class Recording:
    """Attributes:
    sources: streams into the unit, in the order of the indices of "send".
    results: the stream out of it.
    settings: input ports of "set".
    flags: output ports of "check".
    steps: the script.
    """

    sources: tuple[Stream, ...]
    results: Stream
    settings: tuple[str, ...]
    flags: tuple[str, ...]
    steps: tuple[Step, ...]


def record(design: Design, *, count: int, seed: int, campaigns: Sequence[str] = ()) -> Recording:
    """A lane's or selector's campaigns with `count` random rows or blocks, or `count` GEMMs of all kinds of an engine.

    `campaigns` are the names of those that are wanted, or all. Raises InputError for a unit without a bench, or for a
    campaign that there is not.
    """
    if isinstance(design.config, EngineConfig):
        if campaigns:
            raise InputError(f"campaign: {campaigns[0]!r}, expected none of an engine, which gets GEMMs")
        return _of_gemms(design, list(_gemms(design.config, count, seed)))
    made = campaigns_of(design, count=count, seed=seed, share=61, model=False)
    return _of_campaigns(design, named(made, *campaigns) if campaigns else made)


def _of_campaigns(design: Design, campaigns: Sequence[Campaign]) -> Recording:
    streams = {side: design.port(f"{side}_payload").width for side in "io"}
    settings = tuple(sorted({name for c in campaigns for g in c.groups for name in g.registers}))
    flags = tuple(sorted({name for c in campaigns for g in c.groups for name in g.flags}))
    steps = []
    for group in (group for campaign in campaigns for group in campaign.groups):
        steps += [Step("set", settings.index(name), value) for name, value in group.registers.items()]
        steps += [Step("send", 0, group.inputs), Step("expect", 0, group.results)]
        steps += [Step("check", flags.index(name), value) for name, value in group.flags.items()]
        steps.append(Step("clear"))
    beats = {"i": [c.inputs for c in campaigns], "o": [c.results for c in campaigns]}
    made = {
        side: Stream(side, f"{side}_valid", f"{side}_ready", (f"{side}_payload",), width, _integers(beats[side]))
        for side, width in streams.items()
    }
    return Recording((made["i"],), made["o"], settings, flags, (*steps, Step("end")))


def _integers(parts: Sequence[np.ndarray]) -> tuple[int, ...]:
    return tuple(as_integer(row) for part in parts for row in part)


def _gemms(config: EngineConfig, count: int, seed: int) -> Iterator[Gemm]:
    if count > 1000:
        raise InputError(f"count: {count}, expected at most 1000 GEMMs")
    chance = random.Random(seed)
    kinds = [(False, "float32"), (False, "bfloat16")]
    if config.packed_output:
        kinds.append((False, "packed"))
    if config.raw_input != "none":
        kinds += [(True, output) for _, output in kinds]
    for index in range(count):
        rows, outputs = chance.randint(1, 2 * config.rows + 1), chance.randint(1, 2 * config.lanes + 1)
        sizes = rows, outputs, chance.randint(1, min(config.k_max, 600))
        yield random_gemm(sizes, chance, config, kind=kinds[index % len(kinds)])


def _of_gemms(design: Design, gemms: Sequence[Gemm]) -> Recording:
    config = design.config
    assert isinstance(config, EngineConfig)
    names = (*config.weight_stream_names, "activations")
    beats: dict[str, list[int]] = {name: [] for name in (*names, "results")}
    steps = [Step("read", register(name).offset, value) for name, value in _IDENTITY]
    for gemm in gemms:
        steps += [Step("write", address, value) for address, value in gemm.register_writes()]
        steps.append(Step("write", register("INTERRUPT_ENABLE").offset, field_value("INTERRUPT_ENABLE", done=1)))
        steps.append(Step("write", register("CONTROL").offset, field_value("CONTROL", start=1)))
        for name, data in operand_streams(gemm, config).items():
            packet = _packet(data)
            beats[name] += packet
            steps.append(Step("send", names.index(name), len(packet)))
        results = _packet(result_bytes(gemm, config))
        beats["results"] += results
        steps += [Step("expect", 0, len(results)), Step("wait")]
        done = 1 << [name for name, _ in EVENTS].index("done")
        steps += [Step("read", register("EVENTS").offset, done), Step("write", register("EVENTS").offset, done)]
        steps.append(Step("read", register("EVENTS").offset, 0))
    sources = tuple(_axi_stream(name, f"s_axis_{name}", beats[name]) for name in names)
    return Recording(sources, _axi_stream("results", "m_axis_results", beats["results"]), (), (), (*steps, Step("end")))


def _axi_stream(name: str, prefix: str, beats: Sequence[int]) -> Stream:
    payload = tuple(f"{prefix}_{part}" for part in ("tlast", "tkeep", "tdata"))
    return Stream(name, f"{prefix}_tvalid", f"{prefix}_tready", payload, 9 * STREAM_BYTES + 1, tuple(beats))


def _packet(data: bytes) -> list[int]:
    """Beats of TLAST, TKEEP and TDATA; bytes that are not kept are 0."""
    count = ceil_div(len(data), STREAM_BYTES)
    beats = []
    for index in range(count):
        part = data[index * STREAM_BYTES : (index + 1) * STREAM_BYTES]
        keep = (1 << len(part)) - 1
        last = int(index == count - 1)
        beats.append((last << STREAM_BYTES | keep) << 8 * STREAM_BYTES | int.from_bytes(part, "little"))
    return beats
