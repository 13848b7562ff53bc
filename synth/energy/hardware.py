"""Lanes, accumulators and selector in one library, at one clock, fed with a model's own operands."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ... import __version__
from ...cache import cached
from ...errors import InputError
from ...formats import PRECISION_MODES
from ...golden.blocks import to_blocks
from ...hdl.config import ActivationDecoderConfig, EngineConfig, EngineLaneConfig, RowOrderConfig, SelectorConfig
from ...hdl.design import Design, build
from ...hdl.unit_config import FORMATS
from ...hdl.wrappers import RAM_MODULE
from ...sim.capture import Capture
from ...sim.parts.around_lane import accumulator_stimulus, decoder_stimulus, row_order_stimulus
from ...sim.parts.stimuli import selector_stimulus
from ...sim.parts.stimulus import Stimulus
from ...sim.parts.weight_stationary import PROLOGUE, Tile, weight_stationary
from ...sim.parts.words import Words
from ...sim.selector_campaigns import BlockSet
from ..asic.flow import Implementation, cells_without_power, implement, simulate
from ..asic.glitches import glitch_factors
from ..asic.mapping import Target
from .memory_model import MemoryModel
from .tiles import CHANGES, mode_streams

__all__ = [
    "Glitches",
    "Hardware",
    "PartEnergy",
    "accumulator_energy",
    "build_hardware",
    "check_tables",
    "decoder_energy",
    "depth_of",
    "lane_energy",
    "lane_name",
    "measured_selector",
    "measured_total",
    "row_order_energy",
    "selector_energy",
    "weighted",
]

_SELECTOR_CYCLES = 64
_GLITCH_CYCLES = 12
_SOME = slice(64)
"""Streams that are enough for what surrounds a lane."""
_METHOD = 3
"""Changes with whatever changes the energy of the same gates: simulator, meter, buffers, timing."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One engine's units and those of its FP8-only counterparts.

    Attributes:
        engine: what the units are of.
        mixed: its lane.
        fp8: lanes for FP8 only that reach the clock of `mixed` (the fastest one, where none does).
        accumulators: of one lane.
        decoder, fp8_decoder: of activations, for all lanes.
        row_order: the generator of the order of rows, where the engine has one.
        selector: for the engine's input.
        memory: the block buffers.
        period: in ns, of the slowest of lanes and whole engine; all leak for as long.
        cache: where measurements are kept.
    """

    engine: EngineConfig
    mixed: Implementation
    fp8: tuple[Implementation, ...]
    accumulators: Implementation
    decoder: Implementation
    fp8_decoder: Implementation
    row_order: Implementation | None
    selector: Implementation
    memory: MemoryModel
    period: float
    cache: Path


def check_tables(target: Target) -> None:
    """Raise InputError, before long work, where a library says nothing of delay or of energy."""
    timed = any(c.outputs and c.has_timing for c in target.usable)
    for what, there in (("timing", timed), ("internal_power", any(c.has_power for c in target.usable))):
        if not there:
            raise InputError(f"{target.cells.source}: no {what} tables, expected them for energy")


def build_hardware(
    engine: EngineConfig, target: Target, memory: MemoryModel, cache: Path, on_step: Callable[[str], None]
) -> Hardware:
    """Map all units. FP8-only lanes are built at the engine's pipeline depth and one less, with cells sized for speed
    and for the mixed lane's clock; they are judged by energy later.

    Raises InputError where the library has no tables of delay or energy.
    """
    lane = engine.lane
    on_step("mapping the lane")
    mixed = implement(build(lane, "engine_lane"), target, cache)
    if mixed.timing is None:
        raise InputError(f"{target.cells.source}: no timing tables, expected them for energy")
    if missing := cells_without_power(mixed.netlist):
        raise InputError(f"{target.cells.source}: no internal_power tables for {missing}, expected them for energy")
    others = []
    for depth in sorted({min(lane.pipeline, 4), max(lane.pipeline - 1, 0)}, reverse=True):
        design = build(EngineLaneConfig(lane.k_max, depth, "fp8"), "engine_lane_fp8")
        for period in dict.fromkeys((target.period, max(target.period, mixed.timing.period))):
            on_step(f"mapping the FP8-only lane, pipeline {depth}, for {period:.3g} ns")
            others.append(implement(design, replace(target, period=period), cache))
    reach = [unit for unit in others if _period(unit) <= _period(mixed)]
    fp8 = tuple(reach) or (min(others, key=_period),)
    # What surrounds the lanes has slack: cells sized for their clock.
    relaxed = replace(target, period=max(target.period, mixed.timing.period))
    on_step("mapping what surrounds the lanes")
    accumulators = implement(_accumulators(engine), relaxed, cache)
    decoders = [
        implement(build(ActivationDecoderConfig(formats), f"activation_decoder_{formats}"), relaxed, cache)
        for formats in FORMATS
    ]
    row_order = None
    if engine.row_order != "ascending":
        row_order = implement(build(RowOrderConfig(engine.rows), "row_order"), relaxed, cache)
    on_step("mapping the selector")
    selector = implement(build(measured_selector(engine), "selector"), relaxed, cache)
    on_step("mapping the engine, whose clock counts")
    whole = implement(build(engine, "engine"), target, cache)
    period = max(map(_period, (mixed, *fp8, whole)))
    return Hardware(
        engine=engine,
        mixed=mixed,
        fp8=fp8,
        accumulators=accumulators,
        decoder=decoders[0],
        fp8_decoder=decoders[1],
        row_order=row_order,
        selector=selector,
        memory=memory,
        period=period,
        cache=cache,
    )


def measured_selector(engine: EngineConfig) -> SelectorConfig:
    """The selector that an engine is charged for: that of its input, or one for float32 where it has none."""
    return engine.input_selector or engine.selector("float32")


def _accumulators(engine: EngineConfig) -> Design:
    """One lane's; a memory is built of flip-flops, as there is no macro."""
    design = build(engine.accumulators_of(1), "accumulators")
    return replace(design, verilog=design.verilog.replace(RAM_MODULE, "registers"))


