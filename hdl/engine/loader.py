"""Takes an AXI stream apart into blocks, one K tile after the other: records, or raw values through a selector."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...formats import BLOCK_SIZE
from ..config import SelectorConfig
from ..hierarchy import add_part
from ..pipeline import wire
from ..selector import SelectorCore, selector_settings
from .config import STREAM_BYTES, TILE_BLOCKS
from .interfaces import BEAT_BITS, BeatStream, BlockWrite, TileRequest
from .stream import ByteWindow, Skid, count_ones, window_bytes

__all__ = ["Loader", "RecordReader", "ValueReader"]


def _site_entry(config: SelectorConfig) -> dict[str, wiring.Member]:
    members = {"site_column": Out(range(TILE_BLOCKS)), "site_static": In(1)}
    return members | ({"site_codes": In(4 * BLOCK_SIZE)} if config.channel_codes else {})


_RECORD_LIMIT = {1: 18, 2: 2 * BLOCK_SIZE}
"""Bytes that a reader of records looks at, by how many blocks leave it in a cycle: a header (mask and scales), or
blocks."""


def _reader_members(rows: int, blocks: int, limit: int) -> dict[str, wiring.Member]:
    return {
        "request": In(TileRequest(rows)),
        "bytes": In(8 * limit),
        "count": In(range(window_bytes(_RECORD_LIMIT[blocks]) + 1)),
        "take": Out(range(limit + 1)),
        "starved": Out(1),
        "write": Out(BlockWrite(rows, blocks)),
    }


def _count(m: Module, request: wiring.PureInterface, write: wiring.PureInterface, blocks: int) -> Value:
    """Row and block of the next write of so many blocks; returns whether it is the last of its row."""
    low = blocks.bit_length() - 1
    row_done = wire(m, "row_done", write.column == request.last_block[low:])
    with m.If(write.enable):
        with m.If(row_done):
            m.d.sync += [write.column.eq(0), write.row.eq(Mux(write.row == request.last_row, 0, write.row + 1))]
        with m.Else():
            m.d.sync += write.column.eq(write.column + 1)
    m.d.comb += request.done.eq(write.enable & row_done & (write.row == request.last_row))
    return row_done


class RecordReader(wiring.Component):
    """Reads packed records (mask bytes, scale bytes, payload): a cycle for the header, and one for `blocks` blocks.

    With two blocks a cycle a record of 16 blocks takes 9 cycles and has at least 9.1 beats, so that the stream is
    never slower than it could be, whatever the mix. With one it takes 17.

    Attributes:
        request: the tile to read.
        bytes: the next bytes of the packet, the first lowest; 0 beyond `count`.
        count: how many bytes there are.
        take: how many leave in this cycle.
        starved: there are too few for the next step.
        write: the blocks that were read.
    """

    def __init__(self, rows: int, blocks: int):
        self._blocks = blocks
        super().__init__(_reader_members(rows, blocks, _RECORD_LIMIT[blocks]))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        blocks, write = self._blocks, self.write
        row_done = _count(m, self.request, write, blocks)
        last_block, enable = self.request.last_block, self.request.enable
        payload = Signal()  # the record's header was read
        mask = Signal(TILE_BLOCKS, reset_less=True)
        scales = Signal(8 * TILE_BLOCKS, reset_less=True)

        wide = wire(m, "mask_wide", last_block >= 8)  # the mask has two bytes
        narrow = [wire(m, f"narrow_{i}", ~self.bytes[i] & (last_block >= i if i else 1)) for i in range(TILE_BLOCKS)]
        header = wire(m, "header_bytes", (count_ones(narrow) + Mux(wide, 2, 1))[:5])
        # Enough for the header if all blocks were FP4: the record has as many bytes in any case, and which they are
        # need not be known before they leave.
        header_limit = wire(m, "header_limit", (last_block + Mux(wide, 3, 2))[:5])

        fp8 = mask[:blocks]
        sizes = [Mux(bit, BLOCK_SIZE, BLOCK_SIZE // 2) for bit in fp8]
        if blocks > 1:
            m.d.comb += write.second.eq(~row_done | last_block[0])
            sizes[1] = Mux(write.second, sizes[1], 0)
        block_bytes = wire(m, "block_bytes", sum(sizes[1:], sizes[0]))

        wanted = wire(m, "wanted", Mux(payload, block_bytes, header_limit))
        enough = wire(m, "enough", self.count >= wanted)
        step = wire(m, "step", enable & enough)
        m.d.comb += [
            self.take.eq(Mux(step, Mux(payload, block_bytes, header), 0)),
            self.starved.eq(enable & ~enough),
            write.enable.eq(step & payload),
        ]
        narrow_blocks = count_ones([~bit for bit in fp8])
        with m.If(step):
            with m.If(payload):
                m.d.sync += [mask.eq(mask[blocks:]), scales.eq(scales >> Cat(Const(0, 3), narrow_blocks))]
                with m.If(row_done):
                    m.d.sync += payload.eq(0)
            with m.Else():
                first = Mux(wide, self.bytes[16 : 16 + len(scales)], self.bytes[8 : 8 + len(scales)])
                m.d.sync += [mask.eq(self.bytes[:TILE_BLOCKS]), scales.eq(first), payload.eq(1)]
        bits = 8 * BLOCK_SIZE
        m.d.comb += [
            write.block.codes.eq(self.bytes[:bits]),
            write.block.scale.eq(scales[:8]),
            write.block.fp8.eq(fp8[0]),
        ]
        if blocks > 1:
            m.d.comb += [
                write.second_block.codes.eq(Mux(fp8[0], self.bytes[bits:], self.bytes[bits // 2 : bits * 3 // 2])),
                write.second_block.scale.eq(Mux(fp8[0], scales[:8], scales[8:16])),
                write.second_block.fp8.eq(fp8[1]),
            ]
        return m


class ValueReader(wiring.Component):
    """Reads raw values through a selector: a cycle for every 16 bytes.

    Attributes:
        request, bytes, count, take, starved, write: as of `RecordReader`.
        settings: of the selector.
        site_column: the block of the tile whose site entry is wanted.
        site_static, site_codes: that entry.
        nan: event: a block held a NaN.
    """

    def __init__(self, rows: int, config: SelectorConfig):
        self._config = config
        members = {
            **_reader_members(rows, 1, STREAM_BYTES),
            **_site_entry(config),
            "settings": In(selector_settings(four_over_six=config.four_over_six)),
            "nan": Out(1),
        }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        selector = SelectorCore(config)
        add_part(
            m,
            platform,
            "selector",
            selector,
            kind=f"selector_{config.input_format}",
            clock_enable=selector.running,
        )
        wiring.connect(m, wiring.flipped(self.settings), selector.settings)
        _count(m, self.request, self.write, 1)
        beats = config.format.bits * BLOCK_SIZE // BEAT_BITS
        values = Signal(config.format.bits * BLOCK_SIZE, reset_less=True)
        beat = Signal(range(beats + 1))
        full = wire(m, "full", beat == beats)
        enough = wire(m, "enough", self.count >= STREAM_BYTES)
        last_column = wire(m, "last_column", self.site_column == self.request.last_block)
        sent_row = Signal.like(self.write.row)
        sent_all = Signal()  # all values of the tile went into the selector
        final = wire(m, "final_block", full & last_column & (sent_row == self.request.last_row))
        # The buffer takes a block in every cycle, so that the selector never waits.
        wants = wire(m, "wants", self.request.enable & ~sent_all & ~final)
        m.d.comb += [
            self.take.eq(Mux(wants & enough, STREAM_BYTES, 0)),
            self.starved.eq(wants & ~enough),
            selector.x.eq(values),
            selector.static_fp8.eq(self.site_static),
            selector.valid.eq(full),
            selector.advance.eq(1),
            self.write.enable.eq(selector.valid_out),
            self.write.block.eq(selector.block),
        ]
        if config.channel_codes:
            m.d.comb += selector.channel_codes.eq(self.site_codes)
        m.d.sync += self.nan.eq(selector.nan_taken)
        with m.If(full):
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
        with m.If(self.request.done):
            m.d.sync += [sent_all.eq(0), sent_row.eq(0)]
        return m


class Loader(wiring.Component):
    """A stream, its window and its readers. A packet holds the data of one GEMM and ends with TLAST.

    `begin_packet` opens a packet and `finish` closes it. After that, or after `kill`, what is left of it is dropped.
    `rows` are those of the largest tile, `blocks` leave it in a cycle: 2 of weights, 1 of activations; `name` begins
    the names of the readers' modules.

    Attributes:
        stream: beats.
        begin_packet: the next beat begins a packet.
        finish: all tiles were read.
        kill: give up the packet.
        abort: forget the packet altogether.
        request: the tile to read.
        write: the blocks that were read.
        short: TLAST came, and bytes are missing.
        long: at `finish`, TLAST had not come with the beat that held the last byte. What that beat has beyond it is not
            looked at: DMAs without TKEEP send whole beats.
        behind: as many packets wait to be dropped as can be counted.
        beat_taken: a beat of the packet was taken, for the counters.
        raw: read values, not records.
        settings, site_column, site_static, site_codes, nan: as of `ValueReader`.
    """

    def __init__(self, rows: int, name: str, blocks: int, values: SelectorConfig | None = None):
        self._rows = rows
        self._blocks = blocks
        self._name = name
        self._values = values
        members = {
            "stream": In(BeatStream),
            "begin_packet": In(1),
            "finish": In(1),
            "kill": In(1),
            "abort": In(1),
            "request": In(TileRequest(rows)),
            "write": Out(BlockWrite(rows, blocks)),
            "short": Out(1),
            "long": Out(1),
            "behind": Out(1),
            "beat_taken": Out(1),
        }
        if values is not None:
            members |= {
                "raw": In(1),
                "settings": In(selector_settings(four_over_six=values.four_over_six)),
                "nan": Out(1),
                **_site_entry(values),
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        window = ByteWindow(_RECORD_LIMIT[self._blocks])
        add_part(m, platform, "window", window, kind=f"{self._name}_window")
        self._packets(m, platform, window)
        readers: list[tuple[RecordReader | ValueReader, Value | int]] = []
        records = RecordReader(self._rows, self._blocks)
        add_part(m, platform, "records", records, kind=f"{self._name}_record_reader", reset=self.kill | self.abort)
        if self._values is None:
            readers.append((records, 1))
        else:
            values = ValueReader(self._rows, self._values)
            add_part(m, platform, "values", values, kind=f"{self._name}_value_reader", reset=self.kill | self.abort)
            wiring.connect(m, wiring.flipped(self.settings), values.settings)
            m.d.comb += [
                self.nan.eq(values.nan),
                self.site_column.eq(values.site_column),
                values.site_static.eq(self.site_static),
            ]
            if self._values.channel_codes:
                m.d.comb += values.site_codes.eq(self.site_codes)
            readers += [(records, ~self.raw), (values, self.raw)]
        written = BlockWrite(self._rows, self._blocks).members
        for reader, chosen in readers:
            m.d.comb += [
                reader.request.enable.eq(self.request.enable & chosen),
                reader.request.last_row.eq(self.request.last_row),
                reader.request.last_block.eq(self.request.last_block),
                reader.bytes.eq(window.bytes),
                reader.count.eq(window.count),
            ]
            with m.If(chosen):
                m.d.comb += [
                    window.take.eq(reader.take),
                    *(getattr(self.write, name).eq(getattr(reader.write, name)) for name in written),
                    self.request.done.eq(reader.request.done),
                    self.short.eq(reader.starved & window.ended),
                ]
        return m

    def _packets(self, m: Module, platform: object, window: ByteWindow) -> None:
        """Beats of an open packet go to the window; those of packets that were given up are dropped."""
        skid = Skid(BEAT_BITS + STREAM_BYTES + 1)
        add_part(m, platform, "skid", skid, reset=self.abort)
        packet = Signal()  # a packet is open
        drop = Signal(2)  # packets of which the rest is to be dropped
        dropping = wire(m, "dropping", drop.any())
        over = wire(m, "over", self.finish | self.kill)
        m.d.comb += [
            skid.i.payload.eq(self.stream.payload),
            skid.i.valid.eq(self.stream.valid),
            self.stream.ready.eq(skid.i.ready),
            window.beat.eq(skid.o.payload),
            window.valid.eq(skid.o.valid),
            skid.o.ready.eq(window.ready & ~over),
            window.open.eq(packet & ~over),
            window.discard.eq(dropping),
            window.clear.eq(over | self.begin_packet | self.abort),
            self.beat_taken.eq(skid.o.valid & skid.o.ready & ~dropping),
            self.behind.eq(drop.all()),
            self.long.eq(self.finish & packet & ~(window.ended & (window.count < window.last_count))),
        ]
        dropped = wire(m, "dropped", dropping & skid.o.valid & skid.o.ready & window.beat.last)
        m.d.sync += drop.eq(drop - dropped + (over & packet & ~window.ended))
        with m.If(over):
            m.d.sync += packet.eq(0)
        with m.Elif(self.begin_packet):
            m.d.sync += packet.eq(1)
        with m.If(self.abort):
            m.d.sync += [packet.eq(0), drop.eq(0)]
