"""Results on their way out: from the result buffer through four rounders to beats, or to rows for the selector."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ...golden.formats import BLOCK_SIZE, FLOAT32
from ..config import ROUNDING_CYCLES
from ..pipeline import Pipeline, wire
from ..rounding import Rounder
from .config import STREAM_BYTES, EngineConfig
from .loop import loops
from .memory import ram
from .sequencer import JOB, extent
from .stream import BEAT_BITS

__all__ = ["BEAT", "Drain"]

BEAT = data.StructLayout({"data": BEAT_BITS, "keep": STREAM_BYTES, "last": 1})
_GROUP = 4


class Drain(wiring.Component):
    """`push` takes the sums of all lanes for one row; `room` says that one more may be promised.

    Order: row tile, N tile, row; within a row the lanes, four in a cycle. With `packed` the results leave as blocks of
    16 float32 at `block`, otherwise as beats at `beat`, the job's last one marked.
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        bits = config.accumulator_bits
        super().__init__(
            {
                "m_final": In(JOB["m_final"]),
                "n_final": In(JOB["n_final"]),
                "exponent": In(signed(8)),
                "bfloat16": In(1),
                "packed": In(1),
                "relu": In(1),
                "promise": In(1),
                "room": Out(1),
                "push": In(1),
                "sums": In(config.lanes * (bits + 1)),
                "beat": Out(BEAT),
                "beat_valid": Out(1),
                "beat_ready": In(1),
                "block": Out(BLOCK_SIZE * FLOAT32.bits),
                "block_index": Out(12),
                "block_valid": Out(1),
                "block_ready": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        rows, lanes, bits = config.rows, config.lanes, config.accumulator_bits
        groups = lanes // _GROUP

        # The buffer: rows of sums, and how many are promised but not yet read.
        read = Signal()
        loaded = Signal()
        newest, oldest = Signal(range(rows)), Signal(range(rows))
        stored, promised = Signal(range(rows + 1)), Signal(range(rows + 1))
        sums = ram(m, "results", rows, (self.push, newest, self.sums), (read, oldest))
        m.d.comb += self.room.eq(promised != rows)
        m.d.sync += [stored.eq(stored + self.push - read), promised.eq(promised + self.promise - read)]
        with m.If(self.push):
            m.d.sync += newest.eq(newest + 1)
        with m.If(read):
            m.d.sync += oldest.eq(oldest + 1)

        move = Signal()
        step = wire(m, "step", loaded & move)
        m_tiles, n_tiles = extent(self.m_final, rows), extent(self.n_final, lanes)
        row_final = Signal(range(rows))
        group_final = Signal(range(max(groups, 2)))
        levels, at_end = loops(
            m,
            step,
            [
                ("drain_m", m_tiles.final_tile),
                ("drain_n", n_tiles.final_tile),
                ("drain_row", row_final),
                ("drain_group", group_final),
            ],
        )
        m_tile, n_tile, _, group = levels
        m.d.comb += [row_final.eq(m_tiles.final(m_tile.last)), group_final.eq(groups - 1)]
        m.d.comb += read.eq(stored.any() & (~loaded | (step & group.last)))
        with m.If(read):
            m.d.sync += loaded.eq(1)
        with m.Elif(step & group.last):
            m.d.sync += loaded.eq(0)

        lane_final = wire(m, "lane_final", n_tiles.final(n_tile.last))
        # Rounding, four lanes at once.
        rounders = [Rounder(bits) for _ in range(_GROUP)]
        for lane, rounder in enumerate(rounders):
            m.submodules[f"round_{lane}"] = rounder
            chosen = Signal(bits + 1, name=f"sum_{lane}")
            with m.Switch(group.value):
                for index in range(groups):
                    with m.Case(index):
                        here = _GROUP * index + lane
                        # Beyond N a NaN among the activations would show: those lanes give +0.
                        inside = lane_final >= here if here else Const(1, 1)
                        m.d.comb += chosen.eq(Mux(inside, sums.word_select(here, bits + 1), 0))
            m.d.comb += [
                rounder.advance.eq(move),
                rounder.valid.eq(loaded),
                rounder.raw.eq(chosen[:bits]),
                rounder.poisoned.eq(chosen[bits]),
                rounder.exponent.eq(self.exponent),
            ]
        valid = rounders[0].valid_out  # all rounders move at once
        delay = Pipeline(m, move, range(ROUNDING_CYCLES))
        at_last = delay.delayed(at_end)
        index = delay.delayed(self._block_index(n_tile.value, group.value))
        floats = Cat(self._relu(rounder.float32) for rounder in rounders)
        brains = Cat(self._relu(rounder.bfloat16) for rounder in rounders)

        half = Signal(BEAT_BITS // 2, reset_less=True)
        half_valid = Signal()
        part = Signal(range(_GROUP))
        full = wire(m, "full", self.bfloat16 & ~half_valid & ~at_last)  # only half a beat yet
        with m.If(self.packed):
            m.d.comb += move.eq(~valid | ~self.block_valid | self.block_ready)
        with m.Else():
            m.d.comb += [move.eq(~valid | full | self.beat_ready), self.beat_valid.eq(valid & ~full)]
        single = self.bfloat16 & ~half_valid
        m.d.comb += [
            self.beat.data.eq(
                Mux(self.bfloat16, Mux(half_valid, Cat(half, brains), Cat(brains, Const(0, 64))), floats)
            ),
            self.beat.keep.eq(Mux(single, (1 << STREAM_BYTES // 2) - 1, (1 << STREAM_BYTES) - 1)),
            self.beat.last.eq(at_last),
        ]
        with m.If(valid & move & self.bfloat16 & ~self.packed):
            m.d.sync += half_valid.eq(full)
            with m.If(full):
                m.d.sync += half.eq(brains)

        with m.If(self.block_valid & self.block_ready):
            m.d.sync += self.block_valid.eq(0)
        with m.If(valid & move & self.packed):
            m.d.sync += [
                self.block.eq(Cat(self.block[BEAT_BITS:], floats)),
                self.block_index.eq(index),
                part.eq(part + 1),
                self.block_valid.eq(part == _GROUP - 1),
            ]
        return m

    def _relu(self, value: Value) -> Value:
        return Mux(self.relu & value[-1], 0, value)

    def _block_index(self, n_tile: Value, group: Value) -> Value:
        """Which block of the next layer's K a group belongs to."""
        if self._config.lanes < BLOCK_SIZE:
            return Value.cast(0)
        per_tile = self._config.lanes // BLOCK_SIZE
        return Cat(group[2 : 2 + (per_tile - 1).bit_length()], n_tile)[:12]
