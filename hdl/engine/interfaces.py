"""The interfaces inside the engine, each seen from the side that it is called after."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..operands import STORED_BLOCK
from ..selector import selector_settings
from .config import STREAM_BYTES, TILE_BLOCKS, EngineConfig

__all__ = [
    "ADDRESS_BITS", "BEAT", "BEAT_BITS", "ActivationRead", "AxiLite", "BeatStream", "BlockWrite", "BufferRead",
    "GemmSettings", "GemmSize", "SiteWrite", "SlotState", "StreamShare", "TileRequest", "WeightRead",
]  # fmt: skip

BEAT_BITS = 8 * STREAM_BYTES
BEAT = data.StructLayout({"data": BEAT_BITS, "keep": STREAM_BYTES, "last": 1})
"""A beat of AXI4-Stream: `data`, with byte 0 in the low bits; `keep`, a bit for each byte; `last`, the packet's end."""

BeatStream = stream.Signature(BEAT)

ADDRESS_BITS = 18

AxiLite = wiring.Signature(
    {
        **{"awaddr": Out(ADDRESS_BITS), "awvalid": Out(1), "awready": In(1)},
        **{"wdata": Out(32), "wstrb": Out(4), "wvalid": Out(1), "wready": In(1)},
        **{"bresp": In(2), "bvalid": In(1), "bready": Out(1)},
        **{"araddr": Out(ADDRESS_BITS), "arvalid": Out(1), "arready": In(1)},
        **{"rdata": In(32), "rresp": In(2), "rvalid": In(1), "rready": Out(1)},
    }
)
"""AXI4-Lite, 32 bits, seen from the manager."""

_SIZE_BITS = {"m": 24, "n": 16, "k": 12}
"""Widths of M - 1, N - 1, and blocks of K minus one."""


class GemmSize(wiring.Signature):
    """A GEMM's size as loops count it: the last tile of each dimension, and how far that goes."""

    def __init__(self, config: EngineConfig):
        row, lane, block = ((size - 1).bit_length() for size in (config.rows, config.lanes, TILE_BLOCKS))
        super().__init__(
            {
                "m_tile_final": Out(_SIZE_BITS["m"] - row),
                "row_final": Out(row),
                "n_tile_final": Out(_SIZE_BITS["n"] - lane),
                "lane_final": Out(lane),
                "k_tile_final": Out(_SIZE_BITS["k"] - block),
                "block_final": Out(block),
            }
        )


class StreamShare(wiring.Signature):
    """Which rows of the last N tile are those of one of several streams of weights."""

    def __init__(self, config: EngineConfig, stream: int):
        members = {"row_final": Out(range(config.stream_lanes))}  # how many, minus one
        if stream:
            members["none"] = Out(1)
        super().__init__(members)


class GemmSettings(wiring.Signature):
    """The registers of the GEMM that runs; those that an engine does not have are not in it."""

    def __init__(self, config: EngineConfig):
        members = {
            "bfloat16": Out(1),  # results leave as bfloat16, else as float32 (or packed)
            "relu": Out(1),  # negative results become +0
            "exponent": Out(8),  # sum of both tensor exponents, signed
        }
        selector = selector_settings(four_over_six=config.four_over_six)
        if config.raw_input != "none":
            members |= {"raw_input": Out(1), "input_selector": Out(selector)}
        if config.packed_output:
            members |= {"packed": Out(1), "output_selector": Out(selector)}
        super().__init__(members)


class TileRequest(wiring.Signature):
    """Prefetcher to loader: the K tile that comes next on the stream, of at most `rows` rows."""

    def __init__(self, rows: int):
        super().__init__(
            {
                "enable": Out(1),  # it is to be read; high until `done`
                "last_row": Out(range(rows)),  # its rows minus one
                "last_block": Out(range(TILE_BLOCKS)),  # its blocks of K minus one
                "done": In(1),  # its last block is being written
            }
        )


class BlockWrite(wiring.Signature):
    """Loader to buffer: one block of a tile of at most `rows` rows, or two that are neighbors in their row."""

    def __init__(self, rows: int, blocks: int = 1):
        members = {
            "enable": Out(1),
            "row": Out(range(rows)),
            "column": Out(range(TILE_BLOCKS // blocks)),  # of the block, or of the two
            "block": Out(STORED_BLOCK),
        }
        if blocks > 1:
            members |= {"second": Out(1), "second_block": Out(STORED_BLOCK)}  # there is a second one
        super().__init__(members)


class SlotState(wiring.Signature):
    """Prefetcher to sequencer: which of the buffer's slots, each a K tile, hold data; filled and freed in order."""

    def __init__(self, slots: int):
        super().__init__(
            {
                "filled": Out(range(slots + 1)),  # how many
                "oldest": Out(range(slots)),  # the first of them
                "free": In(1),  # the oldest is no longer needed
            }
        )


class BufferRead(wiring.Signature):
    """Sequencer to buffer: what lies at `address` is wanted."""

    def __init__(self, depth: int):
        super().__init__({"enable": Out(1), "address": Out((depth - 1).bit_length())})


class WeightRead(wiring.Signature):
    """Sequencer to weight buffers, one for each of `streams`, of `lanes` lanes each: two lanes' blocks are wanted."""

    def __init__(self, lanes: int, streams: int = 1):
        super().__init__(
            {
                "enable": Out(2 * streams),  # of all even lanes, then of all odd ones
                "block": Out(range(TILE_BLOCKS)),
                "pair": Out(range(lanes // 2)),
                "slot": Out(1),
            }
        )


class ActivationRead(wiring.Signature):
    """Sequencer to activation buffer: the block at `address`, whose precision is known, is wanted."""

    def __init__(self, depth: int):
        super().__init__({"enable": Out(1), "address": Out((depth - 1).bit_length()), "fp8": Out(1)})


class SiteWrite(wiring.Signature):
    """Register file to site memories: what software writes."""

    def __init__(self, *, codes: bool):
        super().__init__(
            {
                "enable": Out(1),
                "output": Out(1),  # the output site's memory, not the input site's
                "index": Out(12),  # block of channels
                "word": Out(2),  # 0: static precision bit; 1 and 2: channel codes
                "data": Out(32 if codes else 1),
            }
        )
