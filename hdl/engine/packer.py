"""Packed results: blocks from the selector are gathered into K tiles of the next layer and leave as records."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...formats import BLOCK_SIZE
from ..hierarchy import add_part
from ..operands import STORED_BLOCK
from ..pipeline import wire
from .config import STREAM_BYTES, TILE_BLOCKS, EngineConfig
from .interfaces import BEAT_BITS, BeatStream, GemmSize
from .loop import Extent, Ring, extents, loops
from .memory import BlockBuffer

__all__ = ["BytePacker", "Packer"]

_COUNT_BITS = 5
_TILE_BITS = (TILE_BLOCKS - 1).bit_length()


class BytePacker(wiring.Component):
    """Joins pieces of 1 to 16 bytes into beats.

    Attributes:
        data, count: a piece, and how many of its bytes count.
        ends_packet: the packet ends with this piece.
        valid, ready: handshake of the pieces.
        beats: the packet.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "data": In(BEAT_BITS),
                "count": In(_COUNT_BITS),
                "ends_packet": In(1),
                "valid": In(1),
                "ready": Out(1),
                "beats": Out(BeatStream),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        kept = Signal(BEAT_BITS)  # bytes beyond `fill` are 0
        fill = Signal(range(STREAM_BYTES))
        flush = Signal()
        counted = [i < self.count if i else self.count.any() for i in range(STREAM_BYTES)]
        piece = wire(m, "piece", Cat(Mux(bit, self.data.word_select(i, 8), 0) for i, bit in enumerate(counted)))
        joined = wire(m, "joined", kept | (piece << Cat(Const(0, 3), fill)))
        total = wire(m, "total", fill + self.count)
        whole = wire(m, "whole", total >= STREAM_BYTES)
        ends = wire(m, "ends", self.ends_packet & (total <= STREAM_BYTES))
        emits = wire(m, "emits", flush | (self.valid & (whole | ends)))
        m.d.comb += [
            self.beats.valid.eq(emits),
            self.ready.eq(~flush & (self.beats.ready | ~(whole | ends))),
            self.beats.payload.data.eq(Mux(flush, kept, joined[:BEAT_BITS])),
            self.beats.payload.last.eq(flush | ends),
        ]
        used = wire(m, "used", Mux(flush, fill, Mux(whole, STREAM_BYTES, total)))
        m.d.comb += self.beats.payload.keep.eq(Cat(i < used if i else used.any() for i in range(STREAM_BYTES)))
        with m.If(flush), m.If(self.beats.ready):
            m.d.sync += [flush.eq(0), kept.eq(0), fill.eq(0)]
        with m.Elif(self.valid & self.ready):
            with m.If(ends):
                m.d.sync += [kept.eq(0), fill.eq(0)]
            with m.Elif(whole):
                m.d.sync += [kept.eq(joined[BEAT_BITS:]), fill.eq(total - STREAM_BYTES), flush.eq(self.ends_packet)]
            with m.Else():
                m.d.sync += [kept.eq(joined[:BEAT_BITS]), fill.eq(total)]
        return m


