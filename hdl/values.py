"""Which values each parameter of a unit may have: what lint, random campaigns and the verification plan go through."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace

from ..errors import InputError
from ..formats import K_LIMIT, accumulator_bits
from .config import PRESETS, Config, EngineConfig

__all__ = ["VALUES", "Values", "covering", "legal_values", "random_config", "values_that_matter"]

Values = Mapping[str, Sequence[int | str | bool]]

_LONGEST = K_LIMIT // 16 * 16

VALUES: Values = {
    # Where the accumulator's width steps, on either side, and the ends.
    "k_max": sorted(
        {16, _LONGEST, *(k + d for k in range(16, _LONGEST, 16) if accumulator_bits(k) < accumulator_bits(k + 16)
                         for d in (0, 16))}
    ),
    "n_max": (16, 4096, 8192, 65_536),
    "pipeline": range(9),
    "selector_pipeline": range(9),
    "formats": ("mixed", "fp8"),
    "sharing": ("split", "merged"),
    "input_format": ("float32", "bfloat16"),
    "raw_input": ("none", "float32", "bfloat16"),
    "element": ("E4M3", "E2M1"),
    "channel_codes": (False, True),
    "four_over_six": (False, True),
    "packed_output": (False, True),
    "lanes": (4, 8, 16, 32, 64),
    "weight_streams": (1, 2, 4),
    "signs": ("counted", "extended"),
    "rows": (8, 16, 32, 64, 128),
    "slots": (2, 4, 8, 16, 32),
    "row_order": ("precision", "ascending"),
    "accumulators": ("banked", "memory"),
    "storage": ("banked", "memory"),
}  # fmt: skip


def legal_values(config: Config, values: Values = VALUES) -> Iterator[tuple[str, int | str | bool]]:
    """Every parameter of a configuration's kind with every value that some configuration of the kind may have."""
    kind = type(config)
    others = [preset for _, preset in PRESETS.values() if type(preset) is kind]
    for field in fields(config):
        for value in values[field.name]:
            if any(_changed(other, {field.name: value}) is not None for other in (config, *others)):
                yield field.name, value


def random_config(config: Config, chance: random.Random, values: Values = VALUES) -> Config:
    """Any legal configuration of the kind of `config`."""
    while True:
        found = _changed(config, {field.name: chance.choice(values[field.name]) for field in fields(config)})
        if found is not None:
            return found


def covering(
    config: Config, seed: int, values: Values = VALUES, *, beside: Iterable[Config] = (), tries: int = 300
) -> list[Config]:
    """Configurations of a kind in which every value of every parameter occurs: few, and quick to simulate.

    What occurs in those `beside` them, which somebody else simulates, need not occur again.
    """
    chance = random.Random(seed)
    missing = set(legal_values(config, values)).difference(*map(values_that_matter, beside))
    found: list[Config] = []
    while missing:
        candidates = [random_config(config, chance, values) for _ in range(tries)]
        best = max(candidates, key=lambda c: len(missing & values_that_matter(c)) / _cost(c))
        missing -= values_that_matter(best)
        found.append(best)
    return found


def values_that_matter(config: Config) -> set[tuple[str, int | str | bool]]:
    """The values that matter in a configuration: without a selector, nothing is built of its depth."""
    idle = set()
    if isinstance(config, EngineConfig):
        idle |= set() if config.input_selector or config.output_selector else {"selector_pipeline"}
        idle |= set() if config.packed_output else {"n_max"}
    return {(field.name, getattr(config, field.name)) for field in fields(config) if field.name not in idle}


def _cost(config: Config) -> float:
    """About what it takes to compile and simulate, in lanes: most of an engine are sums in registers and selectors."""
    lanes, rows = int(getattr(config, "lanes", 1)), int(getattr(config, "rows", 1))
    registers = lanes * rows / 32 if getattr(config, "accumulators", "") == "banked" else rows / 8
    selectors = getattr(config, "packed_output", False) + (getattr(config, "raw_input", "none") != "none")
    each = 10 * (1 + getattr(config, "channel_codes", False) + getattr(config, "four_over_six", False))
    return 12 + lanes + registers + selectors * each


def _changed(config: Config, values: Mapping[str, int | str | bool]) -> Config | None:
    """`config` with other values; None where they are not legal together."""
    try:
        return replace(config, **values)  # type: ignore[arg-type]
    except InputError:
        return None
