"""The engine's configuration."""

from dataclasses import dataclass

from ...formats import BLOCK_SIZE, K_LIMIT, accumulator_bits
from ..unit_config import ROWS, STORAGES, AccumulatorConfig, EngineLaneConfig, SelectorConfig
from ..validation import check, check_datapath, check_multiple, check_one_of, check_selector_depth, whole

__all__ = ["K_TILE", "STREAM_BYTES", "TILE_BLOCKS", "EngineConfig", "weight_stream_names"]

K_TILE = 256
"""Values of K in one record on the wire (docs/engine.md)."""

TILE_BLOCKS = K_TILE // BLOCK_SIZE
STREAM_BYTES = 16
_DEEPEST = 4
_STREAM_LANES = 4
ROW_ORDERS = ("precision", "ascending")
RAW_INPUTS = ("none", "float32", "bfloat16")


def weight_stream_names(count: int) -> tuple[str, ...]:
    """What `count` streams of weights are called: `weights`, or `weights_0` and so on."""
    return tuple(f"weights_{index}" for index in range(count)) if count > 1 else ("weights",)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The engine: docs/engine.md.

    Attributes:
        lanes: output channels computed at once: 4, 8, 16, 32 or 64.
        weight_streams: 1, 2 or 4 streams of weights, each of which feeds its own share of the lanes, at least four.
        rows: activation rows of a row tile: 8, 16, 32, 64 or 128.
        slots: K tiles of 256 values that the activation buffer holds: 2, 4, 8, 16 or 32.
        k_max: longest K in values; sets the accumulators' width. A multiple of 16, at most 42,784.
        n_max: largest N of packed results, a multiple of 16 up to 65,536.
        pipeline: registers inside the dot product, 0 to 4.
        raw_input: whether activations may come unquantized, through a selector: "none", "float32", "bfloat16".
        packed_output: whether results may leave through a selector as packed blocks (needs 16 lanes or more).
        channel_codes: whether the selectors have a 4-bit power-of-two sensitivity per channel.
        four_over_six: whether the selectors may give a block the scale amax / 4 in place of amax / 6.
        sharing: "split" or "merged", how the lanes' adder trees are shared between precision modes (LaneConfig).
        selector_pipeline: registers inside the selectors, 0 to 8 (SelectorConfig).
        row_order: "precision" (rows of a step are visited FP4 first, then FP8, and the other way round) or "ascending".
        accumulators: "banked" or "memory", how the sums are kept (AccumulatorConfig).
    """

    lanes: int = 16
    weight_streams: int = 1
    rows: int = 64
    slots: int = 8
    k_max: int = 4096
    n_max: int = 4096
    pipeline: int = 3
    raw_input: str = "float32"
    packed_output: bool = True
    channel_codes: bool = False
    four_over_six: bool = False
    sharing: str = "split"
    selector_pipeline: int = 8
    row_order: str = "precision"
    accumulators: str = "banked"

    def __post_init__(self) -> None:
        for name, allowed in (("lanes", (4, 8, 16, 32, 64)), ("rows", ROWS), ("slots", (2, 4, 8, 16, 32))):
            check_one_of("engine", name, getattr(self, name), allowed)
        check_one_of("engine", "weight_streams", self.weight_streams, (1, 2, 4))
        legal = self.lanes >= _STREAM_LANES * self.weight_streams
        expected = f"at most {self.lanes // _STREAM_LANES} with {self.lanes} lanes ({_STREAM_LANES} a stream)"
        check("engine", "weight_streams", self.weight_streams, legal, expected)
        for name, limit in (("k_max", K_LIMIT // BLOCK_SIZE * BLOCK_SIZE), ("n_max", 1 << 16)):
            check_multiple("engine", name, getattr(self, name), BLOCK_SIZE, limit)
        check("engine", "pipeline", self.pipeline, whole(self.pipeline, _DEEPEST + 1), f"0 to {_DEEPEST}")
        check_datapath("engine", "mixed", self.sharing, self.pipeline)
        check_selector_depth("engine", "selector_pipeline", self.selector_pipeline)
        check("engine", "row_order", self.row_order, self.row_order in ROW_ORDERS, " or ".join(ROW_ORDERS))
        check("engine", "accumulators", self.accumulators, self.accumulators in STORAGES, " or ".join(STORAGES))
        check("engine", "raw_input", self.raw_input, self.raw_input in RAW_INPUTS, "none, float32 or bfloat16")
        for name in ("packed_output", "channel_codes", "four_over_six"):
            value = getattr(self, name)
            check("engine", name, value, isinstance(value, bool), "True or False")
        legal = not self.packed_output or self.lanes >= BLOCK_SIZE
        check(
            "engine", "packed_output", self.packed_output, legal, f"False with {self.lanes} lanes (it needs 16 or more)"
        )
        for name in ("channel_codes", "four_over_six"):
            legal = not getattr(self, name) or self.packed_output or self.raw_input != "none"
            check("engine", name, getattr(self, name), legal, "False without a selector")

    @property
    def accumulator_bits(self) -> int:
        """Width of an accumulator."""
        return accumulator_bits(self.k_max)

    @property
    def stream_lanes(self) -> int:
        """Lanes that one stream of weights feeds: lane n belongs to stream n % `weight_streams`."""
        return self.lanes // self.weight_streams

    @property
    def weight_stream_names(self) -> tuple[str, ...]:
        """Its streams of weights."""
        return weight_stream_names(self.weight_streams)

    @property
    def operand_streams(self) -> tuple[str, ...]:
        """All streams into it."""
        return (*self.weight_stream_names, "activations")

    @property
    def lane(self) -> EngineLaneConfig:
        """Its lanes."""
        return EngineLaneConfig(self.k_max, self.pipeline, "mixed", self.sharing)

    def accumulators_of(self, lanes: int) -> AccumulatorConfig:
        """The accumulators of so many of its lanes."""
        return AccumulatorConfig(self.k_max, self.rows, lanes, self.accumulators)

    def selector(self, source: str) -> SelectorConfig:
        """A selector of this engine for values of the format `source`."""
        return SelectorConfig(source, self.channel_codes, self.selector_pipeline, self.four_over_six)

    @property
    def input_selector(self) -> SelectorConfig | None:
        """The selector that raw activations go through, if there is one."""
        return None if self.raw_input == "none" else self.selector(self.raw_input)

    @property
    def output_selector(self) -> SelectorConfig | None:
        """The selector that packed results come from, if there is one."""
        return self.selector("float32") if self.packed_output else None

    @property
    def resident_k(self) -> int:
        """Longest K whose activations are sent once a row tile; longer ones are sent again for every N tile."""
        return self.slots * K_TILE

    @property
    def latency(self) -> int:
        """Cycles from issuing the last block product of a row to its accumulator in the result buffer."""
        return self.pipeline + 4

    @property
    def throughput(self) -> str:
        """In words, for the sidecar."""
        return f"{self.lanes} block pairs per cycle"
