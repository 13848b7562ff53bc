"""Frozen, validated configurations of the units that stand by themselves.

A configuration is what a user chooses; everything derived from it is a property here, so that generator, benches,
sidecars and synthesis read one and the same number.
"""

from dataclasses import dataclass
from typing import ClassVar

from ..formats import (
    BFLOAT16,
    BLOCK_SIZE,
    E2M1,
    E4M3,
    FLOAT32,
    K_LIMIT,
    SCORE_BITS,
    SCORE_BITS_WITH_CHANNEL_CODES,
    MiniFloat,
    accumulator_bits,
)
from .validation import check, check_datapath, check_multiple, check_one_of, check_selector_depth, whole

__all__ = [
    "BANK_ROWS",
    "FORMATS",
    "ROUNDING_CYCLES",
    "ROWS",
    "STORAGES",
    "AccumulatorConfig",
    "ActivationDecoderConfig",
    "DatapathConfig",
    "DecoderConfig",
    "DotConfig",
    "EngineLaneConfig",
    "LaneConfig",
    "RowOrderConfig",
    "SelectorConfig",
]

ROUNDING_CYCLES = 3
"""Registers between an accumulator and its rounded value."""

BANK_ROWS = 8
"""Rows of a bank of accumulators."""

FORMATS = ("mixed", "fp8")
"""Which blocks a datapath takes."""

STORAGES = ("banked", "memory")
"""How accumulators are built."""

ROWS = (8, 16, 32, 64, 128)
"""How many rows a row tile may have."""

_INPUT_FORMATS = {"float32": FLOAT32, "bfloat16": BFLOAT16}
_ELEMENT_FORMATS = {"E2M1": E2M1, "E4M3": E4M3}


