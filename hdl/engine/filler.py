"""Which K tile a loader reads next, into which slot of its buffer."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .config import TILE_BLOCKS, EngineConfig
from .loader import TILE
from .loop import loops
from .sequencer import JOB, Ring, extent

__all__ = ["Filler"]


class Filler(wiring.Component):
    """Asks a loader for tile after tile while slots are free: all of a job, then `finish`.

    Loops: row tile, N tile, K tile; a cycle passes between two tiles. Weights have the rows of the N tile; activations
    those of the row tile, and where they are resident one pass over K serves all N tiles.
    """

    def __init__(self, config: EngineConfig, name: str, slots: int):
        self._config = config
        self._name = name
        self._slots = slots
        super().__init__(
            {
                "begin": In(1),
                **{port: In(bits) for port, bits in JOB.items()},
                "resident": In(1),
                "done": In(1),
                "free": In(1),
                "enable": Out(1),
                **{port: Out(bits) for port, bits in TILE.items()},
                "k_tile": Out(8),
                "finish": Out(1),
                "filled": Out(range(slots + 1)),
                "oldest": Out(range(slots)),
                "newest": Out(range(slots)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        weights = self._name == "weights"
        m_tiles, n_tiles = extent(self.m_final, config.rows), extent(self.n_final, config.lanes)
        k_tiles = extent(self.k_final, TILE_BLOCKS)
        running = Signal()
        levels, at_end = loops(
            m,
            self.done,
            [
                ("m_tile", m_tiles.final_tile),
                ("n_tile", n_tiles.final_tile if weights else Mux(self.resident, 0, n_tiles.final_tile)),
                ("k", k_tiles.final_tile),
            ],
        )
        m_tile, n_tile, k_tile = levels
        ring = Ring(m, "slots", self._slots, self.done, self.free)
        row_final = n_tiles.final(n_tile.last) if weights else m_tiles.final(m_tile.last)
        # A tile's size is registered: the loader goes on from it to the stream's ready in the same cycle.
        settled = Signal()
        m.d.sync += [
            settled.eq(running & ~self.done),
            self.last_row.eq(row_final),
            self.last_block.eq(k_tiles.final(k_tile.last)),
        ]
        m.d.comb += [
            self.enable.eq(running & settled & ~ring.full),
            self.k_tile.eq(k_tile.value),
            self.filled.eq(ring.filled),
            self.oldest.eq(ring.oldest),
            self.newest.eq(ring.newest),
        ]
        m.d.sync += self.finish.eq(self.done & at_end)
        with m.If(self.begin):
            m.d.sync += running.eq(1)
        with m.Elif(self.done & at_end):
            m.d.sync += running.eq(0)
        return m
