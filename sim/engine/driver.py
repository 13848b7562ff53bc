"""The host's side of the engine: what software on a real system does, register writes and streams and nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ...errors import InputError
from ...formats import ceil_div
from ...golden.packing import Packed
from ...hdl.config import EngineConfig
from ...hdl.engine.config import RAW_INPUTS
from ...hdl.engine.registers import COUNTERS, EVENTS, IDENTIFICATION, MAP_VERSION, register
from ..runner import SimulationError
from .gemm import Gemm, field_value
from .wire import float_results, operand_streams, packed_results

__all__ = ["EngineDriver", "EnginePort", "Result", "check_gemm", "cycle_limit"]


class EnginePort(Protocol):
    """A system as the driver needs it: registers, streams to the engine, one from it, and time."""

    def write(self, address: int, value: int) -> int:
        """Write a register."""

    def read(self, address: int) -> int:
        """Read a register."""

    def send(self, stream: str, data: bytes) -> None:
        """Hand a packet to one of the streams into the engine; it ends with TLAST."""

    def run(self, limit: int) -> int:
        """Wait for the interrupt, at most `limit` cycles; returns how many passed."""

    def packet(self) -> bytes | None:
        """A packet from the result stream, if one is complete."""


@dataclass(frozen=True)
class Result:
    """The outcome of a GEMM.

    Attributes:
        data: the bytes of the result stream.
        value: the results: a tensor (M, N), or a packed one.
        events: names of the events that were set.
        counters: by name; of this GEMM.
        weight_bytes, activation_bytes: sent.
    """

    data: bytes
    value: Tensor | Packed | None
    events: frozenset[str]
    counters: dict[str, int]
    weight_bytes: int
    activation_bytes: int

    @property
    def utilization(self) -> float:
        """Cycles with a block pair in all lanes, over all cycles of the GEMM."""
        return self.counters["products"] / self.counters["cycles"]

    @property
    def inner_utilization(self) -> float:
        """The same from the first block pair to the last."""
        return self.counters["products"] / self.counters["span"]


def _features(config: EngineConfig) -> int:
    """The register FEATURES of an engine."""
    return field_value(
        "FEATURES",
        raw_input=RAW_INPUTS.index(config.raw_input),
        packed_output=int(config.packed_output),
        channel_codes=int(config.channel_codes),
        four_over_six=int(config.four_over_six),
        accumulator_bits=config.accumulator_bits,
        weight_streams=config.weight_streams,
    )


class EngineDriver:
    """Runs GEMMs on an engine behind a `EnginePort`."""

    def __init__(self, port: EnginePort, config: EngineConfig):
        """Identify the engine; raises InputError if it is another one than `config` says."""
        self._port = port
        self.config = config
        if (found := self.read("ID")) != IDENTIFICATION:
            raise InputError(f"engine: ID {found:#010x}, expected {IDENTIFICATION:#010x}")
        if (found := self.read("VERSION")) != MAP_VERSION:
            raise InputError(f"engine: register map version {found}, expected {MAP_VERSION}")
        shape = {"lanes": config.lanes, "rows": config.rows, "slots": config.slots, "k_tile_blocks": 16}
        if (found := self.read("SHAPE")) != (expected := field_value("SHAPE", **shape)):
            raise InputError(f"engine: SHAPE {found:#010x}, expected {expected:#010x}")
        if (found := self.read("FEATURES")) != (expected := _features(config)):
            raise InputError(f"engine: FEATURES {found:#010x}, expected {expected:#010x}")

    def read(self, name: str) -> int:
        """Read a register by name."""
        return self._port.read(register(name).offset)

    def write(self, name: str, value: int) -> None:
        """Write a register by name."""
        self._port.write(register(name).offset, value)

    def start(self, gemm: Gemm) -> tuple[int, int]:
        """Program a GEMM, send its streams and start it; returns the bytes of weights and of activations."""
        check_gemm(gemm, self.config)
        for address, value in gemm.register_writes():
            self._port.write(address, value)
        self.write("INTERRUPT_ENABLE", field_value("INTERRUPT_ENABLE", done=1, start_rejected=1, config_error=1))
        self.write("CONTROL", field_value("CONTROL", start=1))
        if refused := self.events() & {"start_rejected", "config_error"}:  # its packets would be the next GEMM's
            raise SimulationError(f"engine: START refused, {min(refused)}")
        streams = operand_streams(gemm, self.config)
        for name, data in streams.items():
            self._port.send(name, data)
        activations = len(streams["activations"])
        return sum(map(len, streams.values())) - activations, activations

    def finish(self, gemm: Gemm, sent: tuple[int, int], limit: int | None = None) -> Result:
        """Wait for the GEMM's end, collect its results and clear its events.

        Raises SimulationError if it does not end within `limit` cycles.
        """
        limit = cycle_limit(gemm, self.config) if limit is None else limit
        waited = self._port.run(limit)
        events = self.events()
        if refused := events & {"start_rejected", "config_error"}:
            raise SimulationError(f"engine: START refused, {min(refused)}")
        if "done" not in events:
            raise SimulationError(f"engine: no end after {waited} cycles, events {sorted(events)}")
        self.write("EVENTS", sum(1 << bit for bit, (name, _) in enumerate(EVENTS) if name in events))
        data = self._port.packet()
        if data is None:
            raise SimulationError("engine: done, but the result stream did not end with TLAST")
        value: Any = None
        if not any(name.endswith("_short") for name in events):
            decode = packed_results if gemm.output == "packed" else float_results
            try:
                value = decode(data, gemm, self.config)
            except (RuntimeError, ValueError):
                raise SimulationError(f"engine: {len(data)} bytes of results do not hold what was asked for") from None
        return Result(data, value, frozenset(events), self.counters(), *sent)

    def run(self, gemm: Gemm, limit: int | None = None) -> Result:
        """Start a GEMM and wait for its end."""
        return self.finish(gemm, self.start(gemm), limit)

    def counters(self) -> dict[str, int]:
        """All counters by name, of the GEMM that runs or ran last."""
        return {name: self.read(name.upper()) for name, _ in COUNTERS}

    def events(self) -> set[str]:
        """Names of the events that are set."""
        return set(_names(self.read("EVENTS")))


def _names(value: int) -> Iterator[str]:
    return (name for bit, (name, _) in enumerate(EVENTS) if value >> bit & 1)


def check_gemm(gemm: Gemm, config: EngineConfig) -> None:
    """Raise InputError for what this engine cannot do."""
    if gemm.columns > config.k_max:
        raise InputError(f"K: {gemm.columns}, expected at most {config.k_max} in this engine")
    if gemm.raw:
        kind = str(gemm.activations.dtype).removeprefix("torch.")  # type: ignore[union-attr]
        if kind != config.raw_input:
            raise InputError(f"raw activations: {kind}, expected {config.raw_input} in this engine")
    if gemm.output == "packed" and not config.packed_output:
        raise InputError("output: packed, expected float32 or bfloat16 in this engine")
    if gemm.output == "packed" and gemm.outputs > config.n_max:
        raise InputError(f"N: {gemm.outputs}, expected at most {config.n_max} for packed results")
    for name, settings in (("settings", gemm.settings), ("output_settings", gemm.output_settings)):
        if settings is not None and settings.channel_codes is not None and not config.channel_codes:
            raise InputError(f"{name}: channel codes given, expected none in this engine")
        if settings is not None and settings.four_over_six and not config.four_over_six:
            raise InputError(f"{name}: four over six, expected an engine that is built with it")


def cycle_limit(gemm: Gemm, config: EngineConfig) -> int:
    """Far more cycles than the GEMM can need, unless its streams stall for most of the time."""
    m_tiles, n_tiles = ceil_div(gemm.rows, config.rows), ceil_div(gemm.outputs, config.lanes)
    steps = m_tiles * n_tiles * (ceil_div(gemm.columns, 16) + 16)
    return 20_000 + 40 * steps * (config.rows + 2 * config.lanes)
