"""The queue of GEMMs: which runs, which waits, whether it is legal, how it ends, and what it counted."""

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...formats import BLOCK_SIZE, TENSOR_EXPONENT_LIMIT
from ..pipeline import wire
from ..rounding import EXPONENT_LIMIT
from .axi_lite import register_signature
from .config import EngineConfig
from .interfaces import GemmSettings, GemmSize, StreamShare
from .registers import COUNTERS, OUTPUT_FORMATS, register

__all__ = ["Control", "Counters", "queued_registers"]


def queued_registers(config: EngineConfig) -> tuple[str, ...]:
    """The registers that START copies, so that software can write the next GEMM's meanwhile."""
    selectors = (("INPUT", config.input_selector), ("OUTPUT", config.output_selector))
    return ("M", "N", "K", "FORMAT", *(f"{which}_SELECTOR" for which, there in selectors if there is not None))


class Control(wiring.Component):
    """Starts GEMMs one after the other; one may wait while another runs.

    Attributes:
        control, m, n, k, format, input_selector, output_selector: fields of these registers, as software wrote them.
        status_busy, status_waiting: a GEMM runs; one waits.
        config_error, start_rejected, done: events for EVENTS.
        ended_count: GEMMs that ended, since reset.
        behind: no more early ends could be counted now.
        flushing: what an abort left behind was not taken yet.
        short: a packet of operands is too short.
        packet_sent: the last beat of a packet of results was taken.
        begin_gemm: a GEMM begins; its registers are copied.
        start_gemm: a cycle later, with size and settings in place.
        kill: the one that runs is given up.
        abort: everything is.
        size, resident, settings: of the one that runs.
        share_0, share_1, ...: which of its weights come on each stream, where there are several.
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        super().__init__(
            {
                **{name.lower(): In(register_signature(name)) for name in ("CONTROL", *queued_registers(config))},
                "status_busy": Out(1),
                "status_waiting": Out(1),
                "config_error": Out(1),
                "start_rejected": Out(1),
                "done": Out(1),
                "ended_count": Out(32),
                "behind": In(1),
                "flushing": In(1),
                "short": In(1),
                "packet_sent": In(1),
                "begin_gemm": Out(1),
                "start_gemm": Out(1),
                "kill": Out(1),
                "abort": Out(1),
                "size": Out(GemmSize(config)),
                "resident": Out(1),
                **{f"share_{index}": Out(StreamShare(config, index)) for index in _streams(config)},
                "settings": Out(GemmSettings(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        begin, busy, waiting = self.begin_gemm, self.status_busy, self.status_waiting
        legal = wire(m, "legal", self._legal())
        asked = wire(m, "asked", self.control.start & ~self.abort)
        accepted = wire(m, "accepted", asked & legal & ~waiting)
        m.d.comb += [
            self.abort.eq(self.control.abort),
            self.config_error.eq(asked & ~legal),
            self.start_rejected.eq(asked & legal & waiting),
            # It waits while one more early end could not be counted, and until an aborted packet has left.
            begin.eq(waiting & ~busy & ~self.abort & ~self.behind & ~self.flushing),
            self.kill.eq(busy & self.short),
            self.done.eq(busy & ~self.flushing & self.packet_sent),
        ]
        m.d.sync += self.start_gemm.eq(begin)
        with m.If(accepted):
            m.d.sync += waiting.eq(1)
        with m.If(begin):
            m.d.sync += [waiting.eq(0), busy.eq(1)]
        with m.If(self.done):
            m.d.sync += [busy.eq(0), self.ended_count.eq(self.ended_count + 1)]
        with m.If(self.abort):
            m.d.sync += [busy.eq(0), waiting.eq(0), self.start_gemm.eq(0)]
        self._copy(m, accepted, begin)
        return m

    def _copy(self, m: Module, accepted: Value, begin: Value) -> None:
        """From the registers to those of the one that waits, and from there to those of the one that runs."""
        waiting: dict[str, Signal] = {}
        for name in queued_registers(self._config):
            for field in register(name).fields:
                source = getattr(getattr(self, name.lower()), field.name)
                held = Signal.like(source, name=f"waiting_{name.lower()}_{field.name}", reset_less=True)
                waiting[f"{name}.{field.name}"] = held
                with m.If(accepted):
                    m.d.sync += held.eq(source)
        size = self.size
        m_final = wire(m, "waiting_m_final", (waiting["M.value"] - 1)[: len(waiting["M.value"])])
        n_final = wire(m, "waiting_n_final", (waiting["N.value"] - 1)[: len(waiting["N.value"])])
        k_value, low = waiting["K.value"], (BLOCK_SIZE - 1).bit_length()
        k_final = wire(m, "waiting_k_final", (k_value[low:] - ~k_value[:low].any())[: len(k_value) - low])
        k_tile_final = k_final[len(size.block_final) :]
        output = waiting["FORMAT.output"]
        copies = [
            (Cat(size.row_final, size.m_tile_final), m_final),
            (Cat(size.lane_final, size.n_tile_final), n_final),
            (Cat(size.block_final, size.k_tile_final), k_final),
            (self.resident, k_tile_final < self._config.slots),
            (self.settings.bfloat16, output == OUTPUT_FORMATS.index("bfloat16")),
            (self.settings.relu, waiting["FORMAT.relu"]),
            (self.settings.exponent, waiting["FORMAT.exponent"]),
        ]
        copies += self._shares(n_final)
        if self._config.raw_input != "none":
            copies.append((self.settings.raw_input, waiting["FORMAT.raw_input"]))
        if self._config.packed_output:
            copies.append((self.settings.packed, output == OUTPUT_FORMATS.index("packed")))
        for which in ("input_selector", "output_selector"):
            if which not in self.settings.signature.members:
                continue
            settings = getattr(self.settings, which)
            copies += [
                (settings.tensor_exponent, waiting[f"{which.upper()}.tensor_exponent"]),
                (settings.threshold.significand, waiting[f"{which.upper()}.significand"]),
                (settings.threshold.exponent, waiting[f"{which.upper()}.exponent"]),
                (settings.mode, waiting[f"{which.upper()}.mode"]),
            ]
            if self._config.four_over_six:
                copies.append((settings.four_over_six, waiting[f"{which.upper()}.four_over_six"]))
        with m.If(begin):
            m.d.sync += [target.eq(value) for target, value in copies]

    def _shares(self, n_final: Value) -> list[tuple[Value, Value]]:
        """Rows of the last N tile by stream: each has every n-th, the first streams one more than the others."""
        copies: list[tuple[Value, Value]] = []
        low = self._config.weight_streams.bit_length() - 1
        rest, whole = n_final[:low], n_final[low : len(self.size.lane_final)]
        for index in _streams(self._config):
            share = getattr(self, f"share_{index}")
            if index == 0:
                copies.append((share.row_final, whole))
                continue
            fewer = rest < index
            copies += [(share.row_final, (whole - fewer)[: len(whole)]), (share.none, fewer & (whole == 0))]
        return copies

    def _legal(self) -> Value:
        """Whether a GEMM may start with the registers as they are."""
        config = self._config
        packed = self.format.output == OUTPUT_FORMATS.index("packed")
        legal = (
            self.m.value.any()
            & self.n.value.any()
            & self.k.value.any()
            & (self.k.value <= config.k_max)
            & (self.format.output < len(OUTPUT_FORMATS))
            & _within(self.format.exponent, EXPONENT_LIMIT)
        )
        if config.packed_output:
            legal &= ~packed | ((self.n.value <= config.n_max) & self._selectable(self.output_selector))
        else:
            legal &= ~packed
        if config.raw_input != "none":
            legal &= ~self.format.raw_input | self._selectable(self.input_selector)
        else:
            legal &= ~self.format.raw_input
        return legal

    def _selectable(self, site: wiring.PureInterface) -> Value:
        """Whether a selector may work with such registers."""
        built_in = Const(1) if self._config.four_over_six else ~site.four_over_six
        return _within(site.tensor_exponent, TENSOR_EXPONENT_LIMIT) & built_in


def _streams(config: EngineConfig) -> range:
    """The streams of weights, where there are several."""
    return range(config.weight_streams if config.weight_streams > 1 else 0)


def _within(value: Value, limit: int) -> Value:
    signed = value.as_signed()
    return (signed >= -limit) & (signed <= limit)


class Counters(wiring.Component):
    """Counts what happens while a GEMM runs.

    Attributes:
        begin_gemm: it begins: all counters become 0.
        busy: it runs.
        events: for each counter, how many it counts in this cycle.
        values: the counters.
    """

    def __init__(self, config: EngineConfig) -> None:
        streams = config.weight_streams
        most = {"weight_beats": streams, "weight_reads": 2 * streams, "weight_fp8_reads": 2 * streams}
        super().__init__(
            {
                "begin_gemm": In(1),
                "busy": In(1),
                "events": In(wiring.Signature({name: Out(range(most.get(name, 1) + 1)) for name, _ in COUNTERS})),
                "values": Out(wiring.Signature({name: Out(32) for name, _ in COUNTERS})),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, _ in COUNTERS:
            counter, event = getattr(self.values, name), getattr(self.events, name)
            with m.If(self.begin_gemm):
                m.d.sync += counter.eq(0)
            with m.Elif(self.busy & event.any()):
                m.d.sync += counter.eq(counter + event)
        return m