class Packer(wiring.Component):
    """Gathers blocks into K tiles of the next layer, and sends them as records.

    There are two pages of (rows, 16 blocks): one is written in the order N tile, row; the other leaves row by row. A
    record takes a cycle for each block to find its header, and one or two for that of every block's payload.

    Attributes:
        size: of the GEMM.
        blocks_final: blocks of a row of results, minus one.
        blocks: quantized blocks, in the order of the drain.
        beats: records; the last one ends the packet.
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        super().__init__(
            {
                "size": In(GemmSize(config)),
                "blocks_final": In(12),
                "blocks": In(stream.Signature(STORED_BLOCK)),
                "beats": Out(BeatStream),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        buffer = BlockBuffer(2 * self._config.rows * TILE_BLOCKS, looked_up=True)
        add_part(m, platform, "pages", buffer, kind="page_buffer")
        page_left = Signal()
        pages = self._write_pages(m, buffer, page_left)
        self._read_pages(m, platform, buffer, pages, page_left)
        return m

    def _write_pages(self, m: Module, buffer: BlockBuffer, page_left: Value) -> Ring:
        """Where the selector's next block belongs."""
        rows, per_tile = self._config.rows, self._config.lanes // BLOCK_SIZE
        m_tiles, n_tiles, _ = extents(self._config, self.size)
        take = wire(m, "take", self.blocks.valid & self.blocks.ready)
        row_final = Signal(range(rows))
        part_final = Signal(range(max(per_tile, 2)))
        (m_tile, n_tile, row, part), _ = loops(
            m,
            take,
            [
                ("in_m", m_tiles.final_tile),
                ("in_n", n_tiles.final_tile),
                ("in_row", row_final),
                ("in_part", part_final),
            ],
        )
        index = wire(m, "in_block", Cat(part.value[: (per_tile - 1).bit_length()], n_tile.value))
        tile_ends = (index[:_TILE_BITS] == TILE_BLOCKS - 1) | n_tile.last
        pages = Ring(m, "pages", 2, take & part.last & row.last & tile_ends, page_left)
        m.d.comb += [
            row_final.eq(m_tiles.final(m_tile.last)),
            part_final.eq(per_tile - 1),
            self.blocks.ready.eq(~pages.full),
            buffer.write.eq(take & (index <= self.blocks_final)),
            buffer.write_address.eq(Cat(index[:_TILE_BITS], row.value, pages.newest)),
            buffer.write_block.eq(self.blocks.payload),
        ]
        return pages

    def _read_pages(self, m: Module, platform: object, buffer: BlockBuffer, pages: Ring, page_left: Signal) -> None:
        """A record after the other: its mask and scales are looked up first, then mask, scales and payload are sent.

        A read is answered a cycle later where a block is looked up, and two cycles later where its payload is read;
        `advance` holds all of it.
        """
        pieces = BytePacker()
        add_part(m, platform, "byte_packer", pieces)
        wiring.connect(m, pieces.beats, wiring.flipped(self.beats))
        m_tiles, _, _ = extents(self._config, self.size)
        out_tiles = Extent(self.blocks_final[_TILE_BITS:], self.blocks_final[:_TILE_BITS], TILE_BLOCKS - 1)
        record_done = Signal()
        row_final = Signal(range(self._config.rows))
        (out_m, out_tile, out_row), at_end = loops(
            m,
            record_done,
            [("out_m", m_tiles.final_tile), ("out_tile", out_tiles.final_tile), ("out_row", row_final)],
        )
        last_block = wire(m, "last_block", out_tiles.final(out_tile.last))
        asking = Signal(range(TILE_BLOCKS + 1))  # the block that is read next
        asked = wire(m, "asked", asking <= last_block)
        block = Signal(_TILE_BITS)  # the block that is answered next
        block_last = wire(m, "block_last", block == last_block)
        mask = Signal(TILE_BLOCKS)
        scales = Array(Signal(8, name=f"scale_{i}", reset_less=True) for i in range(TILE_BLOCKS))
        scale_count = Signal(_COUNT_BITS)
        answer_1, answer_2 = Signal(name="answer_1"), Signal(name="answer_2")
        over = [asking.eq(0), block.eq(0), answer_1.eq(0), answer_2.eq(0)]
        m.d.comb += [
            row_final.eq(m_tiles.final(out_m.last)),
            page_left.eq(record_done & out_row.last),
            buffer.read_address.eq(Cat(asking[:_TILE_BITS], out_row.value, pages.oldest)),
            buffer.advance.eq(1),
        ]
        with m.FSM():
            with m.State("HEADER"):
                m.d.comb += [buffer.meta_only.eq(1), buffer.read.eq(pages.filled.any() & asked)]
                m.d.sync += answer_1.eq(buffer.read)
                with m.If(buffer.read):
                    m.d.sync += asking.eq(asking + 1)
                with m.If(answer_1):
                    m.d.sync += [mask.bit_select(block, 1).eq(buffer.meta_fp8), block.eq(block + 1)]
                    with m.If(~buffer.meta_fp8):
                        m.d.sync += [
                            scales[scale_count[:_TILE_BITS]].eq(buffer.meta_scale),
                            scale_count.eq(scale_count + 1),
                        ]
                    with m.If(block_last):
                        m.d.sync += over
                        m.next = "MASK"
            with m.State("MASK"):
                m.d.comb += [pieces.data.eq(mask), pieces.count.eq(Mux(last_block >= 8, 2, 1)), pieces.valid.eq(1)]
                with m.If(pieces.ready):
                    m.d.sync += mask.eq(0)
                    with m.If(scale_count.any()):
                        m.next = "SCALES"
                    with m.Else():
                        m.next = "PAYLOAD"
            with m.State("SCALES"):
                m.d.comb += [pieces.data.eq(Cat(scales)), pieces.count.eq(scale_count), pieces.valid.eq(1)]
                with m.If(pieces.ready):
                    m.d.sync += scale_count.eq(0)
                    m.next = "PAYLOAD"
            with m.State("PAYLOAD"):
                flow = wire(m, "flow", ~answer_2 | pieces.ready)
                m.d.comb += [
                    buffer.advance.eq(flow),
                    buffer.read.eq(asked),
                    pieces.data.eq(buffer.codes),
                    pieces.count.eq(Mux(buffer.fp8, BLOCK_SIZE, BLOCK_SIZE // 2)),
                    pieces.valid.eq(answer_2),
                    pieces.ends_packet.eq(at_end & block_last),
                ]
                with m.If(flow):
                    m.d.sync += [answer_1.eq(asked), answer_2.eq(answer_1)]
                    with m.If(asked):
                        m.d.sync += asking.eq(asking + 1)
                with m.If(answer_2 & pieces.ready):
                    m.d.sync += block.eq(block + 1)
                    with m.If(block_last):
                        m.d.comb += record_done.eq(1)
                        m.d.sync += over
                        m.next = "HEADER"
