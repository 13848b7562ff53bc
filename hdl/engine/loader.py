"""Fills a buffer from an AXI stream: takes records (or raw values) apart into blocks, one K tile after the other."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...golden.formats import BLOCK_SIZE
from ..config import SelectorConfig
from ..dot import STORED_BLOCK
from ..pipeline import wire
from ..selector import THRESHOLD, Selector
from .config import STREAM_BYTES, TILE_BLOCKS
from .stream import BEAT_BITS, ByteWindow, Skid

__all__ = ["TILE", "Loader", "RecordReader", "ValueReader"]

TILE = {"last_row": 8, "last_block": (TILE_BLOCKS - 1).bit_length()}
"""A K tile: its number of rows and of blocks, each minus one, with their widths in bits."""


class _Reader(wiring.Component):
    """What both readers share: they take bytes from a window and write the blocks of a tile, row by row."""

    def __init__(self, extra: dict[str, wiring.Member] | None = None):
        super().__init__(
            {
                "enable": In(1),  # a tile is to be read; stays high until `done`
                **{name: In(bits) for name, bits in TILE.items()},
                "bytes": In(16 * STREAM_BYTES),
                "count": In(range(2 * STREAM_BYTES + 1)),
                "take": Out(range(2 * STREAM_BYTES + 1)),
                "starved": Out(1),  # the window has too few bytes for the next step
                "write": Out(1),
                "row": Out(TILE["last_row"]),
                "column": Out(TILE["last_block"]),
                "block": Out(STORED_BLOCK),
                "done": Out(1),
                **(extra or {}),
            }
        )

    def _count(self, m: Module) -> Value:
        """Row and block of the next write; returns whether it is the tile's last."""
        with m.If(self.write):
            with m.If(self.column == self.last_block):
                m.d.sync += [self.column.eq(0), self.row.eq(Mux(self.row == self.last_row, 0, self.row + 1))]
            with m.Else():
                m.d.sync += self.column.eq(self.column + 1)
        m.d.comb += self.done.eq(self.write & (self.column == self.last_block) & (self.row == self.last_row))
        return self.done