class Glitches:
    """How much more the lanes and what surrounds them take with delays, measured once for each unit and precision mode.

    It hardly depends on the data beyond that: the first row of a table that has a mode measures it for all.
    """

    def __init__(self, hardware: Hardware):
        self._hardware = hardware
        self._factors: dict[tuple[str, str], float] = {}

    def lane(self, unit: Implementation, tile: Tile, order: Tensor, shares: Mapping[str, float]) -> dict[str, float]:
        """Factors of a lane by precision mode, and under "changes"."""
        wanted = [name for name in PRECISION_MODES if shares[name]]
        if len(wanted) > 1:
            wanted.append(CHANGES)
        if any((unit.identity, name) not in self._factors for name in wanted):
            part, visited = tile[_SOME], order[_SOME]
            stimulus = Stimulus("model data", *weight_stationary(unit.design, part, visited))
            steady = mode_streams(
                part, visited, stimulus.cycles, PROLOGUE, unit.design.config.latency + 1, stimulus.warmup
            ).steady
            for name, factor in self._measured(unit, stimulus, steady).items():
                self._factors.setdefault((unit.identity, name), factor)
        known = {name: self._factors[unit.identity, name] for name in wanted if (unit.identity, name) in self._factors}
        return {name: known.get(name, max(known.values())) for name in wanted}

    def other(self, unit: Implementation, stimulus: Stimulus) -> float:
        """The factor of a unit that has no modes."""
        if (unit.identity, "") not in self._factors:
            self._factors[unit.identity, ""] = self._measured(unit, stimulus, None)[""]
        return self._factors[unit.identity, ""]

    def _measured(
        self, unit: Implementation, stimulus: Stimulus, shares: Mapping[str, Words] | None
    ) -> dict[str, float]:
        cycles = np.linspace(stimulus.warmup + 8, stimulus.cycles - 2, _GLITCH_CYCLES).astype(int).tolist()
        key = {
            "unit": unit.identity,
            "stimulus": content_digest(stimulus, shares),
            "cycles": cycles,
            "version": (str(__version__), _METHOD),
        }
        return dict(
            cached(self._hardware.cache, "glitches", key, lambda: glitch_factors(unit, stimulus, cycles, shares))
        )


def lane_energy(
    hardware: Hardware, unit: Implementation, tile: Tile, order: Tensor, shares: Mapping[str, float]
) -> dict[str, Any]:
    """pJ of a lane per block pair: `by_mode` (steady and, under "changes", in between) and `pj`, weighted by
    `shares`, those of the model's pairs, with `changes` as often as they are in the tile, whose rows come in `order`.
    """
    design = unit.design
    stimulus = Stimulus("model data", *weight_stationary(design, tile, order))
    streams = mode_streams(tile, order, stimulus.cycles, PROLOGUE, design.config.latency + 1, stimulus.warmup)
    measured = measured_total(hardware, unit, stimulus, "model data", streams.steady)
    total = weighted(measured, streams.changing, shares)
    changing = sum(shares[name] * streams.changing[name] for name in PRECISION_MODES)
    return {"pj": total, "by_mode": measured, "changing_share": changing, "changes": streams.changing}


