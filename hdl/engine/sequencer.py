"""The order of work: which weights are fetched when, and which activation block meets them in which cycle."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..hierarchy import add_part
from ..pipeline import sticky, wire
from ..unit_config import RowOrderConfig
from .config import TILE_BLOCKS, EngineConfig
from .interfaces import ActivationRead, BufferRead, GemmSize, SlotState, WeightRead
from .loop import Loop, extents, loops
from .row_order import RowOrder

__all__ = ["Sequencer"]

_TILE_BITS = (TILE_BLOCKS - 1).bit_length()


class _Step:
    """The attributes of a step.

    `first` and `last` of K, `end` of the GEMM; whether it `frees` its activations' slot; `block` and `slot`.
    """

    def __init__(self, config: EngineConfig, name: str):
        self.first, self.last, self.end, self.frees = (
            Signal(name=f"{name}_{field}") for field in ("first", "last", "end", "frees")
        )
        self.block = Signal(_TILE_BITS, name=f"{name}_block")
        self.slot = Signal(range(config.slots), name=f"{name}_slot")

    def take(self, m: Module, other: "_Step") -> None:
        """This step becomes `other`."""
        m.d.sync += [mine.eq(theirs) for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)]


class Sequencer(wiring.Component):
    """Fetches the weights of the next step into the lanes while the current step streams a row tile past the held ones.

    A step is one block of K for all lanes. Loops, outermost first: row tile, N tile, K tile, block, row. Rows are in
    the order of `RowOrder`, those of the last step of K ascending, so that results are in order. A row waits until its
    sum of the step before is written.

    Two lanes of each stream of weights are fetched a cycle. The first row of a step is issued two cycles after the last
    of its weights were fetched, or later; the next step's fetch begins in that cycle.

    Attributes:
        start: begin a GEMM of `size`.
        size, resident: its dimensions, and whether its activations stay for all N tiles.
        weight_slots, weight_read: the weight buffer; a slot is freed with its last read.
        activation_slots, activation_read: the activation buffer; a slot is freed with the last read of its last use.
        precision_read, precisions: the precision bits of all rows of a block of K, a cycle later.
        load: which lanes take the weight blocks that come out of the buffers, as a group of neighbors.
        load_zero: those of the group that lie beyond N and take zeros.
        swap: all lanes change over to the next weight blocks.
        credit: the result buffer has a row that is not promised.
        credit_taken: a row of it is promised.
        sums_read, sums_read_row: read the sums of a row.
        term_valid, term_first: a term comes out of the dot products; it begins a row.
        sums_write, sums_write_row: write the sums of a row ...
        result_write: ... or hand them to the result buffer.
        spanning: between the first and the last block pair, for the counters.
        stall_weights, stall_activations, stall_results, stall_sums: why no block pair was issued, for the counters.
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        rows, lanes, slots = config.rows, config.lanes, config.slots
        self._fetched = fetched = 2 * config.weight_streams  # lanes at a time
        self._read_stage, self._term_stage, self._sum_stage = (config.pipeline + n for n in (1, 2, 3))
        super().__init__(
            {
                "start": In(1),
                "size": In(GemmSize(config)),
                "resident": In(1),
                "weight_slots": In(SlotState(2)),
                "weight_read": Out(WeightRead(config.stream_lanes, config.weight_streams)),
                "activation_slots": In(SlotState(slots)),
                "activation_read": Out(ActivationRead(slots * rows * TILE_BLOCKS)),
                "precision_read": Out(BufferRead(slots * TILE_BLOCKS)),
                "precisions": In(rows),
                "load": Out(lanes // fetched),
                "load_zero": Out(fetched),
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
                "stall_sums": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Of the step that is fetched, of the one whose rows are put in order, and of the one whose row is on offer.
        fetched, ordered, current = (_Step(self._config, name) for name in ("fetched", "ordered", "current"))
        order = RowOrder(RowOrderConfig(self._config.rows))
        add_part(m, platform, "row_order", order)
        begun = Signal()  # the first row of the step goes to the lanes: the next step's weights may be fetched
        ready, begins = self._fetch(m, fetched, begun, order)
        slot, known, missing = self._precisions(m, fetched, begins, current, order)
        m.d.comb += [
            order.load.eq(known & order.ready),
            order.fp8.eq(self.precisions),
            # Results leave in the order of the last step.
            order.sort.eq(~fetched.last if self._config.row_order == "precision" else 0),
        ]
        with m.If(order.load):
            ordered.take(m, fetched)
            m.d.sync += ordered.slot.eq(slot)
        with m.If(order.begins):
            current.take(m, ordered)
        waits = wire(m, "waits_for_weights", ~ready & (order.first | ~order.valid))
        issue = self._issue(m, current, order, waits)
        m.d.comb += begun.eq(issue & order.first)
        # Without a row on offer it is weights, unless it is known to be activations.
        self._reasons(m, current, order, issue, Mux(order.valid, waits, ~missing))
        return m

    def _fetch(self, m: Module, step: _Step, begun: Value, order: RowOrder) -> tuple[Signal, Signal]:
        """Weights of the next step, group by group, into the lanes' second registers.

        Returns whether the step's first row may be issued, which needs them two cycles later, and whether the first
        are fetched in this cycle.
        """
        config = self._config
        m_tiles, n_tiles, k_tiles = extents(config, self.size)
        running = Signal()
        taken = Signal()  # the second registers are being filled, or wait for the change
        free = wire(m, "registers_free", ~taken | begun)
        fetch = Signal()
        mid_step = Signal()
        row_final = Signal(range(config.rows))
        group_final = Signal(range(config.lanes // self._fetched))
        block_final = Signal(_TILE_BITS)
        (m_tile, n_tile, k_tile, block, group), at_end = loops(
            m,
            fetch,
            [
                ("fetch_m", m_tiles.final_tile),
                ("fetch_n", n_tiles.final_tile),
                ("fetch_k", k_tiles.final_tile),
                ("fetch_block", block_final),
                ("fetch_group", group_final),
            ],
        )
        lane_last = n_tiles.final(n_tile.last)
        within = (Const(index, self._fetched.bit_length() - 1) for index in range(self._fetched))
        wanted = wire(m, "fetch_wanted", Cat(Cat(index, group.value) <= lane_last for index in within))
        read = self.weight_read
        m.d.comb += [
            group_final.eq(config.lanes // self._fetched - 1),
            block_final.eq(k_tiles.final(k_tile.last)),
            fetch.eq(running & (mid_step | (free & self.weight_slots.filled.any()))),
            read.enable.eq(Mux(fetch, wanted, 0)),
            read.block.eq(block.value),
            read.pair.eq(group.value),
            read.slot.eq(self.weight_slots.oldest),
            self.weight_slots.free.eq(fetch & group.last & block.last),
        ]
        with m.If(self.start):
            m.d.sync += running.eq(1)
        with m.Elif(fetch & at_end):
            m.d.sync += running.eq(0)
        with m.If(fetch):
            m.d.sync += mid_step.eq(~group.last)
        once_more = wire(m, "once_more", self.resident & ~n_tile.last)  # these activations are needed again
        with m.If(begun):
            m.d.sync += taken.eq(0)
        begins = wire(m, "fetch_begins", fetch & ~mid_step)
        with m.If(begins):
            m.d.sync += [
                taken.eq(1),
                step.first.eq((k_tile.value == 0) & (block.value == 0)),
                step.last.eq(k_tile.last & block.last),
                step.end.eq(m_tile.last & n_tile.last & k_tile.last & block.last),
                step.frees.eq(block.last & ~once_more),
                step.block.eq(block.value),
                # Counted from the oldest slot: what is not needed again is freed as it is used.
                step.slot.eq(Mux(once_more, k_tile.value, 0)),
                row_final.eq(m_tiles.final(m_tile.last)),
            ]
        m.d.comb += order.row_final.eq(row_final)
        return self._load(m, fetch, group, wanted, begun), begins

    def _load(self, m: Module, fetch: Value, group: Loop, wanted: Value, begun: Value) -> Signal:
        """Fetched blocks into the lanes: a block is out two cycles after it was asked for."""
        ready = Signal(name="step_ready")
        fetch_1, fetch_2 = Signal(name="fetch_1"), Signal(name="fetch_2")
        group_1, group_2 = (Signal.like(group.value, reset_less=True, name=f"group_{n}") for n in (1, 2))
        wanted_1, wanted_2 = (Signal(self._fetched, reset_less=True, name=f"wanted_{n}") for n in (1, 2))
        fetched = Signal(name="step_fetched")  # the last of the step was fetched a cycle ago
        m.d.sync += [fetch_1.eq(fetch), fetch_2.eq(fetch_1), fetched.eq(fetch & group.last)]
        m.d.sync += [group_1.eq(group.value), group_2.eq(group_1), wanted_1.eq(wanted), wanted_2.eq(wanted_1)]
        m.d.comb += [self.load.eq(Mux(fetch_2, 1 << group_2, 0)[: len(self.load)]), self.load_zero.eq(~wanted_2)]
        sticky(m, ready, fetched, begun)
        return ready

    def _precisions(
        self, m: Module, step: _Step, begins: Value, current: _Step, order: RowOrder
    ) -> tuple[Value, Signal, Value]:
        """Ask for the precision bits of the fetched step's rows once its activations are there.

        Returns the step's slot, whether the bits have come, and whether the activations are missing.
        """
        slots = self.activation_slots
        wanted = Signal(name="precisions_wanted")
        known = Signal(name="precisions_known")
        slot = Signal(range(self._config.slots), name="step_slot", reset_less=True)
        # The step before this one frees its slot later than this one is fetched.
        pending = wire(m, "free_pending", order.valid & current.frees)
        there = wire(m, "activations_there", slots.filled - pending > step.slot)
        asked = wire(m, "precisions_asked", wanted & there)
        address = wire(m, "precision_slot", (slots.oldest + pending + step.slot)[: len(slot)])
        m.d.comb += [self.precision_read.enable.eq(asked), self.precision_read.address.eq(Cat(step.block, address))]
        with m.If(begins):
            m.d.sync += wanted.eq(1)
        with m.Elif(asked):
            m.d.sync += [wanted.eq(0), known.eq(1), slot.eq(address)]
        with m.If(order.load):
            m.d.sync += known.eq(0)
        return slot, known, wire(m, "activations_missing", wanted & ~there)

    def _issue(self, m: Module, current: _Step, order: RowOrder, waits_for_weights: Value) -> Value:
        """The row on offer meets the lanes' weights, unless it must wait; and what it needs in the cycles after."""
        offered = wire(m, "offered", order.valid & ~waits_for_weights)
        issue = wire(m, "issue", offered & ~self.stall_sums & (~current.last | self.credit))
        m.d.comb += [
            order.taken.eq(issue),
            self.activation_slots.free.eq(issue & order.last & current.frees),
            self.credit_taken.eq(issue & current.last),
            self.activation_read.enable.eq(issue),
            self.activation_read.address.eq(Cat(current.block, order.row, current.slot)),
            self.activation_read.fp8.eq(order.row_fp8),
        ]
        valids, firsts, lasts, rows = [issue], [current.first], [current.last], [order.row]
        for stage in range(1, self._sum_stage + 1):
            valid, first, last = (Signal(name=f"{n}_{stage}") for n in ("valid", "first", "last"))
            row = Signal.like(order.row, name=f"row_{stage}", reset_less=True)
            m.d.sync += valid.eq(valids[-1])
            with m.If(valids[-1]):
                m.d.sync += [first.eq(firsts[-1]), last.eq(lasts[-1]), row.eq(rows[-1])]
            for stages, value in zip((valids, firsts, lasts, rows), (valid, first, last, row), strict=True):
                stages.append(value)
        # A row must not come again before the sum of its last visit can be read.
        met = [valids[n] & (rows[n] == order.row) for n in range(1, self._sum_stage - self._read_stage + 1)]
        begins = Signal(name="begins")
        m.d.sync += begins.eq(issue & order.first)
        m.d.comb += [
            self.stall_sums.eq(offered & ~current.first & Cat(met).any()),
            # The step's first row goes into the lanes two cycles after it was issued.
            self.swap.eq(begins),
            self.sums_read.eq(valids[self._read_stage] & ~firsts[self._read_stage]),
            self.sums_read_row.eq(rows[self._read_stage]),
            self.term_valid.eq(valids[self._term_stage]),
            self.term_first.eq(firsts[self._term_stage]),
            self.sums_write.eq(valids[self._sum_stage] & ~lasts[self._sum_stage]),
            self.result_write.eq(valids[self._sum_stage] & lasts[self._sum_stage]),
            self.sums_write_row.eq(rows[self._sum_stage]),
        ]
        return issue

    def _reasons(self, m: Module, current: _Step, order: RowOrder, issue: Value, waits_for_weights: Value) -> None:
        """Why nothing was issued, until the last row of the GEMM was."""
        begun, over = Signal(name="begun"), Signal(name="over")
        with m.If(self.start):
            m.d.sync += [begun.eq(0), over.eq(0)]
        with m.Elif(issue & order.last & current.end):
            m.d.sync += over.eq(1)
        with m.If(issue):
            m.d.sync += begun.eq(1)
        idle = wire(m, "idle", ~issue & ~over)
        m.d.comb += [
            self.spanning.eq(issue | (begun & ~over)),
            self.stall_weights.eq(idle & waits_for_weights),
            self.stall_activations.eq(idle & ~order.valid & ~waits_for_weights),
            self.stall_results.eq(idle & order.valid & ~waits_for_weights & ~self.stall_sums),
        ]
