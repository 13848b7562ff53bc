"""Between an AXI stream and the engine: a two-deep buffer, and a window that gives bytes out by count."""

from collections.abc import Iterable

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import wire
from .config import STREAM_BYTES
from .interfaces import BEAT

__all__ = ["ByteWindow", "Skid", "count_ones", "window_bytes"]

_WORD = 8
_WORD_BITS = 3
"""Bytes of a word, and what selects one of them: half a block in FP8, a block in FP4."""


class Skid(wiring.Component):
    """A two-deep buffer between two ready/valid handshakes; no path from one side to the other.

    Attributes:
        i, o: streams.
        flush: forget all but what has been offered already: valid must not fall before ready was seen.
    """

    def __init__(self, bits: int):
        self._bits = bits
        super().__init__({"i": In(stream.Signature(bits)), "o": Out(stream.Signature(bits)), "flush": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        i, o = self.i, self.o
        spare = Signal(self._bits, reset_less=True)
        spare_valid = Signal()
        # Not ready before the first cycle after reset, as AXI wants its valids and readies low during reset.
        awake = Signal()
        m.d.sync += awake.eq(1)
        m.d.comb += i.ready.eq(awake & ~spare_valid)
        with m.If(self.flush):
            m.d.sync += [o.valid.eq(o.valid & ~o.ready), spare_valid.eq(0)]
        with m.Elif(~o.valid | o.ready):
            m.d.sync += [o.valid.eq(spare_valid | (i.valid & awake)), spare_valid.eq(0)]
            with m.If(spare_valid | i.valid):
                m.d.sync += o.payload.eq(Mux(spare_valid, spare, i.payload))
        with m.Elif(i.valid & i.ready):
            m.d.sync += [spare.eq(i.payload), spare_valid.eq(1)]
        return m


class ByteWindow(wiring.Component):
    """The next bytes of a packet, of which up to `limit` leave in a cycle.

    It holds two beats more, so that it takes one in every cycle, even while `limit` bytes leave in every second one.
    All beats but a packet's last have 16 bytes.

    Attributes:
        beat, valid, ready: the stream, up to TLAST one packet.
        open: bytes of the packet are wanted.
        discard: drop the rest of the packet.
        clear: forget everything.
        take: bytes that leave in this cycle.
        bytes: the oldest `limit` bytes, the first lowest; 0 beyond `count`.
        count: how many bytes are here.
        ended: the last beat of the packet has come; until `clear`.
        last_count: how many bytes that beat had.
    """

    def __init__(self, limit: int):
        self._limit = limit
        super().__init__(
            {
                "beat": In(BEAT),
                "valid": In(1),
                "ready": Out(1),
                "open": In(1),
                "discard": In(1),
                "clear": In(1),
                "take": In(range(limit + 1)),
                "bytes": Out(8 * limit),
                "count": Out(range(window_bytes(limit) + 1)),
                "ended": Out(1),
                "last_count": Out(range(STREAM_BYTES + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        keep = self.beat.keep
        # Words of the packet, in place: only the last beat may be partial, so beats are added at whole words. `offset`
        # says where the next byte is, and grows by what is taken; whole words leave a cycle later. So the path from the
        # bytes to how many of them are taken begins with the shift, and does not end with it.
        held = Signal(8 * _WORD * -(-(window_bytes(self._limit) + _WORD - 1) // _WORD))
        level = Signal(range(len(held) // 8 + 1))  # bytes held; beyond them all is 0, so that a beat can be or-ed in
        offset = Signal(range(self._limit + _WORD))
        within, words = offset[:_WORD_BITS], offset[_WORD_BITS:]
        left = wire(m, "left", held >> Cat(Const(0, 3 + _WORD_BITS), words))
        left_words = wire(m, "left_words", (level[_WORD_BITS:] - words)[: len(level) - _WORD_BITS])
        m.d.comb += self.count.eq(level - offset)
        with m.Switch(within):
            for first in range(_WORD):
                with m.Case(first):
                    m.d.comb += self.bytes.eq(left[8 * first : 8 * (first + self._limit)])
        added = wire(m, "added", count_ones(keep))
        accept = wire(m, "accept", self.open & ~self.ended & (self.count <= self._limit + STREAM_BYTES))
        m.d.comb += self.ready.eq(accept | self.discard)
        more = wire(m, "more", self.valid & accept & ~self.discard)
        beat = wire(m, "kept_beat", Cat(Mux(keep[i], self.beat.data.word_select(i, 8), 0) for i in range(STREAM_BYTES)))
        joined = wire(m, "joined", (left | (beat << Cat(Const(0, 3 + _WORD_BITS), left_words)))[: len(held)])
        with m.If(self.clear):
            m.d.sync += [level.eq(0), offset.eq(0), self.ended.eq(0), held.eq(0)]
        with m.Else():
            m.d.sync += [
                level.eq(Cat(level[:_WORD_BITS], left_words) + Mux(more, added, 0)),
                offset.eq(within + self.take),
            ]
            with m.If(more):
                m.d.sync += [held.eq(joined), self.ended.eq(self.beat.last), self.last_count.eq(added)]
            with m.Elif(words.any()):
                m.d.sync += held.eq(left)
        return m


def window_bytes(limit: int) -> int:
    """How many bytes of a packet a window holds."""
    return limit + 2 * STREAM_BYTES


def count_ones(bits: Iterable[Value]) -> Value:
    """How many of these bits are 1."""
    values = [Value.cast(bit) for bit in bits]
    while len(values) > 1:
        pairs = [x + y for x, y in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[2 * len(pairs) :]
    return values[0]
