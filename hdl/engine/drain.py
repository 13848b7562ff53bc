"""Results on their way out: from the result buffer through four rounders to beats, or to blocks for the selector."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...formats import BLOCK_SIZE, FLOAT32
from ..config import ROUNDING_CYCLES
from ..hierarchy import add_part
from ..pipeline import Pipeline, wire
from ..ram import ram
from ..rounding import Rounder
from .config import STREAM_BYTES, EngineConfig
from .interfaces import BEAT_BITS, BeatStream, GemmSize
from .loop import Ring, extents, loops
from .memory import site_address_bits

__all__ = ["Drain", "result_members"]

_GROUP = 4
"""Lanes that are rounded at once: a beat of float32."""


def result_members(config: EngineConfig) -> dict[str, wiring.Member]:
    """Ports that take rows of sums and say what becomes of them: the first ones of `Drain`."""
    return {
        "size": In(GemmSize(config)),
        "exponent": In(signed(8)),
        "bfloat16": In(1),
        "relu": In(1),
        "credit": Out(1),
        "credit_taken": In(1),
        "push": In(1),
        "sums": In(config.lanes * (config.accumulator_bits + 1)),
    }


class Drain(wiring.Component):
    """Buffers rows of sums, rounds them four lanes a cycle, and sends them: row tile, N tile, row, lane.

    Attributes:
        size: of the GEMM.
        exponent: sum of both tensor exponents.
        bfloat16, packed: format of the results, else float32.
        relu: negative results become +0.
        credit: a row of the buffer is not promised.
        credit_taken: a row is promised.
        push, sums: store the sums of all lanes for one row.
        beats: results that are not packed.
        blocks: 16 float32 of packed ones (where there is an output selector).
        block_index: which block of the next layer's K they are.
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        members = {**result_members(config), "beats": Out(BeatStream)}
        if config.packed_output:
            members |= {
                "packed": In(1),
                "blocks": Out(stream.Signature(BLOCK_SIZE * FLOAT32.bits)),
                "block_index": Out(site_address_bits(config.n_max)),
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        move = Signal()
        row = self._rows(m, move)
        values = self._rounded(m, platform, row, move)
        full = self._beats(m, values, move)
        packed: Value = self.packed if self._config.packed_output else Const(0)
        with m.If(packed):
            if self._config.packed_output:
                m.d.comb += move.eq(~values.valid | ~self.blocks.valid | self.blocks.ready)
        with m.Else():
            m.d.comb += [
                move.eq(~values.valid | full | self.beats.ready),
                self.beats.valid.eq(values.valid & ~full),
            ]
        if self._config.packed_output:
            self._blocks(m, values, move)
        return m

    def _rows(self, m: Module, move: Value) -> SimpleNamespace:
        """The buffer of rows, and the group of lanes that stands at the rounders."""
        config = self._config
        rows, groups = config.rows, config.lanes // _GROUP
        read = Signal()
        loaded = Signal()
        stored = Ring(m, "stored", rows, self.push, read)
        promised = Signal(range(rows + 1))
        sums = ram(m, "results", rows, (self.push, stored.newest, self.sums), (read, stored.oldest))
        m.d.comb += self.credit.eq(promised != rows)
        m.d.sync += promised.eq(promised + self.credit_taken - read)

        step = wire(m, "step", loaded & move)
        m_tiles, n_tiles, _ = extents(config, self.size)
        row_final = Signal(range(rows))
        group_final = Signal(range(max(groups, 2)))
        (m_tile, n_tile, _, group), at_end = loops(
            m,
            step,
            [
                ("drain_m", m_tiles.final_tile),
                ("drain_n", n_tiles.final_tile),
                ("drain_row", row_final),
                ("drain_group", group_final),
            ],
        )
        m.d.comb += [row_final.eq(m_tiles.final(m_tile.last)), group_final.eq(groups - 1)]
        m.d.comb += read.eq(stored.filled.any() & (~loaded | (step & group.last)))
        with m.If(read):
            m.d.sync += loaded.eq(1)
        with m.Elif(step & group.last):
            m.d.sync += loaded.eq(0)
        lane_final = wire(m, "lane_final", n_tiles.final(n_tile.last))
        return SimpleNamespace(
            loaded=loaded, sums=sums, n_tile=n_tile.value, group=group.value, at_end=at_end, lane_final=lane_final
        )

    def _rounded(self, m: Module, platform: object, row: SimpleNamespace, move: Value) -> SimpleNamespace:
        """Four lanes' results, both formats, and what they are."""
        config = self._config
        bits = config.accumulator_bits
        rounders = [Rounder(bits) for _ in range(_GROUP)]
        for lane, rounder in enumerate(rounders):
            chosen = Signal(bits + 1, name=f"sum_{lane}")
            with m.Switch(row.group):
                for group in range(config.lanes // _GROUP):
                    with m.Case(group):
                        here = _GROUP * group + lane
                        # Beyond N a NaN among the activations would show: those lanes give +0.
                        inside = row.lane_final >= here if here else Const(1, 1)
                        m.d.comb += chosen.eq(Mux(inside, row.sums.word_select(here, bits + 1), 0))
            m.d.comb += [
                rounder.advance.eq(move),
                rounder.valid.eq(row.loaded),
                rounder.raw.eq(chosen[:bits]),
                rounder.poisoned.eq(chosen[bits]),
                rounder.exponent.eq(self.exponent),
            ]
            add_part(m, platform, f"rounder_{lane}", rounder, kind="rounder")
        delay = Pipeline(m, move, range(ROUNDING_CYCLES))
        block_index = self._block_index(row.n_tile, row.group)
        return SimpleNamespace(
            valid=wire(m, "rounded_valid", delay.delayed("valid", row.loaded)),
            last=wire(m, "rounded_last", delay.delayed("last", row.at_end)),
            index=delay.delayed("index", block_index) if config.packed_output else None,
            floats=wire(m, "floats", Cat(self._relu(rounder.float32) for rounder in rounders)),
            brains=wire(m, "brains", Cat(self._relu(rounder.bfloat16) for rounder in rounders)),
        )

    def _beats(self, m: Module, values: SimpleNamespace, move: Value) -> Value:
        """Beats of float32, or of two groups of bfloat16; returns whether there is only half a beat yet."""
        half = Signal(BEAT_BITS // 2, reset_less=True)
        half_valid = Signal()
        waits = wire(m, "half_waits", self.bfloat16 & ~half_valid & ~values.last)
        single = wire(m, "half_alone", self.bfloat16 & ~half_valid)
        beat = self.beats.payload
        pair = Mux(half_valid, Cat(half, values.brains), Cat(values.brains, Const(0, BEAT_BITS // 2)))
        m.d.comb += [
            beat.data.eq(Mux(self.bfloat16, pair, values.floats)),
            beat.keep.eq(Mux(single, (1 << STREAM_BYTES // 2) - 1, (1 << STREAM_BYTES) - 1)),
            beat.last.eq(values.last),
        ]
        unpacked: Value = ~self.packed if self._config.packed_output else Const(1)
        with m.If(values.valid & move & self.bfloat16 & unpacked):
            m.d.sync += half_valid.eq(waits)
            with m.If(waits):
                m.d.sync += half.eq(values.brains)
        return waits

    def _blocks(self, m: Module, values: SimpleNamespace, move: Value) -> None:
        """Four groups of float32 make a block for the selector."""
        part = Signal(range(_GROUP))
        blocks = self.blocks
        with m.If(blocks.valid & blocks.ready):
            m.d.sync += blocks.valid.eq(0)
        with m.If(values.valid & move & self.packed):
            m.d.sync += [
                blocks.payload.eq(Cat(blocks.payload[BEAT_BITS:], values.floats)),
                self.block_index.eq(values.index),
                part.eq(part + 1),
                blocks.valid.eq(part == _GROUP - 1),
            ]

    def _relu(self, value: Value) -> Value:
        return Mux(self.relu & value[-1], 0, value)

    def _block_index(self, n_tile: Value, group: Value) -> Value:
        """Which block of the next layer's K a group belongs to."""
        per_tile = self._config.lanes // BLOCK_SIZE
        index = Cat(group[2 : 2 + (per_tile - 1).bit_length()], n_tile)
        return index[: site_address_bits(self._config.n_max)]
