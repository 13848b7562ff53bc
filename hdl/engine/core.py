"""The engine's core: its parts, and the wires between them (docs/engine.md draws the same picture)."""

from functools import reduce
from operator import or_

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...formats import BLOCK_SIZE
from ..accumulators import Accumulators
from ..hierarchy import add_part
from ..operands import STORED_BLOCK, ActivationDecoder
from ..pipeline import wire
from ..unit_config import ActivationDecoderConfig
from .axi_lite import RegisterFile
from .config import RAW_INPUTS, TILE_BLOCKS, EngineConfig
from .control import Control, Counters, queued_registers
from .interfaces import AxiLite, BeatStream
from .lane import EngineLane
from .operand import OperandPath
from .output import Output
from .registers import COUNTERS, IDENTIFICATION, MAP_VERSION
from .sequencer import Sequencer

__all__ = ["EngineCore"]


class EngineCore(wiring.Component):
    """The engine behind its AXI names: registers and control, two operand paths, sequencer, lanes, output.

    Attributes:
        axi: the registers' bus.
        irq: the interrupt.
        weights, activations: beats of the operands.
        results: beats of the results.
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        super().__init__(
            {
                "axi": In(AxiLite),
                "irq": Out(1),
                "weights": In(BeatStream),
                "activations": In(BeatStream),
                "results": Out(BeatStream),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        self._registers = self._register_file()
        self._control, self._counters = Control(config), Counters()
        self._sequencer, self._output = Sequencer(config), Output(config)
        self._weights, self._activations = OperandPath(config, weights=True), OperandPath(config, weights=False)
        stop = wire(m, "stop", self._control.kill | self._control.abort)
        add_part(m, platform, "registers", self._registers)
        add_part(m, platform, "control", self._control)
        add_part(m, platform, "counters", self._counters)
        add_part(m, platform, "sequencer", self._sequencer, reset=stop)
        add_part(m, platform, "weight_path", self._weights)
        add_part(m, platform, "activation_path", self._activations)
        add_part(m, platform, "output", self._output)
        self._connect_registers(m)
        self._connect_operands(m)
        self._connect_selectors(m)
        self._connect_output(m)
        flags = self._lanes(m, platform)
        self._connect_events(m, flags)
        self._connect_counters(m)
        return m

    def _register_file(self) -> RegisterFile:
        config = self._config
        queued = queued_registers(config)
        return RegisterFile(
            unused=[name for name in ("INPUT_SELECTOR", "OUTPUT_SELECTOR") if name not in queued],
            sites=config.raw_input != "none" or config.packed_output,
            codes=config.channel_codes,
        )

    def _connect_registers(self, m: Module) -> None:
        config, registers, control = self._config, self._registers, self._control
        wiring.connect(m, wiring.flipped(self.axi), registers.axi)
        for name in ("CONTROL", *queued_registers(config)):
            wiring.connect(m, getattr(registers, name.lower()), getattr(control, name.lower()))
        m.d.comb += [
            self.irq.eq(registers.irq),
            registers.id.value.eq(IDENTIFICATION),
            registers.version.map.eq(MAP_VERSION),
            registers.shape.lanes.eq(config.lanes),
            registers.shape.rows.eq(config.rows),
            registers.shape.slots.eq(config.slots),
            registers.shape.k_tile_blocks.eq(TILE_BLOCKS),
            registers.features.raw_input.eq(RAW_INPUTS.index(config.raw_input)),
            registers.features.packed_output.eq(int(config.packed_output)),
            registers.features.channel_codes.eq(int(config.channel_codes)),
            registers.features.four_over_six.eq(int(config.four_over_six)),
            registers.features.accumulator_bits.eq(config.accumulator_bits),
            registers.limits.k_max.eq(config.k_max),
            registers.limits.n_max_blocks.eq(config.n_max // BLOCK_SIZE),
            registers.status.busy.eq(control.status_busy),
            registers.status.waiting.eq(control.status_waiting),
            registers.status.irq.eq(registers.irq),
            registers.status.closing.eq(self._output.flushing),
            registers.jobs.ended.eq(control.ended_count),
            registers.result_packets.ended.eq(self._output.packets),
        ]

    def _connect_operands(self, m: Module) -> None:
        control, sequencer, weights, activations = self._control, self._sequencer, self._weights, self._activations
        wiring.connect(m, wiring.flipped(self.weights), weights.stream)
        wiring.connect(m, wiring.flipped(self.activations), activations.stream)
        wiring.connect(m, control.size, sequencer.size, weights.size, activations.size, self._output.size)
        wiring.connect(m, weights.slots, sequencer.weight_slots)
        wiring.connect(m, activations.slots, sequencer.activation_slots)
        wiring.connect(m, sequencer.weight_read, weights.read)
        wiring.connect(m, sequencer.activation_read, activations.read)
        wiring.connect(m, sequencer.precision_read, activations.precision_read)
        m.d.comb += sequencer.precisions.eq(activations.precisions)
        for unit in (sequencer, weights, activations):
            m.d.comb += [unit.start.eq(control.start_gemm), unit.resident.eq(control.resident)]
        for path in (weights, activations):
            m.d.comb += [
                path.begin_packet.eq(control.begin_gemm),
                path.kill.eq(control.kill),
                path.abort.eq(control.abort),
            ]
        m.d.comb += [
            control.short.eq(weights.short | activations.short),
            control.behind.eq(weights.behind | activations.behind),
        ]

    def _connect_selectors(self, m: Module) -> None:
        config, settings = self._config, self._control.settings
        sites = []
        if config.raw_input != "none":
            sites.append(self._activations.site_write)
            wiring.connect(m, settings.input_selector, self._activations.settings)
            m.d.comb += self._activations.raw.eq(settings.raw_input)
        if config.packed_output:
            sites.append(self._output.site_write)
            wiring.connect(m, settings.output_selector, self._output.settings)
            m.d.comb += self._output.packed.eq(settings.packed)
        if sites:
            wiring.connect(m, self._registers.site_write, *sites)

    def _connect_output(self, m: Module) -> None:
        control, sequencer, output = self._control, self._sequencer, self._output
        wiring.connect(m, output.stream, wiring.flipped(self.results))
        m.d.comb += [
            output.exponent.eq(control.settings.exponent),
            output.bfloat16.eq(control.settings.bfloat16),
            output.relu.eq(control.settings.relu),
            output.kill.eq(control.kill),
            output.abort.eq(control.abort),
            output.credit_taken.eq(sequencer.credit_taken),
            output.push.eq(sequencer.result_write),
            sequencer.credit.eq(output.credit),
            control.packet_sent.eq(output.packet_sent),
            control.flushing.eq(output.flushing),
        ]

    def _lanes(self, m: Module, platform: object) -> dict[str, Value]:
        """The lanes and their accumulators; returns the lanes' events by name."""
        config, sequencer, weights, activations = self._config, self._sequencer, self._weights, self._activations
        bits = config.accumulator_bits
        arriving = Signal(STORED_BLOCK)
        zero = sequencer.load_zero
        m.d.comb += [
            # A lane beyond N holds zeros, as an FP8 block, so that all 16 bytes are loaded.
            arriving.codes.eq(Mux(zero, 0, weights.codes)),
            arriving.scale.eq(Mux(zero, 0, weights.scale)),
            arriving.fp8.eq(zero | weights.fp8),
        ]
        decoder = ActivationDecoder(ActivationDecoderConfig())
        add_part(m, platform, "activation_decoder", decoder)
        m.d.comb += [
            decoder.valid.eq(activations.valid),
            *(getattr(decoder.stored, name).eq(getattr(activations, name)) for name in ("codes", "scale", "fp8")),
        ]
        sums = Signal(config.lanes * (bits + 1))
        accumulators = Accumulators(config.accumulators_of(config.lanes))
        add_part(m, platform, "accumulators", accumulators)
        m.d.comb += [
            accumulators.write.eq(sequencer.sums_write),
            accumulators.write_row.eq(sequencer.sums_write_row),
            accumulators.write_sums.eq(sums),
            accumulators.read.eq(sequencer.sums_read),
            accumulators.read_row.eq(sequencer.sums_read_row),
        ]
        m.d.comb += self._output.sums.eq(sums)
        lanes = [EngineLane(config.lane) for _ in range(config.lanes)]
        for index, lane in enumerate(lanes):
            add_part(m, platform, f"lane_{index}", lane, kind="lane")
            wiring.connect(m, decoder.decoded, lane.a)
            m.d.comb += [
                lane.load.eq(sequencer.load[index]),
                lane.swap.eq(sequencer.swap),
                lane.w.eq(arriving),
                lane.term_valid.eq(sequencer.term_valid),
                lane.term_first.eq(sequencer.term_first),
                lane.accumulator.eq(accumulators.sums.word_select(index, bits + 1)),
                sums.word_select(index, bits + 1).eq(lane.sum),
            ]
        return {
            flag: wire(m, f"lanes_{flag}", reduce(or_, (getattr(lane, flag) for lane in lanes)))
            for flag in ("nan", "format_error", "overflow")
        }

    def _connect_events(self, m: Module, flags: dict[str, Value]) -> None:
        config, events, control = self._config, self._registers.events, self._control
        nan = flags["nan"]
        if config.raw_input != "none":
            nan = nan | self._activations.nan
        if config.packed_output:
            nan = nan | self._output.nan
        m.d.comb += [
            events.done.eq(control.done),
            events.nan.eq(nan),
            events.format_error.eq(flags["format_error"]),
            events.overflow.eq(flags["overflow"]),
            events.weights_short.eq(self._weights.short & control.status_busy),
            events.weights_long.eq(self._weights.long),
            events.activations_short.eq(self._activations.short & control.status_busy),
            events.activations_long.eq(self._activations.long),
            events.start_rejected.eq(control.start_rejected),
            events.config_error.eq(control.config_error),
        ]

    def _connect_counters(self, m: Module) -> None:
        counters, sequencer, weights, activations = self._counters, self._sequencer, self._weights, self._activations
        counted = {
            "cycles": self._control.status_busy,
            "products": sequencer.activation_read.enable,
            "span": sequencer.spanning,
            "stall_weights": sequencer.stall_weights,
            "stall_activations": sequencer.stall_activations,
            "stall_results": sequencer.stall_results,
            "stall_sums": sequencer.stall_sums,
            "activation_fp8_reads": activations.bank_1_read,
            "weight_reads": weights.bank_0_read,
            "weight_fp8_reads": weights.bank_1_read,
            "weight_beats": weights.beat_taken,
            "activation_beats": activations.beat_taken,
            "result_beats": self._output.sent,
        }
        m.d.comb += [counters.begin_gemm.eq(self._control.begin_gemm), counters.busy.eq(self._control.status_busy)]
        for name, _ in COUNTERS:
            event = counted[name]
            m.d.comb += [
                getattr(counters.events, name).eq(event),
                getattr(self._registers, name).value.eq(getattr(counters.values, name)),
            ]
