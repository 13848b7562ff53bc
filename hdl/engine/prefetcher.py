"""Which K tile a loader reads next, into which slot of its buffer."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .config import EngineConfig
from .interfaces import GemmSize, SlotState, TileRequest
from .loop import Ring, extents, loops

__all__ = ["Prefetcher"]


class Prefetcher(wiring.Component):
    """Requests tile after tile from a loader while slots are free.

    Loops: row tile, N tile, K tile; a cycle passes between two tiles. Weights have the rows of the N tile; activations
    those of the row tile, and where they are resident one pass over K serves all N tiles.

    Attributes:
        start: begin a GEMM of `size`.
        size: its dimensions; they stay until it ends.
        resident: whether its activations stay in the buffer for all N tiles.
        request: the tile that the loader is to read.
        k_tile: index of that tile along K, its lowest `k_tile_bits` (if any).
        newest: the slot that it goes to.
        slots: which slots are full.
        finish: all tiles of the GEMM were read.
    """

    def __init__(self, config: EngineConfig, slots: int, *, weights: bool, k_tile_bits: int = 0):
        self._config = config
        self._k_tile_bits = k_tile_bits
        self._weights = weights
        self._slots = slots
        super().__init__(
            {
                "start": In(1),
                "size": In(GemmSize(config)),
                "resident": In(1),
                "request": Out(TileRequest(config.lanes if weights else config.rows)),
                **({"k_tile": Out(k_tile_bits)} if k_tile_bits else {}),
                "newest": Out(range(slots)),
                "slots": Out(SlotState(slots)),
                "finish": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, done = self._config, self.request.done
        m_tiles, n_tiles, k_tiles = extents(config, self.size)
        (m_tile, n_tile, k_tile), at_end = loops(
            m,
            done,
            [
                ("m_tile", m_tiles.final_tile),
                ("n_tile", n_tiles.final_tile if self._weights else Mux(self.resident, 0, n_tiles.final_tile)),
                ("k", k_tiles.final_tile),
            ],
        )
        ring = Ring(m, "ring", self._slots, done, self.slots.free)
        running = Signal()
        settled = Signal()
        # A tile's size is registered: the loader goes on from it to the stream's ready in the same cycle.
        m.d.sync += [
            settled.eq(running & ~done),
            self.request.last_row.eq(n_tiles.final(n_tile.last) if self._weights else m_tiles.final(m_tile.last)),
            self.request.last_block.eq(k_tiles.final(k_tile.last)),
            self.finish.eq(done & at_end),
        ]
        m.d.comb += [
            self.request.enable.eq(running & settled & ~ring.full),
            self.slots.filled.eq(ring.filled),
            self.slots.oldest.eq(ring.oldest),
            self.newest.eq(ring.newest),
        ]
        if self._k_tile_bits:
            m.d.comb += self.k_tile.eq(k_tile.value)
        with m.If(self.start):
            m.d.sync += running.eq(1)
        with m.Elif(done & at_end):
            m.d.sync += running.eq(0)
        return m
