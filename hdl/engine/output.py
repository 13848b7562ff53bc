"""Results from the lanes to the stream: drain, selector and packer, and the beat that closes a packet."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...formats import BLOCK_SIZE
from ..hierarchy import add_part
from ..pipeline import wire
from ..selector import SelectorCore, selector_settings
from .config import EngineConfig
from .drain import Drain, result_members
from .interfaces import BEAT, BEAT_BITS, BeatStream, SiteWrite
from .memory import SiteMemory
from .packer import Packer
from .stream import Skid

__all__ = ["Output"]


class Output(wiring.Component):
    """Rows of sums in, packets of results out.

    Attributes:
        size: of the GEMM.
        exponent, bfloat16, relu: as of `Drain`.
        credit, credit_taken, push, sums: its result buffer.
        kill: the GEMM is given up: its packet ends with an empty beat, for whoever waits for TLAST.
        abort: so is everything else; an open packet ends the same way, behind the beat that may be on offer.
        stream: results.
        sent: a beat was taken.
        packet_sent: it was a packet's last.
        packets: packets that were sent, since reset.
        flushing: what an abort left behind was not taken yet.
        packed, settings, site_write, nan: of the output selector (where there is one).
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        members = {
            **result_members(config),
            "kill": In(1),
            "abort": In(1),
            "stream": Out(BeatStream),
            "sent": Out(1),
            "packet_sent": Out(1),
            "packets": Out(32),
            "flushing": Out(1),
        }
        if config.packed_output:
            members |= {
                "packed": In(1),
                "settings": In(selector_settings(four_over_six=config.four_over_six)),
                "site_write": In(SiteWrite(codes=config.channel_codes)),
                "nan": Out(1),
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        stop = wire(m, "stop", self.kill | self.abort)
        drain = Drain(config)
        add_part(m, platform, "drain", drain, reset=stop)
        inputs = ["exponent", "bfloat16", "relu", "credit_taken", "push", "sums"]
        m.d.comb += [getattr(drain, name).eq(getattr(self, name)) for name in inputs]
        m.d.comb += self.credit.eq(drain.credit)
        wiring.connect(m, wiring.flipped(self.size), drain.size)
        beat = Signal(BEAT)
        beat_valid = Signal()
        beat_ready = Signal()
        m.d.comb += [
            beat.eq(drain.beats.payload),
            beat_valid.eq(drain.beats.valid),
            drain.beats.ready.eq(beat_ready),
        ]
        if config.packed_output:
            packer = self._packed(m, platform, drain, stop)
            m.d.comb += packer.beats.ready.eq(beat_ready)
            with m.If(self.packed):
                m.d.comb += [beat.eq(packer.beats.payload), beat_valid.eq(packer.beats.valid)]
        self._send(m, platform, beat, beat_valid, beat_ready)
        return m

    def _packed(self, m: Module, platform: object, drain: Drain, stop: Value) -> Packer:
        """The selector and its site memory between drain and packer."""
        config, kind = self._config, self._config.output_selector
        assert kind is not None
        packer = Packer(config)
        selector = SelectorCore(kind)
        site = SiteMemory(config.n_max, output=True, codes=config.channel_codes)
        add_part(m, platform, "packer", packer, reset=stop)
        name = f"selector_{kind.input_format}"
        add_part(m, platform, "selector", selector, kind=name, reset=stop, clock_enable=selector.running)
        add_part(m, platform, "site_memory", site, kind="output_site_memory")
        wiring.connect(m, wiring.flipped(self.settings), selector.settings)
        wiring.connect(m, wiring.flipped(self.site_write), site.write)
        wiring.connect(m, wiring.flipped(self.size), packer.size)
        advance = wire(m, "selector_advance", ~selector.valid_out | packer.blocks.ready)
        # The block's index is known three cycles before its last values.
        static_fp8 = Signal()
        m.d.sync += [static_fp8.eq(site.static_fp8), self.nan.eq(selector.nan_taken)]
        m.d.comb += [
            drain.packed.eq(self.packed),
            packer.blocks_final.eq(Cat(self.size.lane_final, self.size.n_tile_final)[(BLOCK_SIZE - 1).bit_length() :]),
            site.address.eq(drain.block_index),
            selector.advance.eq(advance),
            selector.x.eq(drain.blocks.payload),
            selector.valid.eq(drain.blocks.valid),
            selector.static_fp8.eq(static_fp8),
            drain.blocks.ready.eq(advance),
            packer.blocks.payload.eq(selector.block),
            packer.blocks.valid.eq(selector.valid_out),
        ]
        if config.channel_codes:
            codes = Signal.like(site.codes)
            m.d.sync += codes.eq(site.codes)
            m.d.comb += selector.channel_codes.eq(codes)
        return packer

    def _send(self, m: Module, platform: object, beat: Value, valid: Value, ready: Signal) -> None:
        """Beats to the stream, and the empty one that closes a packet."""
        closing = Signal()  # an empty beat with TLAST comes next
        skid = Skid(len(Value.cast(beat)))
        add_part(m, platform, "skid", skid)
        empty = Cat(Const(0, len(Value.cast(beat)) - 1), Const(1, 1))
        m.d.comb += [
            ready.eq(skid.i.ready & ~closing),
            skid.flush.eq(self.abort),
            skid.i.valid.eq(valid | closing),
            skid.i.payload.eq(Mux(closing, empty, beat)),
            self.stream.payload.eq(skid.o.payload),
            self.stream.valid.eq(skid.o.valid),
            skid.o.ready.eq(self.stream.ready),
            self.sent.eq(self.stream.valid & self.stream.ready),
            self.packet_sent.eq(self.sent & self.stream.payload.last),
        ]
        opened = Signal()  # a packet has begun
        with m.If(self.sent):
            m.d.sync += opened.eq(~self.stream.payload.last)
        with m.If(self.abort):
            m.d.sync += [closing.eq(Mux(skid.o.valid, ~self.stream.payload.last, opened)), self.flushing.eq(1)]
        with m.Elif(self.kill):
            m.d.sync += closing.eq(1)
        with m.Elif(skid.i.ready):
            m.d.sync += closing.eq(0)
        with m.If(~self.abort & ~closing & ~skid.o.valid):
            m.d.sync += self.flushing.eq(0)
        with m.If(self.packet_sent):
            m.d.sync += self.packets.eq(self.packets + 1)


assert BEAT.size == BEAT_BITS + BEAT_BITS // 8 + 1
