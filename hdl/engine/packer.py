"""Packed results: blocks from the selector are gathered into K tiles of the next layer and leave as records."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...golden.formats import BLOCK_SIZE
from ..dot import STORED_BLOCK
from ..pipeline import wire
from .config import STREAM_BYTES, TILE_BLOCKS, EngineConfig
from .drain import BEAT
from .loop import loops
from .memory import BlockBuffer
from .sequencer import JOB, Ring, extent
from .stream import BEAT_BITS

__all__ = ["BytePacker", "Packer"]

_COUNT_BITS = 5


class BytePacker(wiring.Component):
    """Joins pieces of 1 to 16 bytes into beats; the piece marked `final` also ends the packet."""

    def __init__(self) -> None:
        super().__init__(
            {
                "data": In(BEAT_BITS),
                "count": In(_COUNT_BITS),
                "final": In(1),
                "valid": In(1),
                "ready": Out(1),
                "beat": Out(BEAT),
                "beat_valid": Out(1),
                "beat_ready": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        kept = Signal(BEAT_BITS)  # bytes beyond `fill` are 0
        fill = Signal(range(STREAM_BYTES))
        flush = Signal()
        piece = Cat(
            Mux(i < self.count if i else self.count.any(), self.data.word_select(i, 8), 0) for i in range(STREAM_BYTES)
        )
        joined = wire(m, "joined", kept | (piece << Cat(Const(0, 3), fill)))
        total = wire(m, "total", fill + self.count)
        whole = wire(m, "whole", total >= STREAM_BYTES)
        ends = wire(m, "ends", self.final & (total <= STREAM_BYTES))
        emits = wire(m, "emits", flush | (self.valid & (whole | ends)))
        m.d.comb += [
            self.beat_valid.eq(emits),
            self.ready.eq(~flush & (self.beat_ready | ~(whole | ends))),
            self.beat.data.eq(Mux(flush, kept, joined[:BEAT_BITS])),
            self.beat.last.eq(flush | ends),
        ]
        used = wire(m, "used", Mux(flush, fill, Mux(whole, STREAM_BYTES, total)))
        m.d.comb += self.beat.keep.eq(Cat(i < used if i else used.any() for i in range(STREAM_BYTES)))
        with m.If(flush), m.If(self.beat_ready):
            m.d.sync += [flush.eq(0), kept.eq(0), fill.eq(0)]
        with m.Elif(self.valid & self.ready):
            with m.If(ends):
                m.d.sync += [kept.eq(0), fill.eq(0)]
            with m.Elif(whole):
                m.d.sync += [kept.eq(joined[BEAT_BITS:]), fill.eq(total - STREAM_BYTES), flush.eq(self.final)]
            with m.Else():
                m.d.sync += [kept.eq(joined[:BEAT_BITS]), fill.eq(total)]
        return m


class Packer(wiring.Component):
    """Two pages of (rows, 16 blocks): one is written in the order N tile, row; the other leaves row by row.

    A record takes a cycle for each block to find its header, and one or two for that of every block's payload.
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        super().__init__(
            {
                "m_final": In(JOB["m_final"]),
                "n_final": In(JOB["n_final"]),
                "block": In(STORED_BLOCK),
                "valid": In(1),
                "ready": Out(1),
                "beat": Out(BEAT),
                "beat_valid": Out(1),
                "beat_ready": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, lanes = self._config.rows, self._config.lanes
        per_tile = lanes // BLOCK_SIZE
        tile_bits = (TILE_BLOCKS - 1).bit_length()
        m_tiles, n_tiles = extent(self.m_final, rows), extent(self.n_final, lanes)
        blocks_final = self.n_final[(BLOCK_SIZE - 1).bit_length() :]
        o_tiles = extent(blocks_final, TILE_BLOCKS)

        # In: where the selector's next block belongs.
        take = wire(m, "take", self.valid & self.ready)
        row_final = Signal(range(rows))
        part_final = Signal(range(max(per_tile, 2)))
        levels, _ = loops(
            m,
            take,
            [
                ("in_m", m_tiles.final_tile),
                ("in_n", n_tiles.final_tile),
                ("in_row", row_final),
                ("in_part", part_final),
            ],
        )
        m_tile, n_tile, row, part = levels
        index = wire(m, "index", Cat(part.value[: (per_tile - 1).bit_length()], n_tile.value))
        m.d.comb += [row_final.eq(m_tiles.final(m_tile.last)), part_final.eq(per_tile - 1)]
        page_done = take & part.last & row.last & ((index[:tile_bits] == TILE_BLOCKS - 1) | n_tile.last)

        page_left = Signal()
        pages = Ring(m, "pages", 2, page_done, page_left)
        m.submodules.buffer = buffer = BlockBuffer("pack", 2 * rows * TILE_BLOCKS)
        m.d.comb += [
            self.ready.eq(~pages.full),
            buffer.write.eq(take & (index <= blocks_final)),
            buffer.write_address.eq(Cat(index[:tile_bits], row.value, pages.newest)),
            buffer.block.eq(self.block),
        ]

        # Out: the header of a record, then its payload.
        m.submodules.bytes = bytes_ = BytePacker()
        m.d.comb += [
            self.beat.eq(bytes_.beat),
            self.beat_valid.eq(bytes_.beat_valid),
            bytes_.beat_ready.eq(self.beat_ready),
        ]
        record_done = Signal()
        out_row_final = Signal(range(rows))
        levels, at_end = loops(
            m,
            record_done,
            [("out_m", m_tiles.final_tile), ("out_tile", o_tiles.final_tile), ("out_row", out_row_final)],
        )
        out_m, out_tile, out_row = levels
        last_block = wire(m, "last_block", o_tiles.final(out_tile.last))
        m.d.comb += [out_row_final.eq(m_tiles.final(out_m.last)), page_left.eq(record_done & out_row.last)]

        # A read is asked for, then answered a cycle (header) or two (payload) later; `advance` holds all of it.
        asking = Signal(range(TILE_BLOCKS + 1))
        asked = wire(m, "asked", asking <= last_block)
        block = Signal(tile_bits)
        mask = Signal(TILE_BLOCKS)
        scales = Array(Signal(8, name=f"scale_{i}", reset_less=True) for i in range(TILE_BLOCKS))
        scale_count = Signal(_COUNT_BITS)
        answer = [Signal(name=f"answer_{i}") for i in range(2)]
        m.d.comb += [
            buffer.read_address.eq(Cat(asking[:tile_bits], out_row.value, pages.oldest)),
            buffer.advance.eq(1),
        ]
        with m.FSM():
            with m.State("HEADER"):
                m.d.comb += [buffer.meta_only.eq(1), buffer.read.eq(pages.filled.any() & asked)]
                m.d.sync += answer[0].eq(buffer.read)
                with m.If(buffer.read):
                    m.d.sync += asking.eq(asking + 1)
                with m.If(answer[0]):
                    m.d.sync += [mask.bit_select(block, 1).eq(buffer.meta_fp8), block.eq(block + 1)]
                    with m.If(~buffer.meta_fp8):
                        m.d.sync += [
                            scales[scale_count[:tile_bits]].eq(buffer.meta_scale),
                            scale_count.eq(scale_count + 1),
                        ]
                    with m.If(block == last_block):
                        m.d.sync += [asking.eq(0), block.eq(0), answer[0].eq(0)]
                        m.next = "MASK"
            with m.State("MASK"):
                m.d.comb += [bytes_.data.eq(mask), bytes_.count.eq(Mux(last_block >= 8, 2, 1)), bytes_.valid.eq(1)]
                with m.If(bytes_.ready):
                    m.d.sync += mask.eq(0)
                    with m.If(scale_count.any()):
                        m.next = "SCALES"
                    with m.Else():
                        m.next = "PAYLOAD"
            with m.State("SCALES"):
                m.d.comb += [bytes_.data.eq(Cat(scales)), bytes_.count.eq(scale_count), bytes_.valid.eq(1)]
                with m.If(bytes_.ready):
                    m.d.sync += scale_count.eq(0)
                    m.next = "PAYLOAD"
            with m.State("PAYLOAD"):
                flow = wire(m, "flow", ~answer[1] | bytes_.ready)
                count: Value = Mux(buffer.fp8, BLOCK_SIZE, BLOCK_SIZE // 2)
                m.d.comb += [
                    buffer.advance.eq(flow),
                    buffer.read.eq(asked),
                    bytes_.data.eq(buffer.codes),
                    bytes_.count.eq(count),
                    bytes_.valid.eq(answer[1]),
                    bytes_.final.eq(at_end & (block == last_block)),
                ]
                with m.If(flow):
                    m.d.sync += [answer[0].eq(asked), answer[1].eq(answer[0])]
                    with m.If(asked):
                        m.d.sync += asking.eq(asking + 1)
                with m.If(answer[1] & bytes_.ready):
                    m.d.sync += block.eq(block + 1)
                    with m.If(block == last_block):
                        m.d.comb += record_done.eq(1)
                        m.d.sync += [asking.eq(0), block.eq(0), answer[0].eq(0), answer[1].eq(0)]
                        m.next = "HEADER"
        return m
