"""Frozen, validated configurations of the units, and the named presets.

A configuration is what a user chooses; everything derived from it is a property here, so that generator, benches,
sidecars and synthesis read one and the same number.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from ..errors import InputError
from ..golden.formats import (
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
from .checks import check, check_datapath, check_multiple, check_selector_depth
from .engine.config import EngineConfig, EngineLaneConfig

__all__ = [
    "PRESETS",
    "ROUNDING_CYCLES",
    "Config",
    "DecoderConfig",
    "DotConfig",
    "EngineConfig",
    "EngineLaneConfig",
    "LaneConfig",
    "SelectorConfig",
    "changed",
    "parameters",
    "preset",
]

ROUNDING_CYCLES = 3
"""Registers between an accumulator and its rounded value."""

_INPUT_FORMATS = {"float32": FLOAT32, "bfloat16": BFLOAT16}
_ELEMENT_FORMATS = {"E2M1": E2M1, "E4M3": E4M3}


@dataclass(frozen=True)
class LaneConfig:
    """The dual-precision dot-product lane.

    Attributes:
        k_max: longest row, in values; sets the accumulator's width. A multiple of 16, at most 42,784.
        pipeline: registers between input and accumulator, 0 to 5; 0 to 4 with formats "fp8".
        formats: "mixed", or "fp8" for a lane of E4M3 blocks only (what mixed precision is compared with).
        sharing: "split" (FP4 pairs have an adder tree of their own: least energy) or "merged" (one tree: least area).
    """

    k_max: int = 4096
    pipeline: int = 4
    formats: str = "mixed"
    sharing: str = "split"

    def __post_init__(self) -> None:
        check_multiple("lane", "k_max", self.k_max, BLOCK_SIZE, K_LIMIT // BLOCK_SIZE * BLOCK_SIZE)
        check_datapath("lane", self.formats, self.sharing, self.pipeline)

    @property
    def accumulator_bits(self) -> int:
        """Width of accumulator and raw output."""
        return accumulator_bits(self.k_max)

    @property
    def latency(self) -> int:
        """Cycles from accepting the last block pair of a row to its result, without stalls."""
        return self.pipeline + 1 + ROUNDING_CYCLES

    @property
    def throughput(self) -> str:
        """In words, for the sidecar."""
        return "1 block pair per cycle"


@dataclass(frozen=True)
class SelectorConfig:
    """The activation selector.

    Attributes:
        input_format: "float32" or "bfloat16".
        channel_codes: whether each channel has a 4-bit power-of-two sensitivity code.
        pipeline: registers before the output register, 0 to 8.
    """

    input_format: str = "float32"
    channel_codes: bool = False
    pipeline: int = 8

    def __post_init__(self) -> None:
        check("selector", "input_format", self.input_format, self.input_format in _INPUT_FORMATS, "float32 or bfloat16")
        check("selector", "channel_codes", self.channel_codes, isinstance(self.channel_codes, bool), "True or False")
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
    """

    formats: str = "mixed"
    sharing: str = "split"
    pipeline: int = 0

    def __post_init__(self) -> None:
        check_datapath("dot", self.formats, self.sharing, self.pipeline)

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


Config = LaneConfig | DotConfig | SelectorConfig | DecoderConfig | EngineConfig | EngineLaneConfig

PRESETS: dict[str, tuple[str, Config]] = {
    "lane": ("dot-product lane, K up to 4,096", LaneConfig()),
    "lane-1k": ("dot-product lane, K up to 1,024", LaneConfig(k_max=1024)),
    "lane-11k": ("dot-product lane, K up to 11,008 (Llama-2-7B), deepest pipeline", LaneConfig(11_008, 5)),
    "lane-flat": ("dot-product lane without registers before the accumulator", LaneConfig(pipeline=0)),
    "lane-merged": ("dot-product lane, one adder tree for all pairings", LaneConfig(sharing="merged")),
    "lane-fp8": ("lane of FP8 blocks only, to compare with", LaneConfig(pipeline=3, formats="fp8")),
    "dot-fp8": ("combinational dot product of 16 E4M3 pairs, exact", DotConfig("fp8")),
    "dot-mixed": ("combinational dot product of 16 pairs of any precision, exact", DotConfig("mixed")),
    "selector": ("activation selector, float32 input", SelectorConfig()),
    "selector-bf16": ("activation selector, bfloat16 input", SelectorConfig("bfloat16")),
    "selector-channel": (
        "activation selector, float32 input, a sensitivity code per channel",
        SelectorConfig(channel_codes=True, pipeline=6),
    ),
    "selector-flat": (
        "activation selector, bfloat16 input, output register only",
        SelectorConfig("bfloat16", pipeline=0),
    ),
    "decoder-e4m3": ("E4M3 code to sign, significand, shift and NaN", DecoderConfig("E4M3")),
    "decoder-e2m1": ("E2M1 code to sign and magnitude in halves", DecoderConfig("E2M1")),
    "engine": ("whole layers: 16 lanes, 64 rows, K up to 4,096; selectors at input and output", EngineConfig()),
    "engine-channel": (
        "the same with a sensitivity code per channel in both selectors",
        EngineConfig(channel_codes=True),
    ),
    "engine-8": (
        "8 lanes, 32 rows, packed input only, float results only",
        EngineConfig(8, 32, 4, raw_input="none", packed_output=False),
    ),
    "engine-4": (
        "4 lanes, 8 rows, small buffers, packed input only: for tests and small FPGAs",
        EngineConfig(4, 8, 2, k_max=1024, raw_input="none", packed_output=False),
    ),
    "engine-lane": ("one lane of `engine` by itself", EngineConfig().lane),
    "engine-lane-merged": ("the same with one adder tree for all pairings", EngineLaneConfig(sharing="merged")),
    "engine-lane-fp8": (
        "the lane of an engine for FP8 blocks only, to compare with",
        EngineLaneConfig(pipeline=3, formats="fp8"),
    ),
}


def preset(name: str) -> Config:
    """The configuration called `name`. Raises InputError, listing the presets, if there is none."""
    if name not in PRESETS:
        raise InputError(f"preset: {name!r}, expected one of {', '.join(PRESETS)}")
    return PRESETS[name][1]


def changed(config: Config, changes: Sequence[str]) -> Config:
    """`config` with parameters changed: "pipeline=5", "sharing=merged", "clip=true".

    Raises InputError for a parameter that it does not have, or a value that is not allowed.
    """
    values: dict[str, int | str | bool] = {}
    known = parameters(config)
    for change in sorted(changes, key=lambda c: "=" in c):  # first what is no change at all, such as a unit
        name, separator, text = change.partition("=")
        if not separator or name not in known:
            raise InputError(f"parameter: {change!r}, expected NAME=VALUE with a name among {', '.join(known)}")
        values[name] = _value(text)
    # The configuration's own checks say what is wrong with a value.
    return replace(config, **values)  # type: ignore[arg-type]


def _value(text: str) -> int | str | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def parameters(config: Config) -> dict[str, int | str | bool]:
    """The user-facing parameters of a configuration, by name."""
    return {f.name: getattr(config, f.name) for f in fields(config)}
