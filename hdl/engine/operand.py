"""An operand's way into the engine: stream, loader and prefetcher, buffer."""

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...formats import BLOCK_SIZE
from ..hierarchy import add_part
from ..selector import selector_settings
from .config import TILE_BLOCKS, EngineConfig
from .interfaces import ActivationRead, BeatStream, BufferRead, GemmSize, SiteWrite, SlotState
from .loader import Loader
from .memory import ActivationBuffer, BlockBuffer, SiteMemory, site_address_bits
from .prefetcher import Prefetcher

__all__ = ["OperandPath"]


class OperandPath(wiring.Component):
    """Weights or activations from their stream to the lanes: K tiles are prefetched into the slots of a buffer.

    Attributes:
        stream: beats.
        begin_packet: a GEMM begins, so does its packet.
        start: a cycle later, with its size in place.
        kill: the GEMM is given up; abort: so is everything else. Both empty the buffer.
        size, resident: of the GEMM.
        slots: the buffer's slots.
        read: fetch a block.
        codes, scale, fp8: that block, two cycles later; of activations one, with `valid`.
        precision_read, precisions: as of `ActivationBuffer`.
        short, long, behind, beat_taken: as of `Loader`.
        bank_0_read, bank_1_read: the buffer's banks are read, for the counters; weights have both.
        raw, settings, nan: of the selector for raw activations.
        site_write: writes to its site memory.
    """

    def __init__(self, config: EngineConfig, *, weights: bool):
        self._config = config
        self._weights = weights
        self._slots, self._rows = (2, config.lanes) if weights else (config.slots, config.rows)
        self._depth = self._slots * self._rows * TILE_BLOCKS
        self._selector = None if weights else config.input_selector
        self._counted = ("bank_0_read", "bank_1_read") if weights else ("bank_1_read",)
        read = BufferRead(self._depth) if weights else ActivationRead(self._depth)
        self._k_tile_bits = 0
        if self._selector is not None:
            self._k_tile_bits = site_address_bits(config.k_max) - (TILE_BLOCKS - 1).bit_length()
        members = {
            "stream": In(BeatStream),
            "begin_packet": In(1),
            "start": In(1),
            "kill": In(1),
            "abort": In(1),
            "size": In(GemmSize(config)),
            "resident": In(1),
            "slots": Out(SlotState(self._slots)),
            "read": In(read),
            "codes": Out(8 * BLOCK_SIZE),
            "scale": Out(8),
            "fp8": Out(1),
            "short": Out(1),
            "long": Out(1),
            "behind": Out(1),
            "beat_taken": Out(1),
            **{name: Out(1) for name in self._counted},
        }
        if not weights:
            members |= {
                "precision_read": In(BufferRead(config.slots * TILE_BLOCKS)),
                "precisions": Out(config.rows),
                "valid": Out(1),
            }
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
        name = "weight" if self._weights else "activation"
        loader = Loader(self._rows, name, self._selector)
        prefetcher = Prefetcher(self._config, self._slots, weights=self._weights, k_tile_bits=self._k_tile_bits)
        add_part(m, platform, "loader", loader, kind=f"{name}_loader")
        add_part(m, platform, "prefetcher", prefetcher, kind=f"{name}_prefetcher", reset=self.kill | self.abort)
        buffer = (
            self._weight_buffer(m, platform, loader, prefetcher)
            if self._weights
            else self._activation_buffer(m, platform, loader, prefetcher)
        )

        wiring.connect(m, wiring.flipped(self.stream), loader.stream)
        wiring.connect(m, wiring.flipped(self.size), prefetcher.size)
        wiring.connect(m, prefetcher.request, loader.request)
        wiring.connect(m, prefetcher.slots, wiring.flipped(self.slots))
        m.d.comb += [
            loader.begin_packet.eq(self.begin_packet),
            loader.finish.eq(prefetcher.finish),
            loader.kill.eq(self.kill),
            loader.abort.eq(self.abort),
            prefetcher.start.eq(self.start),
            prefetcher.resident.eq(self.resident),
            buffer.write.eq(loader.write.enable),
            buffer.write_block.eq(loader.write.block),
            *(getattr(self, port).eq(getattr(buffer, port)) for port in ("codes", "scale", "fp8", *self._counted)),
            *(getattr(self, port).eq(getattr(loader, port)) for port in ("short", "long", "behind", "beat_taken")),
        ]
        if self._selector is not None:
            self._site(m, platform, loader, prefetcher)
        return m

    def _weight_buffer(self, m: Module, platform: object, loader: Loader, prefetcher: Prefetcher) -> BlockBuffer:
        buffer = BlockBuffer(self._depth, counted=self._counted)
        add_part(m, platform, "buffer", buffer, kind="weight_buffer")
        m.d.comb += [
            buffer.write_address.eq(Cat(loader.write.column, loader.write.row, prefetcher.newest)),
            buffer.read.eq(self.read.enable),
            buffer.read_address.eq(self.read.address),
        ]
        return buffer

    def _activation_buffer(
        self, m: Module, platform: object, loader: Loader, prefetcher: Prefetcher
    ) -> ActivationBuffer:
        buffer = ActivationBuffer(self._slots, self._rows)
        add_part(m, platform, "buffer", buffer, kind="activation_buffer")
        wiring.connect(m, wiring.flipped(self.read), buffer.read)
        wiring.connect(m, wiring.flipped(self.precision_read), buffer.precision_read)
        m.d.comb += [
            self.precisions.eq(buffer.precisions),
            self.valid.eq(buffer.valid),
            buffer.slot.eq(prefetcher.newest),
            buffer.row.eq(loader.write.row),
            buffer.column.eq(loader.write.column),
        ]
        return buffer

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
