"""The order of work: which weights are fetched when, and which activation block meets them in which cycle."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import wire
from .config import TILE_BLOCKS, EngineConfig
from .loop import loops

__all__ = ["JOB", "Extent", "Ring", "Sequencer", "extent"]

JOB = {"m_final": 24, "n_final": 16, "k_final": 12}
"""A job's size in the sequencer's terms, with widths in bits: M - 1, N - 1, and blocks of K minus one."""

_TILE_BITS = (TILE_BLOCKS - 1).bit_length()


@dataclass(frozen=True)
class Extent:
    """A dimension cut into tiles: the last tile's index, and how far the last and every other tile go."""

    final_tile: Value
    last: Value
    others: int

    def final(self, is_last: Value) -> Value:
        """Last index inside a tile."""
        return Mux(is_last, self.last, self.others)


def extent(final: Value, size: int) -> Extent:
    """`final` (the dimension minus one) in tiles of `size`, a power of two."""
    low = (size - 1).bit_length()
    return Extent(final[low:], final[:low], size - 1)


class Ring:
    """Slots of a buffer that are filled in order and released in order."""

    def __init__(self, m: Module, name: str, slots: int, push: Value, pop: Value):
        self.newest = Signal(range(slots), name=f"{name}_newest")
        self.oldest = Signal(range(slots), name=f"{name}_oldest")
        self.filled = Signal(range(slots + 1), name=f"{name}_filled")
        self.full = wire(m, f"{name}_full", self.filled == slots)
        m.d.sync += self.filled.eq(self.filled + push - pop)
        with m.If(push):
            m.d.sync += self.newest.eq(self.newest + 1)
        with m.If(pop):
            m.d.sync += self.oldest.eq(self.oldest + 1)