class RecordReader(_Reader):
    """Packed records: mask bytes, scale bytes, payload (docs/engine.md): two cycles a record and one a block."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._count(m)
        mask = Signal(TILE_BLOCKS, reset_less=True)
        scales = Signal(8 * TILE_BLOCKS, reset_less=True)
        scale_count = Signal(range(TILE_BLOCKS + 1), reset_less=True)
        wanted = Signal(range(STREAM_BYTES + 1))
        enough = wire(m, "enough", self.count >= wanted)
        m.d.comb += [self.take.eq(Mux(enough & self.enable, wanted, 0)), self.starved.eq(self.enable & ~enough)]
        step = wire(m, "step", self.enable & enough)
        with m.FSM():
            with m.State("MASK"):
                bits = [~self.bytes[i] & (self.last_block >= i if i else 1) for i in range(TILE_BLOCKS)]
                m.d.comb += wanted.eq(Mux(self.last_block >= 8, 2, 1))
                count: Value = Value.cast(0)
                for bit in bits:
                    count = (count + bit)[:5]
                with m.If(step):
                    m.d.sync += [mask.eq(self.bytes[:TILE_BLOCKS]), scale_count.eq(count)]
                    with m.If(Cat(bits).any()):
                        m.next = "SCALES"
                    with m.Else():
                        m.next = "PAYLOAD"
            with m.State("SCALES"):
                m.d.comb += wanted.eq(scale_count)
                with m.If(step):
                    m.d.sync += scales.eq(self.bytes[: 8 * TILE_BLOCKS])
                    m.next = "PAYLOAD"
            with m.State("PAYLOAD"):
                m.d.comb += [wanted.eq(Mux(mask[0], BLOCK_SIZE, BLOCK_SIZE // 2)), self.write.eq(step)]
                with m.If(step):
                    m.d.sync += mask.eq(mask[1:])
                    with m.If(~mask[0]):
                        m.d.sync += scales.eq(scales[8:])
                    with m.If(self.column == self.last_block):
                        m.next = "MASK"
        m.d.comb += [
            self.block.codes.eq(self.bytes[: 8 * BLOCK_SIZE]),
            self.block.scale.eq(scales[:8]),
            self.block.fp8.eq(mask[0]),
        ]
        return m


class ValueReader(_Reader):
    """Raw values through a selector: a cycle for every 16 bytes. `site_*` is what the site memory holds for a block."""

    def __init__(self, config: SelectorConfig):
        self._config = config
        super().__init__(
            {
                "tensor_exponent": In(8),
                "threshold": In(THRESHOLD),
                "mode": In(2),
                "nan": Out(1),
                "site_column": Out(TILE["last_block"]),
                "site_static": In(1),
                "site_codes": In(64),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.selector = selector = Selector(config)
        last_tile_block = self._count(m)
        beats = config.format.bits * BLOCK_SIZE // BEAT_BITS
        values = Signal(config.format.bits * BLOCK_SIZE, reset_less=True)
        beat = Signal(range(beats + 1))
        full = wire(m, "full", beat == beats)
        enough = wire(m, "enough", self.count >= STREAM_BYTES)
        last_column = wire(m, "last_column", self.site_column == self.last_block)
        sent_row = Signal.like(self.row)
        sent_all = Signal()  # all values of the tile went into the selector
        final = wire(m, "final", full & last_column & (sent_row == self.last_row))
        output = selector.o.payload
        ready = Signal()
        wants = wire(m, "wants", self.enable & ~sent_all & ~final & (~full | ready))
        m.d.comb += [
            self.take.eq(Mux(wants & enough, STREAM_BYTES, 0)),
            self.starved.eq(wants & ~enough),
            selector.i.payload.x.eq(values),
            selector.i.payload.static_fp8.eq(self.site_static),
        ]
        if config.channel_codes:
            m.d.comb += selector.i.payload.channel_codes.eq(self.site_codes)
        with m.If(full & ready):
            m.d.sync += [beat.eq(0), self.site_column.eq(Mux(last_column, 0, self.site_column + 1))]
            with m.If(last_column):
                m.d.sync += sent_row.eq(sent_row + 1)
            with m.If(final):
                m.d.sync += sent_all.eq(1)
        with m.If(wants & enough):
            m.d.sync += [
                values.eq(Cat(values[BEAT_BITS:], self.bytes[:BEAT_BITS])),
                beat.eq(Mux(full, 1, beat + 1)),
            ]
        with m.If(last_tile_block):
            m.d.sync += [sent_all.eq(0), sent_row.eq(0)]
        m.d.comb += [
            selector.i.valid.eq(full),
            ready.eq(selector.i.ready),
            self.write.eq(selector.o.valid),
            selector.o.ready.eq(1),
            selector.tensor_exponent.eq(self.tensor_exponent),
            selector.threshold.eq(self.threshold),
            selector.mode.eq(self.mode),
            # Cleared all the time, the sticky flag is an event.
            selector.clear_flags.eq(1),
            self.nan.eq(selector.nan),
        ]
        m.d.comb += [
            self.block.codes.eq(output.codes),
            self.block.scale.eq(output.scale),
            self.block.fp8.eq(output.fp8),
        ]
        return m


class Loader(wiring.Component):
    """A stream, its window and its readers; a packet is one job's data and ends with TLAST.

    `begin` opens a packet, `finish` (all tiles were read) closes it and reports `long` if TLAST did not come with the
    beat that held the last byte (what that beat has beyond it is not looked at: DMAs without TKEEP send whole beats);
    `short` is high while TLAST came and bytes are missing. After either, or after `kill`, what is left of
    the packet is dropped; `abort` forgets the packet altogether.
    """

    def __init__(self, values: SelectorConfig | None = None):
        self._values = values
        members = {
            "tdata": In(BEAT_BITS),
            "tkeep": In(STREAM_BYTES),
            "tlast": In(1),
            "tvalid": In(1),
            "tready": Out(1),
            "begin": In(1),
            "finish": In(1),
            "kill": In(1),
            "abort": In(1),
            "enable": In(1),
            **{name: In(bits) for name, bits in TILE.items()},
            "write": Out(1),
            "row": Out(TILE["last_row"]),
            "column": Out(TILE["last_block"]),
            "block": Out(STORED_BLOCK),
            "done": Out(1),
            "short": Out(1),
            "long": Out(1),
            "behind": Out(1),  # as many packets wait to be dropped as can be counted
            "beat_taken": Out(1),
        }
        if values is not None:
            members |= {
                "raw": In(1),
                "tensor_exponent": In(8),
                "threshold": In(THRESHOLD),
                "mode": In(2),
                "nan": Out(1),
                "site_column": Out(TILE["last_block"]),
                "site_static": In(1),
                "site_codes": In(64),
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.skid = skid = ResetInserter(self.abort)(Skid(BEAT_BITS + STREAM_BYTES + 1))
        m.submodules.window = window = ByteWindow()
        packet = Signal()  # a packet is open
        drop = Signal(2)  # packets of which the rest is to be dropped
        discard = drop.any()
        over = self.finish | self.kill
        m.d.comb += [
            skid.i_data.eq(Cat(self.tdata, self.tkeep, self.tlast)),
            skid.i_valid.eq(self.tvalid),
            self.tready.eq(skid.i_ready),
            Cat(window.beat, window.keep, window.last).eq(skid.o_data),
            window.valid.eq(skid.o_valid),
            skid.o_ready.eq(window.ready & ~over),
            window.open.eq(packet & ~over),
            window.discard.eq(discard),
            window.clear.eq(over | self.begin | self.abort),
            self.beat_taken.eq(skid.o_valid & skid.o_ready & ~discard),
            self.behind.eq(drop.all()),
            self.long.eq(self.finish & ~(window.ended & (window.count < window.final))),
        ]
        dropped = wire(m, "dropped", discard & skid.o_valid & skid.o_ready & window.last)
        m.d.sync += drop.eq(drop - dropped + (over & packet & ~window.ended))
        with m.If(over):
            m.d.sync += packet.eq(0)
        with m.Elif(self.begin):
            m.d.sync += packet.eq(1)
        with m.If(self.abort):
            m.d.sync += [packet.eq(0), drop.eq(0)]

        stop = self.kill | self.abort
        m.submodules.records = records = ResetInserter(stop)(RecordReader())
        readers: list[tuple[_Reader, Value | int]] = [(records, 1)]
        if self._values is not None:
            m.submodules.values = values = ResetInserter(stop)(ValueReader(self._values))
            readers = [(records, ~self.raw), (values, self.raw)]
            m.d.comb += [
                values.tensor_exponent.eq(self.tensor_exponent),
                values.threshold.eq(self.threshold),
                values.mode.eq(self.mode),
                self.nan.eq(values.nan),
                self.site_column.eq(values.site_column),
                values.site_static.eq(self.site_static),
                values.site_codes.eq(self.site_codes),
            ]
        for reader, chosen in readers:
            m.d.comb += [
                reader.enable.eq(self.enable & chosen),
                reader.last_row.eq(self.last_row),
                reader.last_block.eq(self.last_block),
                reader.bytes.eq(window.bytes),
                reader.count.eq(window.count),
            ]
            with m.If(chosen):
                m.d.comb += [
                    window.take.eq(reader.take),
                    self.write.eq(reader.write),
                    self.row.eq(reader.row),
                    self.column.eq(reader.column),
                    self.block.eq(reader.block),
                    self.done.eq(reader.done),
                    self.short.eq(reader.starved & window.ended),
                ]
        return m
