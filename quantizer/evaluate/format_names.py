"""Formats by name, for command lines: `fp8`, `nvfp4`, `fgmp:0.7`, `fgmp:0.7,random,noclip`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...errors import InputError
from ..config import PAPER, POLICIES, FGMPConfig
from .comparison import FP8, NVFP4, uniform

__all__ = ["OPTIONS", "ablation", "parse_formats"]

OPTIONS: dict[str, dict[str, Any]] = {
    **{policy: {"policy": policy} for policy in POLICIES},
    "noclip": {"clip": False},
    "clip": {"clip": True},
    "per-layer": {"threshold": "per-layer"},
    "factored": {"sensitivity": "factored"},
    "static": {"activations": "static"},
    "weights-only": {"activations": "none"},
    "four-over-six": {"four_over_six": True},
    "channel-codes": {"channel_codes": True},
    "gptq": {"rounding": "gptq"},
    "nearest": {"rounding": "nearest"},
    "energy": {"choice": "energy"},
    "by-fraction": {"choice": "fraction"},
    "permutation": {"permutation": True},
    "no-permutation": {"permutation": False},
    "paper": PAPER,
}
"""Options that may follow a format's name after commas, and the settings that they change."""


def parse_formats(texts: Sequence[str], base: FGMPConfig) -> dict[str, FGMPConfig]:
    """Configurations by display name; what a text does not say is as in `base`.

    A text is `fp8`, `nvfp4` or `fgmp:P` (P the FP4 fraction, P/Q for weights and activations, or a budget such as
    energy=0.8 or pj=90,bits=5.6), followed by options, each after a comma. Raises InputError, naming the text, for
    anything else.
    """
    formats = {}
    for text in texts:
        head, *options = text.split(",")
        kind, _, fraction = head.partition(":")
        settings: dict[str, Any] = {}
        if kind in ("fp8", "nvfp4") and not fraction:
            start, name = uniform(kind == "nvfp4", base), FP8 if kind == "fp8" else NVFP4
        elif kind == "fgmp" and "=" in fraction:
            budget = ",".join([fraction, *(option for option in options if "=" in option)])
            options = [option for option in options if "=" not in option]
            start, settings, name = base, {"budget": budget}, f"FGMP {budget}"
        elif kind == "fgmp":
            weights, _, activations = (fraction or str(base.fp4_weights)).partition("/")
            try:
                settings = {"fp4_weights": float(weights), "fp4_activations": float(activations or weights)}
            except ValueError:
                raise InputError(
                    f"format {text!r}: {fraction!r} is no fraction, expected fgmp:0.7 for example"
                ) from None
            start, name = base, f"FGMP {fraction or weights}"
        else:
            raise InputError(f"format {text!r}: expected fp8, nvfp4 or fgmp:FRACTION, options after commas")
        for option in options:
            if option not in OPTIONS:
                raise InputError(f"format {text!r}: option {option!r}, expected one of {', '.join(OPTIONS)}")
            settings |= OPTIONS[option]
        try:
            formats[" ".join([name, *options])] = replace(start, **settings)
        except InputError as error:
            raise InputError(f"format {text!r}: {error}") from None
    return formats


def ablation(fraction: float) -> list[str]:
    """The formats of the ablation table: from the paper's method to the default step by step, and beyond; then every
    policy and refinement alone on the paper's method."""
    own, paper = f"fgmp:{fraction:g}", f"fgmp:{fraction:g},paper"
    steps = [paper, *(f"{paper},{step}" for step in ("gptq", "energy", "energy,gptq")), own, f"{own},four-over-six"]
    static = [f"{paper},static", f"{own},static"]
    policies = [f"{paper},noclip", *(f"{paper},{p}{clip}" for p in POLICIES[1:] for clip in ("", ",noclip"))]
    alone = ("per-layer", "per-layer,noclip", "factored", "channel-codes", "four-over-six")
    rest = [*policies, *(f"{paper},{extra}" for extra in alone)]
    return ["fp8", "nvfp4", "nvfp4,four-over-six", *steps, *static, *rest]
