"""The order of work: which weights are fetched when, and which activation block meets them in which cycle."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import wire
from .config import TILE_BLOCKS, EngineConfig
from .interfaces import BlockRead, GemmSize, SlotState
from .loop import extents, loops

__all__ = ["Sequencer"]

_TILE_BITS = (TILE_BLOCKS - 1).bit_length()


class Sequencer(wiring.Component):
    """Fetches the weights of the next step into the lanes while the current step streams a row tile past the held ones.

    A step is one block of K for all lanes. Loops, outermost first: row tile, N tile, K tile, block, row.

    Attributes:
        start: begin a matrix product of `size`.
        size, resident: its dimensions, and whether its activations stay for all N tiles.
        weight_slots, weight_read: the weight buffer; a slot is freed with its last read.
        activation_slots, activation_read: the activation buffer; a slot is freed with the last read of its last use.
        load: which lane takes the weight block that comes out of the buffer.
        load_zero: it lies beyond N and takes zeros.
        swap: all lanes change over to the next weight blocks.
        credit: the result buffer has a row that is not promised.
        credit_taken: a row of it is promised.
        sums_read, sums_read_row: read the sums of a row.
        term_valid, term_first: a term comes out of the dot products; it begins a row.
        sums_write, sums_write_row: write the sums of a row ...
        result_write: ... or hand them to the result buffer.
        spanning: between the first and the last block pair, for the counters.
        stall_weights, stall_activations, stall_results: why no block pair was issued, for the counters.
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        rows, lanes, slots = config.rows, config.lanes, config.slots
        self._read_stage, self._term_stage, self._sum_stage = (config.pipeline + n for n in (1, 2, 3))
        super().__init__(
            {
                "start": In(1),
                "size": In(GemmSize(config)),
                "resident": In(1),
                "weight_slots": In(SlotState(2)),
                "weight_read": Out(BlockRead(2 * lanes * TILE_BLOCKS)),
                "activation_slots": In(SlotState(slots)),
                "activation_read": Out(BlockRead(slots * rows * TILE_BLOCKS)),
                "load": Out(lanes),
                "load_zero": Out(1),
                "swap": Out(1),
                "credit": In(1),
                "credit_taken": Out(1),
                "sums_read": Out(1),
                "sums_read_row": Out(range(rows)),
                "term_valid": Out(1),
                "term_first": Out(1),
                "sums_write": Out(1),
                "sums_write_row": Out(range(rows)),
                "result_write": Out(1),
                "spanning": Out(1),
                "stall_weights": Out(1),
                "stall_activations": Out(1),
                "stall_results": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        swapped = Signal()  # the lanes change over: their next weight blocks may be fetched
        started = Signal()  # the fetched step becomes the current one
        step = self._fetch(m, swapped, started)
        issue = self._stream(m, step, started)
        self._stages(m, issue)
        m.d.comb += swapped.eq(self.swap)
        self._reasons(m, step, issue)
        return m

    def _fetch(self, m: Module, swapped: Value, started: Value) -> SimpleNamespace:
        """Weights of the next step, lane by lane, into the lanes' second registers; returns what the step will need."""
        config = self._config
        rows, lanes, slots = config.rows, config.lanes, config.slots
        m_tiles, n_tiles, k_tiles = extents(config, self.size)
        running = Signal()
        taken = Signal()  # the second registers are being filled, or wait for the change
        fetch = Signal()
        mid_step = Signal()
        lane_final, block_final = Signal(range(lanes)), Signal(_TILE_BITS)
        (m_tile, n_tile, k_tile, block, lane), at_end = loops(
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
        wanted = wire(m, "fetch_wanted", lane.value <= n_tiles.final(n_tile.last))
        m.d.comb += [
            lane_final.eq(lanes - 1),
            block_final.eq(k_tiles.final(k_tile.last)),
            fetch.eq(running & (mid_step | (~taken & self.weight_slots.filled.any()))),
            self.weight_read.enable.eq(fetch & wanted),
            self.weight_read.address.eq(Cat(block.value, lane.value, self.weight_slots.oldest)),
            self.weight_slots.free.eq(fetch & lane.last & block.last),
        ]
        with m.If(self.start):
            m.d.sync += running.eq(1)
        with m.Elif(fetch & at_end):
            m.d.sync += running.eq(0)

        step = SimpleNamespace(
            first=Signal(name="step_first"),
            last=Signal(name="step_last"),
            end=Signal(name="step_end"),
            frees=Signal(name="step_frees"),
            block=Signal(_TILE_BITS, name="step_block"),
            slot=Signal(range(slots), name="step_slot"),
            row_final=Signal(range(rows), name="step_row_final"),
            ready=Signal(name="step_ready"),
        )
        once_more = wire(m, "once_more", self.resident & ~n_tile.last)  # these activations are needed again
        with m.If(fetch):
            m.d.sync += mid_step.eq(~lane.last)
        with m.If(fetch & ~mid_step):
            m.d.sync += [
                taken.eq(1),
                step.first.eq((k_tile.value == 0) & (block.value == 0)),
                step.last.eq(k_tile.last & block.last),
                step.end.eq(m_tile.last & n_tile.last & k_tile.last & block.last),
                step.frees.eq(block.last & ~once_more),
                step.block.eq(block.value),
                # Counted from the oldest slot: what is not needed again is freed as it is used.
                step.slot.eq(Mux(once_more, k_tile.value, 0)),
                step.row_final.eq(m_tiles.final(m_tile.last)),
            ]
        with m.If(swapped):
            m.d.sync += taken.eq(0)
        # The block is out three cycles after it was asked for, and in the lane's register a cycle later.
        fetch_1, fetch_2 = Signal(), Signal()
        lane_1, lane_2 = Signal(range(lanes), reset_less=True), Signal(range(lanes), reset_less=True)
        wanted_1, wanted_2 = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [fetch_1.eq(fetch), fetch_2.eq(fetch_1)]
        m.d.sync += [lane_1.eq(lane.value), lane_2.eq(lane_1), wanted_1.eq(wanted), wanted_2.eq(wanted_1)]
        m.d.comb += [self.load.eq(Mux(fetch_2, 1 << lane_2, 0)), self.load_zero.eq(~wanted_2)]
        with m.If(fetch_2 & (lane_2 == lanes - 1)):
            m.d.sync += step.ready.eq(1)
        with m.If(started):
            m.d.sync += step.ready.eq(0)
        return step

    def _stream(self, m: Module, step: SimpleNamespace, started: Signal) -> SimpleNamespace:
        """The current step: one row a cycle."""
        slots = self.activation_slots
        current = SimpleNamespace(
            first=Signal(name="current_first"),
            last=Signal(name="current_last"),
            end=Signal(name="current_end"),
            frees=Signal(name="current_frees"),
            block=Signal.like(step.block, name="current_block"),
            slot=Signal.like(step.slot, name="current_slot"),
            row_final=Signal.like(step.row_final, name="current_row_final"),
            active=Signal(name="current_active"),
            row=Signal.like(step.row_final, name="current_row"),
        )
        current.issue = wire(m, "issue", current.active & (~current.last | self.credit))
        row_last = wire(m, "row_last", current.row == current.row_final)
        current.finished = wire(m, "finished", current.issue & row_last)
        # A slot that is freed in this cycle moves the oldest by one.
        freed = current.finished & current.frees
        oldest = (slots.oldest + freed)[: len(slots.oldest)]
        there = wire(m, "activations_there", slots.filled - freed > step.slot)
        m.d.comb += [
            started.eq(step.ready & there & (~current.active | current.finished)),
            slots.free.eq(freed),
            self.credit_taken.eq(current.issue & current.last),
            self.activation_read.enable.eq(current.issue),
            self.activation_read.address.eq(Cat(current.block, current.row, current.slot)),
        ]
        with m.If(current.issue):
            m.d.sync += current.row.eq(Mux(row_last, 0, current.row + 1))
        with m.If(started):
            m.d.sync += [
                current.active.eq(1),
                *(getattr(current, n).eq(getattr(step, n)) for n in ("first", "last", "end", "frees")),
                current.block.eq(step.block),
                current.row_final.eq(step.row_final),
                current.slot.eq((oldest + step.slot)[: len(oldest)]),
            ]
        with m.Elif(current.finished):
            m.d.sync += current.active.eq(0)
        return current

    def _stages(self, m: Module, current: SimpleNamespace) -> None:
        """What a row needs in the cycles after it was issued: the change of weights, its sums, its result."""
        valids, firsts, lasts, rows = [current.issue], [current.first], [current.last], [current.row]
        for stage in range(1, self._sum_stage + 1):
            valid, first, last = (Signal(name=f"{n}_{stage}") for n in ("valid", "first", "last"))
            row = Signal.like(current.row, name=f"row_{stage}", reset_less=True)
            m.d.sync += valid.eq(valids[-1])
            with m.If(valids[-1]):
                m.d.sync += [first.eq(firsts[-1]), last.eq(lasts[-1]), row.eq(rows[-1])]
            for stages, value in zip((valids, firsts, lasts, rows), (valid, first, last, row), strict=True):
                stages.append(value)
        m.d.comb += [
            # The step's first row goes into the lanes two cycles after it was issued.
            self.swap.eq(valids[1] & (rows[1] == 0)),
            self.sums_read.eq(valids[self._read_stage] & ~firsts[self._read_stage]),
            self.sums_read_row.eq(rows[self._read_stage]),
            self.term_valid.eq(valids[self._term_stage]),
            self.term_first.eq(firsts[self._term_stage]),
            self.sums_write.eq(valids[self._sum_stage] & ~lasts[self._sum_stage]),
            self.result_write.eq(valids[self._sum_stage] & lasts[self._sum_stage]),
            self.sums_write_row.eq(rows[self._sum_stage]),
        ]

    def _reasons(self, m: Module, step: SimpleNamespace, current: SimpleNamespace) -> None:
        """Why nothing was issued, until the last row of the matrix product was."""
        begun, over = Signal(), Signal()
        with m.If(self.start):
            m.d.sync += [begun.eq(0), over.eq(0)]
        with m.Elif(current.finished & current.end):
            m.d.sync += over.eq(1)
        with m.If(current.issue):
            m.d.sync += begun.eq(1)
        idle = wire(m, "idle", ~current.issue & ~over)
        m.d.comb += [
            self.spanning.eq(current.issue | (begun & ~over)),
            self.stall_results.eq(idle & current.active),
            self.stall_weights.eq(idle & ~current.active & ~step.ready),
            self.stall_activations.eq(idle & ~current.active & step.ready),
        ]