class Sequencer(wiring.Component):
    """Fetches the weights of the next step into the lanes while the current step streams a row tile past the held ones.

    A step is one block of K for all lanes. Loops, outermost first: row tile, N tile, K tile, block, row.
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        rows, lanes, slots = config.rows, config.lanes, config.slots
        depth = config.pipeline
        self.read_stage, self.term_stage, self.sum_stage = depth + 1, depth + 2, depth + 3
        super().__init__(
            {
                "begin": In(1),
                **{name: In(bits) for name, bits in JOB.items()},
                "resident": In(1),
                # The weight buffer: slots that are full, the oldest of them, its release.
                "w_filled": In(1),
                "w_slot": In(1),
                "w_release": Out(1),
                "w_read": Out(1),
                "w_address": Out(1 + (lanes * TILE_BLOCKS - 1).bit_length()),
                # The lanes: which of them loads, whether from the buffer or zero; and when all change over.
                "load": Out(lanes),
                "load_zero": Out(1),
                "swap": Out(1),
                # The activation buffer.
                "a_filled": In(range(slots + 1)),
                "a_oldest": In(range(slots)),
                "a_release": Out(1),
                "a_read": Out(1),
                "a_address": Out((slots * rows * TILE_BLOCKS - 1).bit_length()),
                # The accumulators and the result buffer, each in its stage.
                "result_room": In(1),
                "result_promised": Out(1),
                "sums_read": Out(1),
                "sums_read_row": Out(range(rows)),
                "term_valid": Out(1),
                "term_first": Out(1),
                "sums_write": Out(1),
                "result_write": Out(1),
                "sums_write_row": Out(range(rows)),
                # For the counters.
                "spanning": Out(1),
                "stall_weights": Out(1),
                "stall_activations": Out(1),
                "stall_results": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        rows, lanes, slots = config.rows, config.lanes, config.slots
        m_tiles, n_tiles, k_tiles = (
            extent(self.m_final, rows),
            extent(self.n_final, lanes),
            extent(self.k_final, TILE_BLOCKS),
        )

        # Weights of the next step, lane by lane, into the lanes' second registers.
        running = Signal()
        taken = Signal()  # the second registers are being filled, or wait to be swapped in
        fetch = Signal()
        mid_step = Signal()
        lane_final = Signal(range(lanes))
        block_final = Signal(_TILE_BITS)
        levels, at_end = loops(
            m,
            fetch,
            [
                ("fetch_m", m_tiles.final_tile),
                ("fetch_n", n_tiles.final_tile),
                ("fetch_k", k_tiles.final_tile),
                ("fetch_block", block_final),
                ("fetch_lane", lane_final),
            ],
        )
        m_tile, n_tile, k_tile, block, lane = levels
        m.d.comb += [
            lane_final.eq(lanes - 1),
            block_final.eq(k_tiles.final(k_tile.last)),
            fetch.eq(running & (mid_step | (~taken & self.w_filled))),
            self.w_address.eq(Cat(block.value, lane.value, self.w_slot)),
            self.w_release.eq(fetch & lane.last & block.last),
        ]
        wanted = wire(m, "fetch_wanted", lane.value <= n_tiles.final(n_tile.last))
        m.d.comb += self.w_read.eq(fetch & wanted)
        with m.If(self.begin):
            m.d.sync += running.eq(1)
        with m.Elif(fetch & at_end):
            m.d.sync += running.eq(0)

        # What the step will need, known when its fetch begins.
        step_first, step_last, step_end, step_release = (
            Signal(name=f"step_{n}") for n in ("first", "last", "end", "frees")
        )
        step_block = Signal(_TILE_BITS)
        step_slot = Signal(range(slots))
        step_row_final = Signal(range(rows))
        ready = Signal()
        once_more = wire(m, "once_more", self.resident & ~n_tile.last)  # these activations are needed again
        with m.If(fetch):
            m.d.sync += mid_step.eq(~lane.last)
            with m.If(~mid_step):
                m.d.sync += [
                    taken.eq(1),
                    step_first.eq((k_tile.value == 0) & (block.value == 0)),
                    step_last.eq(k_tile.last & block.last),
                    step_end.eq(m_tile.last & n_tile.last & k_tile.last & block.last),
                    step_release.eq(block.last & ~once_more),
                    step_block.eq(block.value),
                    # Counted from the oldest slot: what is not needed again is released as it is used.
                    step_slot.eq(Mux(once_more, k_tile.value, 0)),
                    step_row_final.eq(m_tiles.final(m_tile.last)),
                ]
        fetch_1, fetch_2 = Signal(), Signal()
        lane_1, lane_2 = Signal(range(lanes), reset_less=True), Signal(range(lanes), reset_less=True)
        wanted_1, wanted_2 = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [fetch_1.eq(fetch), fetch_2.eq(fetch_1)]
        m.d.sync += [lane_1.eq(lane.value), lane_2.eq(lane_1), wanted_1.eq(wanted), wanted_2.eq(wanted_1)]
        m.d.comb += [self.load.eq(Mux(fetch_2, 1 << lane_2, 0)), self.load_zero.eq(~wanted_2)]
        with m.If(fetch_2 & (lane_2 == lanes - 1)):
            m.d.sync += ready.eq(1)

        # The current step: one row a cycle.
        active = Signal()
        row = Signal(range(rows))
        first, last, end, release = (Signal(name=f"current_{n}") for n in ("first", "last", "end", "frees"))
        current_block = Signal(_TILE_BITS)
        current_slot = Signal(range(slots))
        row_final = Signal(range(rows))
        over = Signal()
        issue = wire(m, "issue", active & (~last | self.result_room))
        row_last = wire(m, "row_last", row == row_final)
        finished = wire(m, "finished", issue & row_last)
        # A release in this cycle moves the oldest slot by one.
        released = finished & release
        oldest = (self.a_oldest + released)[: len(self.a_oldest)]
        filled = self.a_filled - released
        there = wire(m, "activations_there", filled > step_slot)
        start = wire(m, "start", ready & there & (~active | finished))
        m.d.comb += [self.a_release.eq(released), self.result_promised.eq(issue & last)]
        with m.If(issue):
            m.d.sync += row.eq(Mux(row_last, 0, row + 1))
        with m.If(start):
            m.d.sync += [
                active.eq(1),
                ready.eq(0),
                first.eq(step_first),
                last.eq(step_last),
                end.eq(step_end),
                release.eq(step_release),
                current_block.eq(step_block),
                current_slot.eq((oldest + step_slot)[: len(oldest)]),
                row_final.eq(step_row_final),
            ]
        with m.Elif(finished):
            m.d.sync += active.eq(0)
        m.d.comb += [self.a_read.eq(issue), self.a_address.eq(Cat(current_block, row, current_slot))]

        valids, firsts, lasts, at_rows = [issue], [first], [last], [row]
        for stage in range(1, self.sum_stage + 1):
            valid, is_first, is_last = (Signal(name=f"{n}_{stage}") for n in ("valid", "first", "last"))
            at_row = Signal(range(rows), name=f"row_{stage}", reset_less=True)
            m.d.sync += valid.eq(valids[-1])
            with m.If(valids[-1]):
                m.d.sync += [is_first.eq(firsts[-1]), is_last.eq(lasts[-1]), at_row.eq(at_rows[-1])]
            valids.append(valid)
            firsts.append(is_first)
            lasts.append(is_last)
            at_rows.append(at_row)
        m.d.comb += [
            # The step's first row goes into the lanes two cycles after it was issued.
            self.swap.eq(valids[1] & (at_rows[1] == 0)),
            self.sums_read.eq(valids[self.read_stage] & ~firsts[self.read_stage]),
            self.sums_read_row.eq(at_rows[self.read_stage]),
            self.term_valid.eq(valids[self.term_stage]),
            self.term_first.eq(firsts[self.term_stage]),
            self.sums_write.eq(valids[self.sum_stage] & ~lasts[self.sum_stage]),
            self.result_write.eq(valids[self.sum_stage] & lasts[self.sum_stage]),
            self.sums_write_row.eq(at_rows[self.sum_stage]),
        ]
        with m.If(self.swap):
            m.d.sync += taken.eq(0)

        # Why nothing was issued, until the last row of the job was.
        begun = Signal()
        with m.If(self.begin):
            m.d.sync += [begun.eq(0), over.eq(0)]
        with m.Elif(finished & end):
            m.d.sync += over.eq(1)
        with m.If(issue):
            m.d.sync += begun.eq(1)
        idle = wire(m, "idle", ~issue & ~over)
        m.d.comb += [
            self.spanning.eq(issue | (begun & ~over)),
            self.stall_results.eq(idle & active),
            self.stall_weights.eq(idle & ~active & ~ready),
            self.stall_activations.eq(idle & ~active & ready),
        ]
        return m
