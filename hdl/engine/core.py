"""The engine's core: its parts, and the wires between them (docs/engine.md draws the same picture)."""

from collections.abc import Iterable
from functools import reduce
from operator import add, and_, or_
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
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
    """The engine behind its AXI names: registers and control, operand paths, sequencer, lanes, output.

    Attributes:
        axi: the registers' bus.
        irq: the interrupt.
        weights (weights_0 and so on, if there are several), activations: beats of the operands.
        results: beats of the results.
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        super().__init__(
            {
                "axi": In(AxiLite),
                "irq": Out(1),
                **{name: In(BeatStream) for name in config.operand_streams},
                "results": Out(BeatStream),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        self._registers = self._register_file()
        self._control, self._counters = Control(config), Counters(config)
        self._sequencer, self._output = Sequencer(config), Output(config)
        self._weights = {name: OperandPath(config, index) for index, name in enumerate(config.weight_stream_names)}
        self._activations = OperandPath(config)
        stop = wire(m, "stop", self._control.kill | self._control.abort)
        add_part(m, platform, "registers", self._registers)
        add_part(m, platform, "control", self._control)
        add_part(m, platform, "counters", self._counters)
        add_part(m, platform, "sequencer", self._sequencer, reset=stop)
        for name, path in self._weights.items():
            add_part(m, platform, name.replace("weights", "weight_path"), path)
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
            registers.features.weight_streams.eq(config.weight_streams),
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
        control, sequencer, activations = self._control, self._sequencer, self._activations
        paths: list[OperandPath] = [*self._weights.values(), activations]
        for name, path in zip(self._config.operand_streams, paths, strict=True):
            wiring.connect(m, wiring.flipped(getattr(self, name)), path.stream)
            m.d.comb += [path.kill.eq(control.kill), path.abort.eq(control.abort)]
        wiring.connect(m, control.size, sequencer.size, *(path.size for path in paths), self._output.size)
        units: list[Any] = [sequencer, *paths]
        for unit in units:
            m.d.comb += [unit.start.eq(control.start_gemm), unit.resident.eq(control.resident)]
        wiring.connect(m, activations.slots, sequencer.activation_slots)
        wiring.connect(m, sequencer.activation_read, activations.read)
        wiring.connect(m, sequencer.precision_read, activations.precision_read)
        m.d.comb += [
            sequencer.precisions.eq(activations.precisions),
            control.short.eq(_any(path.short for path in paths)),
            control.behind.eq(_any(path.behind for path in paths)),
        ]
        self._connect_weights(m)

    def _connect_weights(self, m: Module) -> None:
        """A step needs the weights of all streams: their buffers are read and freed as one."""
        sequencer, streams = self._sequencer, self._config.weight_streams
        slots, read = sequencer.weight_slots, sequencer.weight_read
        for index, path in enumerate(self._weights.values()):
            if streams > 1:
                wiring.connect(m, getattr(self._control, f"share_{index}"), path.share)
            m.d.comb += [
                path.slots.free.eq(slots.free),
                path.read.enable.eq(Cat(read.enable[index], read.enable[streams + index])),
                *(getattr(path.read, name).eq(getattr(read, name)) for name in ("block", "pair", "slot")),
            ]
        first, *others = (path.slots for path in self._weights.values())
        complete = reduce(and_, (other.filled.any() for other in others), Const(1))
        m.d.comb += [slots.filled.eq(Mux(complete, first.filled, 0)), slots.oldest.eq(first.oldest)]

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
        config, sequencer, activations = self._config, self._sequencer, self._activations
        bits = config.accumulator_bits
        arriving: list[Any] = []  # what the lanes of a group take
        for parity in ("even", "odd"):
            for name, path in self._weights.items():
                zero, block = sequencer.load_zero[len(arriving)], getattr(path, parity)
                taken = Signal(STORED_BLOCK, name=f"{parity}_{name}")
                m.d.comb += [
                    # A lane beyond N holds zeros, as an FP8 block, so that all 16 bytes are loaded.
                    taken.codes.eq(Mux(zero, 0, block.codes)),
                    taken.scale.eq(Mux(zero, 0, block.scale)),
                    taken.fp8.eq(zero | block.fp8),
                ]
                arriving.append(taken)
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
                lane.load.eq(sequencer.load[index // len(arriving)]),
                lane.swap.eq(sequencer.swap),
                lane.w.eq(arriving[index % len(arriving)]),
                lane.term_valid.eq(sequencer.term_valid),
                lane.term_first.eq(sequencer.term_first),
                lane.accumulator.eq(accumulators.sums.word_select(index, bits + 1)),
                sums.word_select(index, bits + 1).eq(lane.sum),
            ]
        return {
            flag: wire(m, f"lanes_{flag}", _any(getattr(lane, flag) for lane in lanes))
            for flag in ("nan", "format_error", "overflow")
        }

    def _connect_events(self, m: Module, flags: dict[str, Value]) -> None:
        config, events, control = self._config, self._registers.events, self._control
        weights = self._weights.values()
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
            events.weights_short.eq(_any(path.short for path in weights) & control.status_busy),
            events.weights_long.eq(_any(path.long for path in weights)),
            events.activations_short.eq(self._activations.short & control.status_busy),
            events.activations_long.eq(self._activations.long),
            events.start_rejected.eq(control.start_rejected),
            events.config_error.eq(control.config_error),
        ]

    def _connect_counters(self, m: Module) -> None:
        counters, sequencer, activations = self._counters, self._sequencer, self._activations
        weights = self._weights.values()
        counted = {
            "cycles": self._control.status_busy,
            "products": sequencer.activation_read.enable,
            "span": sequencer.spanning,
            "stall_weights": sequencer.stall_weights,
            "stall_activations": sequencer.stall_activations,
            "stall_results": sequencer.stall_results,
            "stall_sums": sequencer.stall_sums,
            "activation_fp8_reads": activations.bank_1_read,
            "weight_reads": reduce(add, (path.bank_0_reads for path in weights)),
            "weight_fp8_reads": reduce(add, (path.bank_1_reads for path in weights)),
            "weight_beats": reduce(add, (path.beat_taken for path in weights)),
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


def _any(events: Iterable[Value]) -> Value:
    return reduce(or_, events)
