"""What stands between an AXI stream and the engine: a two-deep buffer, and a window that gives bytes out by count."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import wire
from .config import STREAM_BYTES

__all__ = ["BEAT_BITS", "ByteWindow", "Skid"]

BEAT_BITS = 8 * STREAM_BYTES
_WINDOW_BYTES = 2 * STREAM_BYTES


class Skid(wiring.Component):
    """A two-deep buffer between two ready/valid handshakes; no path from one side to the other.

    `flush` forgets all but what has been offered already: valid must not fall before ready was seen.
    """

    def __init__(self, bits: int):
        self._bits = bits
        super().__init__(
            {
                "i_data": In(bits),
                "i_valid": In(1),
                "i_ready": Out(1),
                "o_data": Out(bits),
                "o_valid": Out(1),
                "o_ready": In(1),
                "flush": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spare = Signal(self._bits, reset_less=True)
        spare_valid = Signal()
        # Not ready before the first cycle after reset, as AXI wants its valids and readies low during reset.
        awake = Signal()
        m.d.sync += awake.eq(1)
        m.d.comb += self.i_ready.eq(awake & ~spare_valid)
        with m.If(self.flush):
            m.d.sync += [self.o_valid.eq(self.o_valid & ~self.o_ready), spare_valid.eq(0)]
        with m.Elif(~self.o_valid | self.o_ready):
            m.d.sync += [self.o_valid.eq(spare_valid | (self.i_valid & awake)), spare_valid.eq(0)]
            with m.If(spare_valid | self.i_valid):
                m.d.sync += self.o_data.eq(Mux(spare_valid, spare, self.i_data))
        with m.Elif(self.i_valid & self.i_ready):
            m.d.sync += [spare.eq(self.i_data), spare_valid.eq(1)]
        return m


class ByteWindow(wiring.Component):
    """Up to 32 bytes of a packet, from which `take` (0 to 18) leave in a cycle.

    The packet is the stream up to TLAST. `open` is high while bytes of it are wanted; `discard` drops the rest of the
    packet. `ended` is high from the last beat on, until `clear`; `final` is how many bytes that beat had.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "beat": In(BEAT_BITS),
                "keep": In(STREAM_BYTES),
                "last": In(1),
                "valid": In(1),
                "ready": Out(1),
                "open": In(1),
                "discard": In(1),
                "clear": In(1),
                "take": In(range(_WINDOW_BYTES + 1)),
                "bytes": Out(8 * _WINDOW_BYTES),
                "count": Out(range(_WINDOW_BYTES + 1)),
                "ended": Out(1),
                "final": Out(range(STREAM_BYTES + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        added = wire(m, "added", _count_ones(self.keep))
        rest = wire(m, "rest", (self.count - self.take)[:6])
        accept = self.open & ~self.ended & (rest <= STREAM_BYTES)
        m.d.comb += self.ready.eq(accept | self.discard)
        taken = wire(m, "taken", self.valid & accept & ~self.discard)
        kept = wire(m, "kept", self.bytes >> Cat(Const(0, 3), self.take))
        # Bytes beyond `count` are always 0, so that a new beat can be or-ed in.
        beat = Cat(Mux(self.keep[i], self.beat.word_select(i, 8), 0) for i in range(STREAM_BYTES))
        joined = kept | (beat << Cat(Const(0, 3), rest[:5]))
        with m.If(self.clear):
            m.d.sync += [self.count.eq(0), self.ended.eq(0), self.bytes.eq(0)]
        with m.Else():
            m.d.sync += self.count.eq(rest + Mux(taken, added, 0))
            with m.If(taken):
                m.d.sync += [
                    self.bytes.eq(joined[: 8 * _WINDOW_BYTES]),
                    self.ended.eq(self.last),
                    self.final.eq(added),
                ]
            with m.Elif(self.take.any()):
                m.d.sync += self.bytes.eq(kept)
        return m


def _count_ones(keep: Value) -> Value:
    """How many bytes a beat has, its kept bytes being the lowest ones."""
    values = list(keep)
    while len(values) > 1:
        values = [x + y for x, y in zip(values[::2], values[1::2], strict=True)]
    return values[0]
