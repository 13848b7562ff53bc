"""The configurations of all units, and the named presets."""

import re
from collections.abc import Sequence
from dataclasses import fields, replace

from ..errors import InputError
from .engine.config import EngineConfig
from .unit_config import (
    ROUNDING_CYCLES,
    AccumulatorConfig,
    ActivationDecoderConfig,
    DatapathConfig,
    DecoderConfig,
    DotConfig,
    EngineLaneConfig,
    LaneConfig,
    RowOrderConfig,
    SelectorConfig,
)

__all__ = [
    "PRESETS",
    "ROUNDING_CYCLES",
    "AccumulatorConfig",
    "ActivationDecoderConfig",
    "Config",
    "DatapathConfig",
    "DecoderConfig",
    "DotConfig",
    "EngineConfig",
    "EngineLaneConfig",
    "LaneConfig",
    "RowOrderConfig",
    "SelectorConfig",
    "changed",
    "parameters",
    "preset",
]

Config = (
    LaneConfig
    | DotConfig
    | SelectorConfig
    | DecoderConfig
    | EngineConfig
    | EngineLaneConfig
    | AccumulatorConfig
    | RowOrderConfig
    | ActivationDecoderConfig
)

PRESETS: dict[str, tuple[str, Config]] = {
    "lane": ("dot-product lane, K up to 4,096", LaneConfig()),
    "lane-1k": ("dot-product lane, K up to 1,024", LaneConfig(k_max=1024)),
    "lane-11k": ("dot-product lane, K up to 11,008 (Llama-2-7B), deepest pipeline", LaneConfig(11_008, 5)),
    "lane-flat": ("dot-product lane without registers before the accumulator", LaneConfig(pipeline=0)),
    "lane-merged": ("dot-product lane, one adder tree for all precision modes", LaneConfig(sharing="merged")),
    "lane-fp8": ("lane of FP8 blocks only, to compare with", LaneConfig(pipeline=3, formats="fp8")),
    "dot-fp8": ("combinational dot product of 16 E4M3 pairs, exact", DotConfig("fp8")),
    "dot-mixed": ("combinational dot product of 16 pairs of any precision, exact", DotConfig("mixed")),
    "selector": ("activation selector, float32 input", SelectorConfig()),
    "selector-bf16": ("activation selector, bfloat16 input", SelectorConfig("bfloat16")),
    "selector-channel": (
        "activation selector, float32 input, a sensitivity code per channel",
        SelectorConfig(channel_codes=True, pipeline=6),
    ),
    "selector-four-over-six": (
        "activation selector, float32 input, which may give a block the scale amax / 4",
        SelectorConfig(four_over_six=True),
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
        "8 lanes, 32 rows, packed input only, float results only, one adder tree a lane: for FPGAs",
        EngineConfig(
            lanes=8, rows=32, slots=4, raw_input="none", packed_output=False, sharing="merged", accumulators="memory"
        ),
    ),
    "engine-4": (
        "4 lanes, 8 rows, small buffers, packed input only: for tests and small FPGAs",
        EngineConfig(
            lanes=4, rows=8, slots=2, k_max=1024, raw_input="none", packed_output=False, accumulators="memory"
        ),
    ),
    "engine-lane": ("one lane of `engine` by itself", EngineConfig().lane),
    "engine-lane-merged": ("the same with one adder tree for all precision modes", EngineLaneConfig(sharing="merged")),
    "accumulators": ("accumulators of one lane of `engine`: 64 rows", AccumulatorConfig()),
    "activation-decoder": ("what decodes activations for all lanes of `engine`", ActivationDecoderConfig()),
    "row-order": ("the generator of the order of rows, for 64 rows", RowOrderConfig()),
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
