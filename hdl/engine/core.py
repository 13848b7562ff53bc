"""The engine: buffers, sequencer, lanes, results and registers put together, and the control of jobs."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, ResetInserter, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...golden.formats import BLOCK_SIZE, TENSOR_EXPONENT_LIMIT
from ..config import SelectorConfig
from ..dot import STORED_BLOCK
from ..pipeline import wire
from ..rounding import EXPONENT_LIMIT
from ..selector import Selector
from .axi_lite import RegisterFile, register_file_ports
from .config import STREAM_BYTES, TILE_BLOCKS, EngineConfig
from .drain import BEAT, Drain
from .filler import Filler
from .loader import Loader
from .memory import BlockBuffer, ram
from .packer import Packer
from .registers import COUNTERS, IDENTIFICATION, MAP_VERSION, OUTPUT_FORMATS
from .sequencer import JOB, Sequencer, extent
from .stream import BEAT_BITS, Skid

__all__ = ["AXI_LITE_PORTS", "STREAMS", "Engine", "input_selector", "output_selector"]

AXI_LITE_PORTS = (
    "awaddr", "awvalid", "awready", "wdata", "wstrb", "wvalid", "wready", "bresp", "bvalid", "bready",
    "araddr", "arvalid", "arready", "rdata", "rresp", "rvalid", "rready",
)  # fmt: skip
SITE_FIELDS = ("significand", "exponent", "mode", "tensor_exponent")
STREAMS = {"s_axis_weights": In, "s_axis_activations": In, "m_axis_results": Out}


def input_selector(config: EngineConfig) -> SelectorConfig | None:
    """The selector that raw activations go through, if there is one."""
    return None if config.raw_input == "none" else _selector(config, config.raw_input)


def output_selector(config: EngineConfig) -> SelectorConfig | None:
    """The selector that packed results come from, if there is one."""
    return _selector(config, "float32") if config.packed_output else None


def _selector(config: EngineConfig, source: str) -> SelectorConfig:
    return SelectorConfig(source, config.channel_codes, config.selector_pipeline)


class Engine(wiring.Component):
    """docs/engine.md in hardware. It instantiates NAME_core_lane and fgmp_ram_1r1w."""

    def __init__(self, config: EngineConfig, name: str):
        self._config = config
        self._name = name
        members = {"irq": Out(1)}
        registers = register_file_ports()
        members |= {f"s_axi_{port}": registers[port] for port in AXI_LITE_PORTS}
        for stream, flow in STREAMS.items():
            back = Out if flow is In else In
            members |= {
                f"{stream}_tdata": flow(BEAT_BITS),
                f"{stream}_tkeep": flow(STREAM_BYTES),
                f"{stream}_tlast": flow(1),
                f"{stream}_tvalid": flow(1),
                f"{stream}_tready": back(1),
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        rows, lanes, slots = config.rows, config.lanes, config.slots
        bits = config.accumulator_bits
        m.submodules.registers = regs = RegisterFile()
        m.d.comb += self.irq.eq(regs.irq)
        for port in AXI_LITE_PORTS:
            ours, theirs = getattr(self, f"s_axi_{port}"), getattr(regs, port)
            into = regs.signature.members[port].flow is In
            m.d.comb += theirs.eq(ours) if into else ours.eq(theirs)
        raw_kind = ("none", "float32", "bfloat16").index(config.raw_input)
        constants = {
            "id_value": IDENTIFICATION,
            "version_map": MAP_VERSION,
            "shape_lanes": lanes,
            "shape_rows": rows,
            "shape_slots": slots,
            "shape_k_tile_blocks": TILE_BLOCKS,
            "features_raw_input": raw_kind,
            "features_packed_output": int(config.packed_output),
            "features_channel_codes": int(config.channel_codes),
            "features_accumulator_bits": bits,
            "limits_k_max": config.k_max,
            "limits_n_max_blocks": config.n_max // BLOCK_SIZE,
        }
        m.d.comb += [getattr(regs, name).eq(value) for name, value in constants.items()]

        # Jobs: the registers are copied when a job begins, so that the next can be written meanwhile.
        busy, waiting = Signal(), Signal()
        abort = regs.control_abort
        kill = Signal()
        begin = Signal()
        behind = Signal()
        flushing = Signal()
        ended = Signal()
        copied = (
            "m_value", "n_value", "k_value", "format_output", "format_raw_input", "format_relu", "format_exponent",
            *(f"{s}_selector_{f}" for s in ("input", "output") for f in SITE_FIELDS),
        )  # fmt: skip
        sources = {name: getattr(regs, name) for name in copied}
        waiting_for = {name: Signal.like(s, name=f"waiting_{name}", reset_less=True) for name, s in sources.items()}
        sizes = ("m_value", "n_value", "k_value")  # kept in the sequencer's terms instead
        settings = {
            name: Signal.like(s, name=f"job_{name}", reset_less=True)
            for name, s in sources.items()
            if name not in sizes
        }
        legal = wire(m, "legal", self._legal(regs))
        asked = regs.control_start & ~abort
        start = wire(m, "start", asked & legal & ~waiting)
        m.d.comb += [
            regs.events_config_error.eq(asked & ~legal),
            regs.events_start_rejected.eq(asked & legal & waiting),
            regs.status_busy.eq(busy),
            regs.status_waiting.eq(waiting),
            regs.status_irq.eq(regs.irq),
            regs.status_closing.eq(flushing),
            # A job waits while one more early end could not be counted, and until an aborted packet has left.
            begin.eq(waiting & ~busy & ~abort & ~behind & ~flushing),
        ]
        with m.If(start):
            m.d.sync += waiting.eq(1)
            m.d.sync += [waiting_for[name].eq(source) for name, source in sources.items()]
        with m.If(begin):
            m.d.sync += [waiting.eq(0), busy.eq(1)]
            m.d.sync += [settings[name].eq(waiting_for[name]) for name in settings]
        begun = Signal()  # a cycle later, with the job's settings in place
        m.d.sync += begun.eq(begin)
        with m.If(ended):
            m.d.sync += busy.eq(0)
        with m.If(abort):
            m.d.sync += [busy.eq(0), waiting.eq(0), begun.eq(0)]

        m_final, n_final, k_final = (Signal(JOB[name], name=name, reset_less=True) for name in JOB)
        resident = Signal(reset_less=True)
        k_value, low = waiting_for["k_value"], (BLOCK_SIZE - 1).bit_length()
        k_next = wire(m, "k_next", (k_value[low:] - ~k_value[:low].any())[: len(k_final)])
        with m.If(begin):
            m.d.sync += [
                m_final.eq(waiting_for["m_value"] - 1),
                n_final.eq(waiting_for["n_value"] - 1),
                k_final.eq(k_next),
                resident.eq(extent(k_next, TILE_BLOCKS).final_tile < slots),
            ]
        packed = wire(m, "packed", settings["format_output"] == OUTPUT_FORMATS.index("packed"))

        stop = wire(m, "stop", kill | abort)
        again = ResetInserter(stop)

        # Buffers, and what fills them.
        m.submodules.sequencer = sequencer = again(Sequencer(config))
        m.submodules.weight_loader = weights = Loader()
        m.submodules.activation_loader = activations = Loader(input_selector(config))
        m.submodules.weight_filler = w_filler = again(Filler(config, "weights", 2))
        m.submodules.activation_filler = a_filler = again(Filler(config, "activations", slots))
        m.submodules.weight_buffer = w_buffer = BlockBuffer("weight", 2 * lanes * TILE_BLOCKS)
        m.submodules.activation_buffer = a_buffer = BlockBuffer("activation", slots * rows * TILE_BLOCKS)
        for stream, loader, filler, buffer, size in (
            ("weights", weights, w_filler, w_buffer, lanes),
            ("activations", activations, a_filler, a_buffer, rows),
        ):
            for port in ("tdata", "tkeep", "tlast", "tvalid"):
                m.d.comb += getattr(loader, port).eq(getattr(self, f"s_axis_{stream}_{port}"))
            m.d.comb += [
                getattr(self, f"s_axis_{stream}_tready").eq(loader.tready),
                loader.kill.eq(kill),
                loader.abort.eq(abort),
                loader.begin.eq(begin),
                loader.finish.eq(filler.finish),
                loader.enable.eq(filler.enable),
                loader.last_row.eq(filler.last_row),
                loader.last_block.eq(filler.last_block),
                filler.begin.eq(begun),
                filler.resident.eq(resident),
                filler.done.eq(loader.done),
                buffer.write.eq(loader.write),
                buffer.write_address.eq(Cat(loader.column, loader.row[: (size - 1).bit_length()], filler.newest)),
                buffer.block.eq(loader.block),
                buffer.advance.eq(1),
                getattr(regs, f"events_{stream}_short").eq(loader.short & busy),
                getattr(regs, f"events_{stream}_long").eq(loader.long),
            ]
        for unit in (sequencer, w_filler, a_filler):
            m.d.comb += [unit.m_final.eq(m_final), unit.n_final.eq(n_final), unit.k_final.eq(k_final)]
        m.d.comb += [
            kill.eq(busy & (weights.short | activations.short)),
            behind.eq(weights.behind | activations.behind),
        ]
        input_nan: Value = Const(0, 1)
        if config.raw_input != "none":
            static, codes = _site_memory(
                m, regs, "input", config, config.k_max, Cat(activations.site_column, a_filler.k_tile)
            )
            m.d.comb += [
                activations.raw.eq(settings["format_raw_input"]),
                activations.tensor_exponent.eq(settings["input_selector_tensor_exponent"]),
                activations.threshold.significand.eq(settings["input_selector_significand"]),
                activations.threshold.exponent.eq(settings["input_selector_exponent"]),
                activations.mode.eq(settings["input_selector_mode"]),
                activations.site_static.eq(static),
                activations.site_codes.eq(codes),
            ]
            input_nan = activations.nan

        # Lanes: weights stand still, activations stream past.
        m.d.comb += [
            sequencer.begin.eq(begun),
            sequencer.resident.eq(resident),
            sequencer.w_filled.eq(w_filler.filled.any()),
            sequencer.w_slot.eq(w_filler.oldest),
            w_filler.free.eq(sequencer.w_release),
            w_buffer.read.eq(sequencer.w_read),
            w_buffer.read_address.eq(sequencer.w_address),
            sequencer.a_filled.eq(a_filler.filled),
            sequencer.a_oldest.eq(a_filler.oldest),
            a_filler.free.eq(sequencer.a_release),
            a_buffer.read.eq(sequencer.a_read),
            a_buffer.read_address.eq(sequencer.a_address),
        ]
        arriving = Signal(STORED_BLOCK)
        zero = sequencer.load_zero
        m.d.comb += [
            # A lane beyond N holds zeros, as an FP8 block, so that all 16 bytes are loaded.
            arriving.codes.eq(Mux(zero, 0, w_buffer.codes)),
            arriving.scale.eq(Mux(zero, 0, w_buffer.scale)),
            arriving.fp8.eq(zero | w_buffer.fp8),
        ]
        passing = Cat(a_buffer.codes, a_buffer.scale, a_buffer.fp8)
        sums = Signal(lanes * (bits + 1))
        read_back = ram(
            m,
            "accumulators",
            rows,
            (sequencer.sums_write, sequencer.sums_write_row, sums),
            (sequencer.sums_read, sequencer.sums_read_row),
        )
        flags: dict[str, list[Value]] = {"nan": [], "format_error": [], "overflow": []}
        for lane in range(lanes):
            raised = {flag: Signal(name=f"lane_{lane}_{flag}") for flag in flags}
            m.submodules[f"lane_{lane}"] = Instance(
                f"{self._name}_core_lane",
                ("i", "clk", ClockSignal()),
                ("i", "rst", ResetSignal()),
                ("i", "load", sequencer.load[lane]),
                ("i", "swap", sequencer.swap),
                ("i", "w", arriving.as_value()),
                ("i", "a", passing),
                ("i", "term_valid", sequencer.term_valid),
                ("i", "term_first", sequencer.term_first),
                ("i", "accumulator", read_back.word_select(lane, bits + 1)),
                ("o", "sum", sums.word_select(lane, bits + 1)),
                *(("o", flag, signal) for flag, signal in raised.items()),
            )
            for flag, signal in raised.items():
                flags[flag].append(signal)

        # Results.
        m.submodules.drain = drain = again(Drain(config))
        m.d.comb += [
            drain.m_final.eq(m_final),
            drain.n_final.eq(n_final),
            drain.exponent.eq(settings["format_exponent"]),
            drain.bfloat16.eq(settings["format_output"] == OUTPUT_FORMATS.index("bfloat16")),
            drain.packed.eq(packed),
            drain.relu.eq(settings["format_relu"]),
            drain.promise.eq(sequencer.result_promised),
            drain.push.eq(sequencer.result_write),
            drain.sums.eq(sums),
            sequencer.result_room.eq(drain.room),
        ]
        beat, beat_valid = Signal(BEAT), Signal()
        m.d.comb += [beat.eq(drain.beat), beat_valid.eq(drain.beat_valid)]
        output_nan: Value = Const(0, 1)
        if config.packed_output:
            output_nan, packer = self._packed_results(m, regs, drain, settings, stop)
            m.d.comb += [packer.m_final.eq(m_final), packer.n_final.eq(n_final)]
            with m.If(packed):
                m.d.comb += [beat.eq(packer.beat), beat_valid.eq(packer.beat_valid)]
        # A job that ended early closes its results with an empty beat, for whoever waits for TLAST.
        closing = Signal()
        m.submodules.output = output = Skid(len(beat.as_value()))
        ready = wire(m, "beat_ready", output.i_ready & ~closing)
        m.d.comb += [
            output.flush.eq(abort),
            output.i_valid.eq(beat_valid | closing),
            output.i_data.eq(Mux(closing, Cat(Const(0, BEAT_BITS + STREAM_BYTES), Const(1, 1)), beat)),
            drain.beat_ready.eq(ready),
            Cat(self.m_axis_results_tdata, self.m_axis_results_tkeep, self.m_axis_results_tlast).eq(output.o_data),
            self.m_axis_results_tvalid.eq(output.o_valid),
            output.o_ready.eq(self.m_axis_results_tready),
        ]
        if config.packed_output:
            m.d.comb += packer.beat_ready.eq(ready)
        sent = wire(m, "sent", self.m_axis_results_tvalid & self.m_axis_results_tready)
        opened = Signal()
        with m.If(sent):
            m.d.sync += opened.eq(~self.m_axis_results_tlast)
        with m.If(abort):
            # Also an aborted packet is closed, behind the beat that may be on offer.
            m.d.sync += [closing.eq(Mux(output.o_valid, ~self.m_axis_results_tlast, opened)), flushing.eq(1)]
        with m.Elif(kill):
            m.d.sync += closing.eq(1)
        with m.Elif(output.i_ready):
            m.d.sync += closing.eq(0)
        with m.If(~abort & ~closing & ~output.o_valid):
            m.d.sync += flushing.eq(0)
        packets = Signal(32)
        with m.If(sent & self.m_axis_results_tlast):
            m.d.sync += packets.eq(packets + 1)
        m.d.comb += regs.result_packets_ended.eq(packets)
        jobs = Signal(32)
        with m.If(ended):
            m.d.sync += jobs.eq(jobs + 1)
        m.d.comb += [
            ended.eq(busy & ~flushing & sent & self.m_axis_results_tlast),
            regs.events_done.eq(ended),
            regs.jobs_ended.eq(jobs),
            regs.events_nan.eq(Cat(flags["nan"]).any() | input_nan | output_nan),
            regs.events_format_error.eq(Cat(flags["format_error"]).any()),
            regs.events_overflow.eq(Cat(flags["overflow"]).any()),
        ]

        events = {
            "cycles": busy,
            "products": sequencer.a_read,
            "span": sequencer.spanning,
            "stall_weights": sequencer.stall_weights,
            "stall_activations": sequencer.stall_activations,
            "stall_results": sequencer.stall_results,
            "activation_fp8_reads": a_buffer.bank_1_read,
            "weight_reads": w_buffer.bank_0_read,
            "weight_fp8_reads": w_buffer.bank_1_read,
            "weight_beats": weights.beat_taken,
            "activation_beats": activations.beat_taken,
            "result_beats": sent,
        }
        for name, _ in COUNTERS:
            counter = Signal(32, name=f"count_{name}")
            m.d.comb += getattr(regs, f"{name}_value").eq(counter)
            with m.If(begin):
                m.d.sync += counter.eq(0)
            with m.Elif(busy & events[name]):
                m.d.sync += counter.eq(counter + 1)
        return m

    def _packed_results(
        self, m: Module, regs: RegisterFile, drain: Drain, settings: dict[str, Signal], stop: Value
    ) -> tuple[Value, Packer]:
        """The output selector between drain and packer; returns its NaN event and the packer."""
        config = self._config
        kind = output_selector(config)
        assert kind is not None
        m.submodules.packer = packer = ResetInserter(stop)(Packer(config))
        static, codes = _site_memory(m, regs, "output", config, config.n_max, drain.block_index)
        m.submodules.selector = selector = ResetInserter(stop)(Selector(kind))
        m.d.comb += [
            selector.i.payload.x.eq(drain.block),
            selector.i.valid.eq(drain.block_valid),
            drain.block_ready.eq(selector.i.ready),
            packer.block.codes.eq(selector.o.payload.codes),
            packer.block.scale.eq(selector.o.payload.scale),
            packer.block.fp8.eq(selector.o.payload.fp8),
            packer.valid.eq(selector.o.valid),
            selector.o.ready.eq(packer.ready),
            selector.tensor_exponent.eq(settings["output_selector_tensor_exponent"]),
            selector.threshold.significand.eq(settings["output_selector_significand"]),
            selector.threshold.exponent.eq(settings["output_selector_exponent"]),
            selector.mode.eq(settings["output_selector_mode"]),
            selector.clear_flags.eq(1),
        ]
        # The block's index is known three cycles before its last values.
        static_1, codes_1 = Signal(), Signal.like(codes)
        m.d.sync += [static_1.eq(static), codes_1.eq(codes)]
        m.d.comb += selector.i.payload.static_fp8.eq(static_1)
        if config.channel_codes:
            m.d.comb += selector.i.payload.channel_codes.eq(codes_1)
        return selector.nan, packer

    def _legal(self, regs: RegisterFile) -> Value:
        """Whether a job may start with the job registers as they are."""
        config = self._config
        packed = regs.format_output == OUTPUT_FORMATS.index("packed")
        legal = (
            regs.m_value.any()
            & regs.n_value.any()
            & regs.k_value.any()
            & (regs.k_value <= config.k_max)
            & (regs.format_output < len(OUTPUT_FORMATS))
            & _within(regs.format_exponent, EXPONENT_LIMIT)
        )
        if config.packed_output:
            exponent = _within(regs.output_selector_tensor_exponent, TENSOR_EXPONENT_LIMIT)
            legal &= ~packed | ((regs.n_value <= config.n_max) & exponent)
        else:
            legal &= ~packed
        if config.raw_input != "none":
            legal &= ~regs.format_raw_input | _within(regs.input_selector_tensor_exponent, TENSOR_EXPONENT_LIMIT)
        else:
            legal &= ~regs.format_raw_input
        return legal


def _within(value: Value, limit: int) -> Value:
    signed = value.as_signed()
    return (signed >= -limit) & (signed <= limit)


def _site_memory(
    m: Module, regs: RegisterFile, which: str, config: EngineConfig, channels: int, address: Value
) -> tuple[Value, Value]:
    """What software wrote for the block at `address`: its static precision and its channels' codes."""
    depth = 1 << max((channels // BLOCK_SIZE - 1).bit_length(), 1)
    here = regs.site_write & (regs.site_output == int(which == "output")) & (regs.site_index < depth)
    # The memory is not read in the cycle in which it is written: what is written then goes past it.
    read = address[: (depth - 1).bit_length()]
    same = wire(m, f"{which}_site_same", regs.site_index[: len(read)] == read)
    words = []
    for word, (name, bits) in enumerate((("static", 1), ("codes_low", 32), ("codes_high", 32))):
        if word and not config.channel_codes:
            continue
        write = here & (regs.site_word == word)
        met = wire(m, f"{which}_site_{name}_met", write & same)
        passed, past = Signal(), Signal(bits, reset_less=True)
        m.d.sync += [passed.eq(met), past.eq(regs.site_data[:bits])]
        stored = ram(m, f"{which}_site_{name}", depth, (write, regs.site_index, regs.site_data[:bits]), (~met, address))
        words.append(Mux(passed, past, stored))
    return words[0], Cat(words[1:])