def weighted(by_mode: Mapping[str, float], changes: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """The mean of a model: energies by precision mode, and how often the mode changes."""
    total = 0.0
    for name in PRECISION_MODES:
        steady = by_mode.get(name, max(by_mode.values()))  # one that is too rare to be drawn counts as the dearest
        total += shares[name] * ((1 - changes[name]) * steady + changes[name] * by_mode.get(CHANGES, steady))
    return total


class PartEnergy(NamedTuple):
    """pJ per cycle without and with glitches; the latter is None where they are not asked for."""

    plain: float
    timed: float | None


def part_energy(
    hardware: Hardware, unit: Implementation, stimulus: Stimulus, what: str, glitches: Glitches | None
) -> PartEnergy:
    """Energy of something that has no precision modes."""
    plain = measured_total(hardware, unit, stimulus, what)[""]
    return PartEnergy(plain, None if glitches is None else plain * glitches.other(unit, stimulus))


def accumulator_energy(hardware: Hardware, tile: Tile, order: Tensor, glitches: Glitches | None) -> PartEnergy:
    """A lane's accumulators, per block pair."""
    unit = hardware.accumulators
    stimulus = accumulator_stimulus(unit.design, tile[_SOME], order[_SOME])
    return part_energy(hardware, unit, stimulus, "sums", glitches)


def decoder_energy(
    hardware: Hardware, tile: Tile, order: Tensor, glitches: Glitches | None, *, fp8_only: bool
) -> PartEnergy:
    """The decoder of activations, per cycle."""
    unit = hardware.fp8_decoder if fp8_only else hardware.decoder
    return part_energy(
        hardware, unit, decoder_stimulus(unit.design, tile[_SOME], order[_SOME]), "activations", glitches
    )


def row_order_energy(hardware: Hardware, tile: Tile, order: Tensor, glitches: Glitches | None) -> PartEnergy:
    """The generator of the order of rows, per cycle."""
    unit = hardware.row_order
    if unit is None:
        return PartEnergy(0.0, None if glitches is None else 0.0)
    stimulus = row_order_stimulus(unit.design, tile[_SOME], order[_SOME], hardware.engine.row_order)
    return part_energy(hardware, unit, stimulus, "order of rows", glitches)


def selector_energy(
    hardware: Hardware, layers: Sequence[Capture], words: int, seed: int, glitches: Glitches | None
) -> tuple[PartEnergy, float]:
    """A cycle in which a block of 16 activations is quantized, with runs of blocks drawn from the layers' inputs, and
    pJ of one without a block.
    """
    rng = np.random.default_rng(seed)
    blocks = [to_blocks(layer.x).flatten(0, 1) for layer in layers]
    usable = [i for i, b in enumerate(blocks) if len(b) >= _SELECTOR_CYCLES]
    if not usable:
        raise InputError(f"model: no site with {_SELECTOR_CYCLES} blocks of activations, expected at least one")
    work = np.array([len(blocks[i]) for i in usable], dtype=float)
    sets = []
    for i in rng.choice(usable, 64 * words, p=work / work.sum()):
        start = int(rng.integers(0, len(blocks[i]) - _SELECTOR_CYCLES + 1))
        settings = layers[i].settings
        places = slice(start, start + _SELECTOR_CYCLES)
        if settings.static_fp8 is not None:
            settings = replace(settings, static_fp8=settings.static_fp8.repeat(len(layers[i].x))[places])
        sets.append(BlockSet(blocks[i][places], replace(settings, channel_codes=None)))
    stimulus = selector_stimulus(hardware.selector.design, sets, "model activations")
    busy = part_energy(hardware, hardware.selector, stimulus, "model activations", glitches)
    still = {name: words[:1] for name, words in stimulus.inputs.items() if name != "rst"}
    still |= {"rst": stimulus.inputs["rst"], "i_valid": np.zeros_like(stimulus.inputs["i_valid"][:1])}
    idle = measured_total(hardware, hardware.selector, replace(stimulus, inputs=still, expected={}), "idle")[""]
    return busy, idle


def measured_total(
    hardware: Hardware, unit: Implementation, stimulus: Stimulus, what: str, shares: Mapping[str, Words] | None = None
) -> dict[str, float]:
    """pJ per cycle with leakage at the common clock, by share; shares without a cycle are left out.

    Kept by the content of netlist and stimulus, so that a run that was stopped continues.
    """
    key = {
        "unit": unit.identity,
        "stimulus": content_digest(stimulus, shares),
        "cycles": (stimulus.cycles, stimulus.warmup),
        "version": (str(__version__), _METHOD),
    }

    def measure() -> dict[str, Any]:
        meters = simulate(unit, stimulus, what, shares)
        energies = {name: replace(meter.energy(), by_instance={}) for name, meter in meters.items() if meter.cycles}
        return {name: {"dynamic": e.dynamic, **asdict(e)} for name, e in energies.items()}

    measured = cached(hardware.cache, "energy", key, measure)
    return {name: e["dynamic"] + e["leakage_nw"] * hardware.period * 1e-6 for name, e in measured.items()}


def content_digest(stimulus: Stimulus, shares: Mapping[str, Words] | None) -> str:
    """SHA-256 of all that decides what a stimulus does and how it is metered."""
    content = sha256()
    answers = [(f"expected {name} {at.tolist()}", words) for name, (at, words) in stimulus.expected.items()]
    for name, words in sorted([*stimulus.inputs.items(), *answers, *(shares or {}).items()], key=lambda item: item[0]):
        content.update(f"{name} {words.shape}".encode())
        content.update(np.ascontiguousarray(words).tobytes())
    return content.hexdigest()


def lane_name(unit: Implementation) -> str:
    """Tells lanes apart: pipeline depth, and the period that the cells were sized for."""
    return f"pipeline {depth_of(unit)}, cells for {unit.target.period:.3g} ns"


def depth_of(unit: Implementation) -> int:
    """A lane's pipeline depth."""
    config = unit.design.config
    assert isinstance(config, EngineLaneConfig)
    return config.pipeline


def _period(unit: Implementation) -> float:
    assert unit.timing is not None
    return unit.timing.period
