"""What a block pair takes on the hardware, by the precision of its two blocks: the prices of a choice by energy."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..formats import PRECISION_MODES

__all__ = ["Prices"]


@dataclass(frozen=True, kw_only=True)
class Prices:
    """pJ per block pair of one lane and its share of everything else; `fgmp energy` measures them (docs/energy.md).

    The defaults are of the preset `engine` in SkyWater 130 nm, with the shipped model at 70 % FP4.

    Attributes:
        lane: by precision mode, in the order of `formats.PRECISION_MODES`.
        activation: an activation block's way through its buffer, FP4 and FP8.
        weight: the same of a weight block.
        rest: what every pair takes, whatever its formats.
        fp8_only: everything, on hardware without FP4.
    """

    lane: tuple[float, float, float, float] = (29.0, 53.8, 56.9, 60.4)
    activation: tuple[float, float] = (24.5, 43.4)
    weight: tuple[float, float] = (2.1, 3.9)
    rest: float = 13.0
    fp8_only: float = 118.1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, int | float) or not 0 <= number < 1e9:
                    raise InputError(f"prices: {name} {number}, expected pJ, at least 0")
        table = self.table()
        if not (np.diff(table, axis=0) > 0).all() or not (np.diff(table, axis=1) > 0).all() or self.fp8_only <= 0:
            raise InputError(f"prices: {table.tolist()} pJ, expected FP8 to take more than FP4 of either operand")

    def table(self) -> np.ndarray:
        """float64 (2, 2): a pair's pJ, by whether its activations and its weights are FP8."""
        table = np.zeros((2, 2))
        for name, (a, w) in PRECISION_MODES.items():
            lane = self.lane[list(PRECISION_MODES).index(name)]
            table[int(a), int(w)] = lane + self.activation[int(a)] + self.weight[int(w)] + self.rest
        return table

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what `fgmp energy` writes as `prices`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Prices":
        """The inverse of `as_dict`. Raises InputError for anything else."""
        try:
            found = {f.name: values[f.name] for f in fields(cls)}
            found = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
            if [len(found[name]) for name in ("lane", "activation", "weight")] != [len(PRECISION_MODES), 2, 2]:
                raise ValueError
            if any(isinstance(found[name], tuple) for name in ("rest", "fp8_only")):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise InputError("prices: no prices of block pairs, expected what fgmp energy writes") from None
        return cls(**found)

    @classmethod
    def read(cls, path: Path) -> "Prices":
        """Those of a file that `fgmp energy` wrote. Raises InputError where there are none."""
        try:
            values = json.loads(path.read_text())["prices"]
        except OSError as error:
            raise InputError(f"prices {path}: {error.strerror}, expected a file that fgmp energy wrote") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"prices {path}: no prices in it, expected a file that fgmp energy wrote") from None
        try:
            return cls.from_dict(values)
        except InputError as error:
            raise InputError(str(error).replace("prices:", f"prices {path}:", 1)) from None
