"""Stream drivers and monitors with seeded stalls, for any unit with ready/valid streams and one clock.

The bench owns the clock: in each cycle everything is driven while it is low, settles, is sampled, and the clock rises.
That is free of races in every simulator.
"""

import random
from typing import Any

from cocotb.triggers import Timer

__all__ = ["Clock", "ProtocolError", "Sink", "Source"]


class ProtocolError(AssertionError):
    """A stream broke the ready/valid rules, or nothing moved for too long."""


class Source:
    """Drives payloads (integers) into a stream whose ports begin with `prefix`.

    Valid never waits for ready, and a payload stays until it is taken. A pause has probability `stall` each cycle.
    """

    def __init__(self, dut: Any, prefix: str, stall: float = 0.0, seed: int = 0):
        self._valid = getattr(dut, f"{prefix}_valid")
        self._ready = getattr(dut, f"{prefix}_ready")
        self._payload = getattr(dut, f"{prefix}_payload")
        self._stall = stall
        self._random = random.Random(seed)
        self._queue: list[int] = []
        self._next = 0
        self._offered = False
        self._valid.value = 0
        self._payload.value = 0

    def send(self, payloads: list[int]) -> None:
        """Append to what is to be sent."""
        self._queue = self._queue[self._next :] + payloads
        self._next = 0

    @property
    def idle(self) -> bool:
        """Whether all was taken."""
        return self._next == len(self._queue)

    def drive(self) -> None:
        """Before the clock edge: offer the next payload, unless pausing."""
        if self._offered:
            return
        if not self.idle and (not self._stall or self._random.random() >= self._stall):
            self._payload.value = self._queue[self._next]
            self._valid.value = 1
            self._offered = True
        else:
            self._valid.value = 0

    def sample(self) -> bool:
        """At the clock edge: note whether the payload was taken."""
        if self._offered and int(self._ready.value):
            self._next += 1
            self._offered = False
            return True
        return False


class Sink:
    """Takes payloads (integers) from a stream and checks that a waiting payload does not change.

    With `stall` it pauses at random; every other 16 payloads it also waits for valid before it raises ready, which a
    source that waits for ready would never answer.
    """

    def __init__(self, dut: Any, prefix: str, stall: float = 0.0, seed: int = 0):
        self._valid = getattr(dut, f"{prefix}_valid")
        self._ready = getattr(dut, f"{prefix}_ready")
        self._payload = getattr(dut, f"{prefix}_payload")
        self._stall = stall
        self._random = random.Random(seed + 1)
        self._taking = True
        self._open = False
        self._count = 0
        self._waiting: int | None = None
        self.taken: list[int] = []
        self._ready.value = 1

    def drive(self) -> None:
        """Before the clock edge: decide whether to take."""
        if self._stall and not self._open:
            reluctant = self._count // 16 % 2 == 1 and self._waiting is None
            self._taking = not reluctant and self._random.random() >= self._stall
            self._ready.value = int(self._taking)

    def open(self) -> None:
        """Take everything from now on."""
        self._open = self._taking = True
        self._ready.value = 1

    def close(self) -> None:
        """Pause at random again, if there is a `stall`."""
        self._open = False
        self._ready.value = int(self._taking)

    def sample(self) -> bool:
        """At the clock edge: take what is offered."""
        if not int(self._valid.value):
            if self._waiting is not None:
                raise ProtocolError("valid fell before ready rose")
            return False
        payload = int(self._payload.value)
        if self._waiting is not None and payload != self._waiting:
            raise ProtocolError(f"payload changed while valid waited for ready: {self._waiting:#x} to {payload:#x}")
        self._waiting = None if self._taking else payload
        if self._taking:
            self.taken.append(payload)
            self._count += 1
        return self._taking


class Clock:
    """The clock and reset of `dut`, and the streams that move with them."""

    def __init__(self, dut: Any, *streams: Source | Sink):
        self._clk = dut.clk
        self._rst = dut.rst
        self._streams = streams
        self.cycles = 0

    async def reset(self, cycles: int = 1) -> None:
        """Hold reset for a number of clock edges."""
        self._rst.value = 1
        for _ in range(cycles):
            await self._edge()
        self._rst.value = 0

    async def tick(self) -> bool:
        """One clock cycle; returns whether any stream moved."""
        for stream in self._streams:
            stream.drive()
        self._clk.value = 0
        await Timer(1)
        moved = False
        for stream in self._streams:
            moved |= stream.sample()
        self._clk.value = 1
        await Timer(1)
        self.cycles += 1
        return moved

    async def _edge(self) -> None:
        self._clk.value = 0
        await Timer(1)
        self._clk.value = 1
        await Timer(1)
