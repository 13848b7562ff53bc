"""Which K tile a loader reads next, into which slot of its buffer."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import wire
from .config import EngineConfig
from .interfaces import GemmSize, SlotState, StreamShare, TileRequest
from .loop import Ring, extents, loops

__all__ = ["Prefetcher"]


class Prefetcher(wiring.Component):
    """Requests tile after tile from a loader while slots are free.

    Loops: row tile, N tile, K tile; a cycle passes between two tiles. Weights have those rows of the N tile that belong
    to the lanes of `stream`, which may be none; activations those of the row tile, and where they are resident one pass
    over K serves all N tiles. `stream` is None for activations.

    Attributes:
        start: begin a GEMM of `size`.
        share: which of its rows are this stream's (where there are several).
        empty: no tile of a GEMM of this size has a row here (of streams but the first).
        size: its dimensions; they stay until it ends.
        resident: whether its activations stay in the buffer for all N tiles.
        request: the tile that the loader is to read.
        k_tile: index of that tile along K, its lowest `k_tile_bits` (if any).
        newest: the slot that it goes to.
        slots: which slots are full.
        finish: all tiles of the GEMM were read.
    """

    def __init__(self, config: EngineConfig, slots: int, *, stream: int | None, k_tile_bits: int = 0):
        self._config = config
        self._k_tile_bits = k_tile_bits
        self._stream = stream
        self._slots = slots
        super().__init__(
            {
                "start": In(1),
                "size": In(GemmSize(config)),
                "resident": In(1),
                **({"empty": Out(1)} if stream else {}),
                **({} if stream is None or config.weight_streams == 1 else {"share": In(StreamShare(config, stream))}),
                "request": Out(TileRequest(config.rows if stream is None else config.stream_lanes)),
                **({"k_tile": Out(k_tile_bits)} if k_tile_bits else {}),
                "newest": Out(range(slots)),
                "slots": Out(SlotState(slots)),
                "finish": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, stream = self._config, self._stream
        m_tiles, n_tiles, k_tiles = extents(config, self.size)
        done = Signal(name="tile_done")
        (m_tile, n_tile, k_tile), at_end = loops(
            m,
            done,
            [
                ("m_tile", m_tiles.final_tile),
                ("n_tile", Mux(self.resident, 0, n_tiles.final_tile) if stream is None else n_tiles.final_tile),
                ("k", k_tiles.final_tile),
            ],
        )
        ring = Ring(m, "ring", self._slots, done, self.slots.free)
        running = Signal()
        settled = Signal()
        wanted = wire(m, "wanted", running & settled & ~ring.full)
        rows = m_tiles.final(m_tile.last)
        if stream is not None:
            last = n_tiles.last if config.weight_streams == 1 else self.share.row_final
            rows = Mux(n_tile.last, last, config.stream_lanes - 1)
        # A tile's size is registered: the loader goes on from it to the stream's ready in the same cycle.
        m.d.sync += [
            settled.eq(running & ~done),
            self.request.last_row.eq(rows),
            self.request.last_block.eq(k_tiles.final(k_tile.last)),
            self.finish.eq(done & at_end),
        ]
        m.d.comb += [
            self.slots.filled.eq(ring.filled),
            self.slots.oldest.eq(ring.oldest),
            self.newest.eq(ring.newest),
        ]
        if stream:
            absent = Signal()  # the tile has no row here: its slot counts as filled
            none = wire(m, "none", n_tile.last & self.share.none)
            m.d.sync += absent.eq(none)
            m.d.comb += [
                done.eq(self.request.done | (wanted & absent)),
                self.empty.eq(none & (n_tiles.final_tile == 0)),
                self.request.enable.eq(wanted & ~absent),
            ]
        else:
            m.d.comb += [done.eq(self.request.done), self.request.enable.eq(wanted)]
        if self._k_tile_bits:
            m.d.comb += self.k_tile.eq(k_tile.value)
        with m.If(self.start):
            m.d.sync += running.eq(1)
        with m.Elif(done & at_end):
            m.d.sync += running.eq(0)
        return m
