"""An operand's way into the engine: stream, loader and prefetcher, buffer."""

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..hierarchy import add_part
from ..selector import selector_settings
from .config import TILE_BLOCKS, EngineConfig
from .interfaces import BeatStream, GemmSize, SiteWrite, SlotState, StreamShare
from .loader import Loader
from .memory import (
    ActivationBuffer,
    SiteMemory,
    WeightBuffer,
    activation_read_ports,
    site_address_bits,
    weight_read_ports,
)
from .prefetcher import Prefetcher

__all__ = ["OperandPath"]


class OperandPath(wiring.Component):
    """Activations, or the weights of one stream, on their way to the lanes: K tiles are prefetched into a buffer.

    `stream` is the number of a stream of weights, None for activations.

    Attributes:
        stream: beats.
        start: begin a GEMM, and its packet.
        kill: the GEMM is given up; abort: so is everything else. Both empty the buffer.
        size, resident: of the GEMM.
        share: which of its weights come on this stream (where there are several).
        slots: the buffer's slots.
        read, even, odd, bank_0_reads, bank_1_reads: as of `WeightBuffer`, for weights.
        read, valid, codes, scale, fp8, bank_1_read: as of `ActivationBuffer`, for activations.
        precision_read, precisions: also.
        short, long, behind, beat_taken: as of `Loader`.
        raw, settings, nan: of the selector for raw activations.
        site_write: writes to its site memory.
    """

    def __init__(self, config: EngineConfig, stream: int | None = None):
        self._config = config
        self._stream = stream
        weights = stream is not None
        self._slots, self._rows = (WeightBuffer.SLOTS, config.stream_lanes) if weights else (config.slots, config.rows)
        self._selector = None if weights else config.input_selector
        self._k_tile_bits = 0
        if self._selector is not None:
            self._k_tile_bits = site_address_bits(config.k_max) - (TILE_BLOCKS - 1).bit_length()
        self._read_ports = weight_read_ports(self._rows) if weights else activation_read_ports(self._slots, self._rows)
        members = {
            "stream": In(BeatStream),
            "start": In(1),
            "kill": In(1),
            "abort": In(1),
            "size": In(GemmSize(config)),
            "resident": In(1),
            "slots": Out(SlotState(self._slots)),
            "short": Out(1),
            "long": Out(1),
            "behind": Out(1),
            "beat_taken": Out(1),
            **self._read_ports,
        }
        if stream is not None and config.weight_streams > 1:
            members["share"] = In(StreamShare(config, stream))
        if self._selector is not None:
            members |= {
                "raw": In(1),
                "settings": In(selector_settings(four_over_six=config.four_over_six)),
                "nan": Out(1),
                "site_write": In(SiteWrite(codes=config.channel_codes)),
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        weights = self._stream is not None
        name = "weight" if weights else "activation"
        loader = Loader(self._rows, name, 2 if weights else 1, self._selector)
        prefetcher = Prefetcher(self._config, self._slots, stream=self._stream, k_tile_bits=self._k_tile_bits)
        buffer = WeightBuffer(self._rows) if weights else ActivationBuffer(self._slots, self._rows)
        add_part(m, platform, "loader", loader, kind=f"{name}_loader")
        kind = f"{name}_prefetcher_{self._stream}" if self._stream else f"{name}_prefetcher"
        add_part(m, platform, "prefetcher", prefetcher, kind=kind, reset=self.kill | self.abort)
        add_part(m, platform, "buffer", buffer, kind=f"{name}_buffer")
        wiring.connect(m, wiring.flipped(self.stream), loader.stream)
        wiring.connect(m, wiring.flipped(self.size), prefetcher.size)
        if "share" in self.signature.members:
            wiring.connect(m, wiring.flipped(self.share), prefetcher.share)
        wiring.connect(m, prefetcher.request, loader.request)
        wiring.connect(m, prefetcher.slots, wiring.flipped(self.slots))
        wiring.connect(m, loader.write, buffer.write)
        for port, member in self._read_ports.items():
            outer, inner = getattr(self, port), getattr(buffer, port)
            if member.is_signature:
                wiring.connect(m, wiring.flipped(outer), inner)
            else:
                m.d.comb += outer.eq(inner) if member.flow == Out else inner.eq(outer)
        m.d.comb += [
            loader.begin_packet.eq(self.start & ~prefetcher.empty if self._stream else self.start),
            loader.finish.eq(prefetcher.finish),
            loader.kill.eq(self.kill),
            loader.abort.eq(self.abort),
            prefetcher.start.eq(self.start),
            prefetcher.resident.eq(self.resident),
            buffer.slot.eq(prefetcher.newest),
            *(getattr(self, port).eq(getattr(loader, port)) for port in ("short", "long", "behind", "beat_taken")),
        ]
        if self._selector is not None:
            self._site(m, platform, loader, prefetcher)
        return m

    def _site(self, m: Module, platform: object, loader: Loader, prefetcher: Prefetcher) -> None:
        """Raw activations: the selector's settings, and what the site memory holds for the next block."""
        config = self._config
        memory = SiteMemory(config.k_max, output=False, codes=config.channel_codes)
        add_part(m, platform, "site_memory", memory, kind="input_site_memory")
        wiring.connect(m, wiring.flipped(self.site_write), memory.write)
        wiring.connect(m, wiring.flipped(self.settings), loader.settings)
        m.d.comb += [
            memory.address.eq(Cat(loader.site_column, prefetcher.k_tile) if self._k_tile_bits else loader.site_column),
            loader.raw.eq(self.raw),
            loader.site_static.eq(memory.static_fp8),
            self.nan.eq(loader.nan),
        ]
        if config.channel_codes:
            m.d.comb += loader.site_codes.eq(memory.codes)