@dataclass(frozen=True)
class DatapathConfig:
    """Parameters that all lanes have: adder trees and an accumulator.

    Attributes:
        k_max: longest row, in values; sets the accumulator's width. A multiple of 16, at most 42,784.
        pipeline: registers between input and accumulator, 0 to 5; 0 to 4 with formats "fp8".
        formats: "mixed", or "fp8" for a lane of E4M3 blocks only (what mixed precision is compared with).
        sharing: "split" (FP4 pairs have an adder tree of their own: least energy) or "merged" (one tree: least area).
    """

    unit: ClassVar[str]
    """Its name in error messages."""

    k_max: int = 4096
    pipeline: int = 4
    formats: str = "mixed"
    sharing: str = "split"

    def __post_init__(self) -> None:
        check_multiple(self.unit, "k_max", self.k_max, BLOCK_SIZE, K_LIMIT // BLOCK_SIZE * BLOCK_SIZE)
        check_datapath(self.unit, self.formats, self.sharing, self.pipeline)

    @property
    def accumulator_bits(self) -> int:
        """Width of accumulator and raw output."""
        return accumulator_bits(self.k_max)

    @property
    def throughput(self) -> str:
        """In words, for the sidecar."""
        return "1 block pair per cycle"


class LaneConfig(DatapathConfig):
    """The dual-precision dot-product lane, which adds up rows and rounds them."""

    unit = "lane"

    @property
    def latency(self) -> int:
        """Cycles from accepting the last block pair of a row to its result, without stalls."""
        return self.pipeline + 1 + ROUNDING_CYCLES


class EngineLaneConfig(DatapathConfig):
    """A lane of the engine by itself: it holds a weight block, and its accumulators stand in a memory outside."""

    unit = "engine lane"

    @property
    def latency(self) -> int:
        """Cycles from an activation block to the sum it was added to."""
        return self.pipeline + 1


@dataclass(frozen=True)
class AccumulatorConfig:
    """The accumulators of an engine's lanes.

    Attributes:
        k_max: longest row, in values, as in a lane; sets the width of a sum.
        rows: how many rows there are: 8, 16, 32, 64 or 128.
        lanes: how many sums a row has, 1 to 64.
        storage: "banked" (registers: least energy) or "memory" (one memory: FPGAs, macros).
    """

    k_max: int = 4096
    rows: int = 64
    lanes: int = 1
    storage: str = "banked"

    def __post_init__(self) -> None:
        check_multiple("accumulators", "k_max", self.k_max, BLOCK_SIZE, K_LIMIT // BLOCK_SIZE * BLOCK_SIZE)
        check_one_of("accumulators", "rows", self.rows, ROWS)
        check(
            "accumulators",
            "lanes",
            self.lanes,
            whole(self.lanes - 1, 64) if type(self.lanes) is int else False,
            "1 to 64",
        )
        check("accumulators", "storage", self.storage, self.storage in STORAGES, " or ".join(STORAGES))

    @property
    def width(self) -> int:
        """Bits of a row: for each lane a sum and its poison bit."""
        return self.lanes * (accumulator_bits(self.k_max) + 1)

    @property
    def latency(self) -> int:
        """Cycles from a read to the sums."""
        return 1

    @property
    def throughput(self) -> str:
        """In words, for the sidecar."""
        return "1 row read and 1 row written per cycle"


@dataclass(frozen=True)
class ActivationDecoderConfig:
    """The decoder of activations that all lanes of an engine share.

    Attributes:
        formats: "mixed", or "fp8" for E4M3 blocks only.
    """

    formats: str = "mixed"

    def __post_init__(self) -> None:
        check("activation decoder", "formats", self.formats, self.formats in FORMATS, " or ".join(FORMATS))

    @property
    def latency(self) -> int:
        """Cycles from a block to its elements."""
        return 1

    @property
    def throughput(self) -> str:
        """In words, for the sidecar."""
        return "1 block per cycle"


@dataclass(frozen=True)
class RowOrderConfig:
    """The generator of the order in which an engine visits a step's rows.

    Attributes:
        rows: how many rows a row tile has: 8, 16, 32, 64 or 128.
    """

    rows: int = 64

    def __post_init__(self) -> None:
        check_one_of("row order", "rows", self.rows, ROWS)

    @property
    def latency(self) -> int:
        """Cycles from a step to its first row."""
        return 2

    @property
    def throughput(self) -> str:
        """In words, for the sidecar."""
        return "1 row per cycle"


@dataclass(frozen=True)
class SelectorConfig:
    """The activation selector.

    Attributes:
        input_format: "float32" or "bfloat16".
        channel_codes: whether each channel has a 4-bit power-of-two sensitivity code.
        pipeline: registers before the output register, 0 to 8.
        four_over_six: whether a block may take the scale amax / 4 in place of amax / 6.
    """

    input_format: str = "float32"
    channel_codes: bool = False
    pipeline: int = 8
    four_over_six: bool = False

    def __post_init__(self) -> None:
        check("selector", "input_format", self.input_format, self.input_format in _INPUT_FORMATS, "float32 or bfloat16")
        for name in ("channel_codes", "four_over_six"):
            value = getattr(self, name)
            check("selector", name, value, isinstance(value, bool), "True or False")
        check_selector_depth("selector", "pipeline", self.pipeline)

    @property
    def format(self) -> MiniFloat:
        """The input format's descriptor."""
        return _INPUT_FORMATS[self.input_format]

    @property
    def score_bits(self) -> int:
        """Width of the score."""
        return SCORE_BITS_WITH_CHANNEL_CODES if self.channel_codes else SCORE_BITS

    @property
    def latency(self) -> int:
        """Cycles from accepting a block to its result, without stalls."""
        return self.pipeline + 1

    @property
    def throughput(self) -> str:
        """In words, for the sidecar."""
        return "1 block of 16 values per cycle"


@dataclass(frozen=True)
class DotConfig:
    """The dot product of one block pair by itself, without accumulator, exact.

    Attributes:
        formats, sharing: as in a lane.
        pipeline: registers, 0 to 5; none makes it combinational.
        signs: how negative products join the sum. "counted" turns no more than a product's own digits and takes off
            what that adds, for least energy; "extended" extends the sign over the whole shift, for least area (formats
            "fp8").
    """

    formats: str = "mixed"
    sharing: str = "split"
    pipeline: int = 0
    signs: str = "counted"

    def __post_init__(self) -> None:
        check_datapath("dot", self.formats, self.sharing, self.pipeline)
        legal = self.signs == "counted" or (self.signs == "extended" and self.formats == "fp8")
        check("dot", "signs", self.signs, legal, "counted, or extended with formats fp8")

    @property
    def latency(self) -> int:
        """Cycles from a block pair to its term."""
        return self.pipeline

    @property
    def throughput(self) -> str:
        """In words, for the sidecar."""
        return "1 block pair per cycle" if self.pipeline else "combinational"


@dataclass(frozen=True)
class DecoderConfig:
    """A combinational element decoder: "E4M3" or "E2M1"."""

    element: str = "E4M3"

    def __post_init__(self) -> None:
        check("decoder", "element", self.element, self.element in _ELEMENT_FORMATS, "E4M3 or E2M1")

    @property
    def format(self) -> MiniFloat:
        """The element format's descriptor."""
        return _ELEMENT_FORMATS[self.element]

    @property
    def latency(self) -> int:
        """Combinational."""
        return 0

    @property
    def throughput(self) -> str:
        """In words, for the sidecar."""
        return "combinational"
