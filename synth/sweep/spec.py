"""A sweep's file: which flow, which units, the grid of their parameters, and the flow's options."""

import itertools
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...hdl.config import EngineConfig, changed, preset
from ..asic.mapping import DONT_USE, Target
from ..energy.run import EnergyRequest
from ..energy.workload import Texts
from ..fpga.nextpnr import device
from ..liberty.cells import StandardCells

__all__ = ["FLOWS", "OPTIONS", "DesignPoint", "SweepSpec", "read_spec"]

_MAPPING: dict[str, Any] = {
    "liberty": "",
    "period": 1.0,
    "optimize": "speed",
    "clock_gates": True,
    "wire_load": True,
    "dont_use": list(DONT_USE),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "asic": {**_MAPPING, "words": 4, "seed": 0, "energy": True},
    "fpga": {"target": "ecp5", "device": "", "package": "", "seeds": 1, "mhz": 100.0, "dsp": False},
    "energy": {
        **_MAPPING,
        "model": "demo",
        "text": "",
        "calibration": "",
        "fractions": [0.5, 0.7, 0.9],
        "activations": ["dynamic"],
        "samples": 64,
        "windows": 48,
        "captured": 4,
        "words": 8,
        "seed": 0,
        "node": 0.0,
        "memory_factor": 1.0,
    },
}
"""The options of each flow's table `[options]`, with defaults; "" and node = 0 mean the flow's own choice."""

FLOWS: dict[str, tuple[str, str]] = {
    "asic": ("area_um2", "pj"),
    "fpga": ("luts", "clock_mhz"),
    "energy": ("pj", "quality"),
}
"""Flows, with the metrics that their plot has along x and y unless the file says otherwise."""

_MOST_POINTS = 100_000
_KEYS = {"flow", "unit", "grid", "options", "plot"}


@dataclass(frozen=True)
class DesignPoint:
    """One configuration: a preset and what is changed in it."""

    unit: str
    changes: dict[str, Any]

    @property
    def arguments(self) -> list[str]:
        """The changes as `fgmp.hdl.config.changed` takes them."""
        return [f"{name}={value}" for name, value in self.changes.items()]

    def __str__(self) -> str:
        return " ".join([self.unit, *self.arguments])


@dataclass(frozen=True)
class SweepSpec:
    """The content of a sweep's file; `plot` are the metrics along x and y, `chosen` those of them that it names."""

    flow: str
    points: list[DesignPoint]
    options: dict[str, Any]
    plot: tuple[str, str]
    chosen: frozenset[str] = frozenset()

    def target(self, cells: StandardCells) -> Target:
        """The mapping that the options ask for."""
        o = self.options
        wire_load = cells.wire_load if o["wire_load"] else None
        return Target(cells, wire_load, o["period"], o["optimize"], o["clock_gates"], tuple(o["dont_use"]))

    def energy_request(self, point: DesignPoint, cache: Path) -> EnergyRequest:
        """The options of the flow "energy" at a point."""
        o = self.options
        return EnergyRequest(
            model=o["model"],
            texts=Texts(o["text"] or None, o["calibration"] or None, o["samples"], o["windows"]),
            fractions=tuple(map(float, o["fractions"])),
            activations=tuple(o["activations"]),
            engine=point.unit,
            changes=tuple(point.arguments),
            node_nm=float(o["node"]) or None,
            memory_factor=float(o["memory_factor"]),
            words=o["words"],
            captured=o["captured"],
            seed=o["seed"],
            glitches=False,  # minutes for every point
            cache=cache,
        )


def read_spec(path: Path) -> SweepSpec:
    """Read and check a sweep's TOML file, all of its points included.

    Raises InputError, naming the file and the key, for what it should not hold or lacks.
    """
    if not path.is_file():
        raise InputError(f"sweep {path}: not found, expected a TOML file")
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"sweep {path}: no TOML ({error})") from None
    try:
        return _plan(content)
    except InputError as error:
        raise InputError(f"sweep {path}: {error}") from None


def _plan(content: Mapping[str, Any]) -> SweepSpec:
    for key in content:
        if key not in _KEYS:
            raise InputError(f"key {key!r}, expected {', '.join(sorted(_KEYS))}")
    flow = content.get("flow", "asic")
    if not isinstance(flow, str) or flow not in FLOWS:
        raise InputError(f"flow: {flow!r}, expected one of {', '.join(FLOWS)}")
    options = dict(OPTIONS[flow])
    for key, value in _table(content, "options").items():
        if key not in options:
            raise InputError(f"options.{key}: not an option of {flow}, expected {', '.join(options)}")
        options[key] = _like(f"options.{key}", value, options[key])
    unit = content.get("unit", "engine" if flow == "energy" else "engine-lane")
    units = unit if isinstance(unit, list) else [unit]
    for name in units:
        if not isinstance(name, str):
            raise InputError(f"unit: {name!r}, expected the name of a preset")
    grid = {name: values if isinstance(values, list) else [values] for name, values in _table(content, "grid").items()}
    count = len(units) * math.prod(map(len, grid.values()))
    if count > _MOST_POINTS:
        raise InputError(f"grid: {count:,} points, expected at most {_MOST_POINTS:,}")
    points = [
        DesignPoint(name, dict(zip(grid, values, strict=True)))
        for name in units
        for values in itertools.product(*grid.values())
    ]
    if not points:
        raise InputError("grid: no points, expected at least one value for each parameter")
    plot = _table(content, "plot")
    for key in plot:
        if key not in ("x", "y"):
            raise InputError(f"plot.{key}: unknown, expected x and y")
    x, y = FLOWS[flow]
    axes = (str(plot.get("x", x)), str(plot.get("y", y)))
    spec = SweepSpec(flow, points, options, axes, frozenset(map(str, plot.values())))
    _check(spec)
    return spec


def _check(spec: SweepSpec) -> None:
    for point in spec.points:
        config = changed(preset(str(point.unit)), point.arguments)
        if spec.flow == "energy" and not isinstance(config, EngineConfig):
            raise InputError(f"unit: {point.unit!r}, expected the preset of an engine")
    if spec.flow == "fpga":
        device(spec.options["target"], spec.options["device"] or None, spec.options["package"] or None)
    if spec.flow == "energy":
        spec.energy_request(spec.points[0], Path()).check()
    if spec.options.get("optimize", "speed") not in ("speed", "area"):
        raise InputError(f"options.optimize: {spec.options['optimize']!r}, expected speed or area")
    for name, low, high in (("words", 1, 1024), ("seeds", 1, 1000), ("seed", 0, 1 << 31)):
        value = spec.options.get(name, low)
        if not low <= value <= high:
            raise InputError(f"options.{name}: {value}, expected {low} to {high}")
    for name, least, most in (("period", 1e-3, 1e6), ("mhz", 1.0, 1e4)):
        if not least <= spec.options.get(name, least) <= most:
            raise InputError(f"options.{name}: {spec.options[name]}, expected {least:g} to {most:g}")


def _table(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise InputError(f"{key}: {value!r}, expected a table [{key}]")
    return value


def _like(name: str, value: Any, default: Any) -> Any:
    """`value`, if it is of the kind that `default` is."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise InputError(f"{name}: {value!r}, expected a {type(default).__name__} such as {default!r}")
    return [_like(name, item, default[0]) for item in value] if isinstance(default, list) else value
