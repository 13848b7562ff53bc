"""The engine compiled by Verilator into a library with a C++ loop around it: a fast stand-in for the real thing."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...cache import SIMULATORS as CACHE
from ...hdl.config import EngineConfig
from ...hdl.design import Design
from ...hdl.engine.config import weight_stream_names
from ..library import compile_library
from ..runner import SimulationError
from ..waves.recording import RESERVE

__all__ = ["VerilatedEngine", "build_library"]

_LOOP = Path(__file__).with_name("simulator.cpp")


def build_library(
    design: Design,
    *,
    random_state: bool = False,
    coverage: bool = False,
    lint: bool = True,
    trace: str | None = None,
    cache: Path = CACHE,
) -> Path:
    """Compile the engine and the loop, or find them compiled in `cache`; returns the library's path.

    `random_state` lets registers and memories start with random values; such a library runs slower. With `coverage` it
    counts lines and toggles, for `write_coverage`. With `lint`, a warning of Verilator's is an error. `trace` ("fst",
    "vcd", "saif") lets `record` write such a file.
    """
    assert isinstance(design.config, EngineConfig)
    flags = [f"-DFGMP_WEIGHT_STREAMS={design.config.weight_streams}"]
    how: dict[str, Any] = {"random_state": random_state, "coverage": coverage, "lint": lint, "trace": trace}
    return compile_library(design, _LOOP, flags=flags, cache=cache, **how)


class VerilatedEngine:
    """A simulated engine: register accesses, streams and time. `driver.EngineDriver` makes GEMMs of them."""

    def __init__(self, library: Path, *, seed: int = 1, random_state: bool = False, fault: int = 0):
        """`fault` selects one of the planted faults, where the design has any."""
        self._c = _declare(ctypes.CDLL(str(library)))
        self._handle = self._c.fgmp_create(seed, int(random_state), fault)
        self._streams = (*weight_stream_names(self._c.fgmp_weight_streams()), "activations", "results")
        self.reset()

    def close(self) -> None:
        """Free the simulation."""
        if self._handle:
            self._c.fgmp_destroy(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.close()

    def write_coverage(self, path: Path) -> None:
        """Write what was covered so far, if the library was built for it, in Verilator's format."""
        self._c.fgmp_coverage(self._handle, str(path).encode())

    def record(self, path: Path) -> None:
        """Write what happens from now on into a file, if the library was built with `trace`."""
        self._c.fgmp_trace(self._handle, str(path).encode(), RESERVE)

    def stop_recording(self) -> int:
        """Complete the file, where there is one. Returns whether everything is in it, or the disk was full before."""
        return self._c.fgmp_trace_end(self._handle)

    def reset(self, cycles: int = 1) -> None:
        """Reset, and forget what streams hold on this side."""
        self._c.fgmp_reset(self._handle, cycles)

    def write(self, address: int, value: int, strobes: int = 15, delays: tuple[int, int, int] = (0, 0, 0)) -> int:
        """Write a register; returns the response (0 OKAY, 2 SLVERR).

        `delays` are cycles that address, data and the readiness for the response come late.
        """
        late = (ctypes.c_int * 3)(*delays)
        return self._answered(self._c.fgmp_write(self._handle, address, value & 0xFFFFFFFF, strobes, late), address)

    def read(self, address: int) -> int:
        """Read a register; raises SimulationError unless the response is OKAY."""
        value, response = self.read_response(address)
        if response:
            raise SimulationError(f"read of {address:#06x}: response {response}")
        return value

    def read_response(self, address: int, delay: int = 0) -> tuple[int, int]:
        """Read a register: value and response. The readiness for the answer comes `delay` cycles late."""
        value = ctypes.c_uint32()
        response = self._answered(self._c.fgmp_read(self._handle, address, ctypes.byref(value), delay), address)
        return value.value, response

    def overlapped(
        self, writes: Sequence[tuple[int, int]], reads: Sequence[int], pauses: Sequence[float]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Writes (address, value) and reads that do not wait for answers; all responses, and values with responses.

        `pauses` are the probabilities that a channel pauses in a cycle: write addresses, data, write responses, read
        addresses, read data. Raises SimulationError where answers are missing.
        """
        words = [(ctypes.c_uint32 * len(values))(*values) for values in (*zip(*writes, strict=True), reads)]
        answers = (ctypes.c_uint32 * len(writes))()
        data, responses = ((ctypes.c_uint32 * len(reads))() for _ in range(2))
        each = (ctypes.c_double * 5)(*pauses)
        sent = (len(writes), words[0], words[1], answers, len(reads), words[2], data, responses, each)
        if self._c.fgmp_overlapped(self._handle, *sent):
            raise SimulationError(f"{len(writes)} writes and {len(reads)} reads: answers are missing")
        return [*answers], [*zip(data, responses, strict=True)]

    def send(self, stream: str, data: bytes, *, last: bool = True, full: bool = False) -> None:
        """Queue a packet, or with `last` false the beginning of one; with `full` TKEEP is all ones in every beat."""
        self._c.fgmp_send(self._handle, self._streams.index(stream), data, len(data), int(last), int(full))

    def stop_inputs(self) -> None:
        """Forget what is queued."""
        self._c.fgmp_stop(self._handle)

    def discard(self) -> None:
        """Forget what is queued and received."""
        self._c.fgmp_discard(self._handle)

    def trim(self, stream: str, beats: int) -> None:
        """Forget all but the last `beats` of what is queued."""
        self._c.fgmp_trim(self._handle, self._streams.index(stream), beats)

    def stall(self, stream: str, probability: float) -> None:
        """Let a stream pause at random."""
        self._c.fgmp_stall(self._handle, self._streams.index(stream), probability)

    def run(self, limit: int) -> int:
        """Until the interrupt is high, at most `limit` cycles; returns how many."""
        return self._c.fgmp_run(self._handle, limit)

    def wait(self, cycles: int) -> None:
        """Let so many cycles pass, whatever the interrupt does."""
        self._c.fgmp_wait(self._handle, cycles)

    @property
    def interrupt(self) -> int:
        """Level of the interrupt."""
        return self._c.fgmp_interrupt(self._handle)

    @property
    def interrupt_cycles(self) -> int:
        """In how many cycles the interrupt was high since the beginning."""
        return self._c.fgmp_interrupt_cycles(self._handle)

    def packet(self) -> bytes | None:
        """The oldest packet of results that has ended."""
        room = self._c.fgmp_received(self._handle)
        buffer = ctypes.create_string_buffer(max(room, 1))
        size = self._c.fgmp_packet(self._handle, buffer, room)
        return None if size < 0 else buffer.raw[:size]

    def queued(self, stream: str) -> int:
        """Beats that wait to be taken."""
        return self._c.fgmp_queued(self._handle, self._streams.index(stream))

    @property
    def cycles(self) -> int:
        """Clock cycles since the beginning."""
        return self._c.fgmp_cycles(self._handle)

    @property
    def handshake_faults(self) -> int:
        """How often the result stream changed or withdrew a beat that waited, or the registers answered too early,
        twice, or otherwise while they were not heard."""
        return self._c.fgmp_faults(self._handle)

    @staticmethod
    def _answered(response: int, address: int) -> int:
        if response < 0:
            raise SimulationError(f"register {address:#06x}: no answer")
        return response


def _declare(library: Any) -> Any:
    handle, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
        ("create", handle, (ctypes.c_uint64, ctypes.c_int, ctypes.c_uint32)),
        ("destroy", None, (handle,)),
        ("coverage", None, (handle, ctypes.c_char_p)),
        ("trace", None, (handle, ctypes.c_char_p, ctypes.c_uint64)),
        ("trace_end", ctypes.c_int, (handle,)),
        ("reset", None, (handle, ctypes.c_int)),
        ("stop", None, (handle,)),
        ("discard", None, (handle,)),
        ("trim", None, (handle, ctypes.c_int, size)),
        ("stall", None, (handle, ctypes.c_int, ctypes.c_double)),
        ("write", ctypes.c_int, (handle, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)),
        ("read", ctypes.c_int, (handle, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32), ctypes.c_int)),
        ("overlapped", ctypes.c_int, (handle, size, *[ctypes.c_void_p] * 3, size, *[ctypes.c_void_p] * 4)),
        ("send", None, (handle, ctypes.c_int, ctypes.c_char_p, size, ctypes.c_int, ctypes.c_int)),
        ("wait", None, (handle, ctypes.c_uint64)),
        ("interrupt", ctypes.c_int, (handle,)),
        ("interrupt_cycles", ctypes.c_uint64, (handle,)),
        ("run", ctypes.c_uint64, (handle, ctypes.c_uint64)),
        ("cycles", ctypes.c_uint64, (handle,)),
        ("faults", ctypes.c_uint64, (handle,)),
        ("queued", size, (handle, ctypes.c_int)),
        ("weight_streams", ctypes.c_int, ()),
        ("received", size, (handle,)),
        ("packet", ctypes.c_int64, (handle, ctypes.c_char_p, size)),
    ):
        function = getattr(library, f"fgmp_{name}")
        function.restype, function.argtypes = result, arguments
    return library
