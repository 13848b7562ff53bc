"""The regression that `fgmp simulate` and the tests run: all campaigns of a preset, real model data included."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from ..errors import InputError
from ..hdl.config import LaneConfig, SelectorConfig
from ..hdl.config import preset as preset_config
from ..hdl.design import Design, build_preset
from ..quantizer.config import FGMPConfig
from ..quantizer.model.default_text import read_corpus
from ..quantizer.model.language_model import SHIPPED_MODEL, load_model, windows
from ..quantizer.prepare.linears import target_linears
from ..quantizer.study import Study
from .campaign import Campaign, check_names, named
from .capture import (
    LANE_PREFIX,
    SELECTOR_PREFIX,
    Capture,
    capture,
    captured_lane_campaign,
    captured_selector_campaign,
)
from .lane_campaigns import lane_campaigns, pair_campaigns
from .library import recorded
from .parts.regression import regress_part
from .parts.stimuli import PART_CONFIGS
from .runner import CACHE, CampaignResult, Simulator, check_tools
from .selector_campaigns import selector_campaigns
from .verilated_unit import VerilatedUnit
from .waves.recording import trace_format

__all__ = ["BENCHES", "campaigns_of", "captured_layers", "make_bench", "no_campaigns", "regress"]

BENCHES = ("fast", "cocotb")


@cache
def captured_layers(rows: int = 2) -> list[Capture]:
    """Every linear of the shipped model at 70 % FP4, with `rows` of its inputs; a short calibration suffices here."""
    language_model = load_model(SHIPPED_MODEL)
    corpus = read_corpus()
    samples = windows(language_model, corpus.train, 8, "training text")
    study = Study(language_model.model, samples, progress=False)
    variant = study.variant(FGMPConfig(threshold_samples=4), "FGMP")
    held_out = windows(language_model, corpus.held_out, 1, "held-out text")[0]
    return capture(study.model, study.sites, variant, held_out, rows)


def campaigns_of(
    design: Design, *, count: int = 4000, seed: int = 1, k: int | None = None, share: int = 1, model: bool = True
) -> list[Campaign]:
    """All campaigns of a lane or selector.

    `count` random rows or blocks, `k` their length (lane); one in `share` of the element pairs; `model` adds rows
    captured from the shipped model. Raises InputError for K beyond the accumulator or a unit without a bench.
    """
    if isinstance(design.config, LaneConfig):
        campaigns = lane_campaigns(design, count=count, seed=seed, k=k) + pair_campaigns(design, share=share)
        if model:
            campaigns += [captured_lane_campaign(design, layer, 16) for layer in captured_layers()]
        return campaigns
    if isinstance(design.config, SelectorConfig):
        if k is not None:
            raise InputError(f"K: {k}, expected none for a selector (it works block by block)")
        campaigns = selector_campaigns(design, count=count, seed=seed)
        if model:
            campaigns += [captured_selector_campaign(design, layer) for layer in captured_layers()]
        return campaigns
    raise no_campaigns(design.name)


def regress(
    preset: str,
    changes: Sequence[str] = (),
    *,
    count: int = 4000,
    seed: int = 1,
    k: int | None = None,
    share: int = 1,
    model: bool = True,
    simulator: str = "verilator",
    bench: str = "fast",
    only: Sequence[str] = (),
    waves_to: Path | None = None,
    cache_folder: Path = CACHE,
    announce: Callable[[str, int], None] | None = None,
    on_campaign: Callable[[str], None] | None = None,
) -> list[CampaignResult]:
    """Generate `preset` with `changes`, build it and run its campaigns; differences are counted, the rest raises.

    Units without streams, such as dot products, have activities in place of campaigns, of `count` vectors each.

    The `bench` is "fast" (a C++ loop) or "cocotb", which runs where the fast one cannot, in Icarus. `only` names the
    campaigns to run. The fast one records in `waves_to`: waveforms with the unit's view, or activities, by its suffix.
    `announce` is told the preset and how many campaigns there are, `on_campaign` the name of each that is done.
    """
    check_tools(simulator)
    if isinstance(preset_config(preset), PART_CONFIGS):
        if (bench, simulator) != ("fast", "verilator"):
            raise InputError(f"preset {preset}: has no streams, expected verilator and the fast bench")
        if waves_to is not None:
            raise InputError(f"waves: asked for of {preset}, expected a lane, a selector or an engine")
        design = build_preset(preset, changes, preset.replace("-", "_"))
        begin = (lambda total: announce(preset, total)) if announce else None
        return regress_part(
            design,
            count=count,
            seed=seed,
            only=only,
            cache=cache_folder,
            announce=begin,
            on_activity=on_campaign,
        )
    if waves_to is not None and (bench, simulator) != ("fast", "verilator"):
        raise InputError(f"waves: asked for with bench {bench} in {simulator}, expected the fast bench in verilator")
    design = build_preset(preset, changes, preset.replace("-", "_"))  # Verilator shortens very long names
    if only:
        model = _asks_for_model(design, only, model)
    campaigns = campaigns_of(design, count=count, seed=seed, k=k, share=share, model=model)
    if only:
        campaigns = named(campaigns, *only)
    if announce:
        announce(preset, len(campaigns))
    if waves_to is not None:
        traced = VerilatedUnit(design, trace=trace_format(waves_to), cache=cache_folder)
        with recorded(design, waves_to) as partial:
            return traced.run(campaigns, seed=seed, only_count=True, on_campaign=on_campaign, trace_to=partial)
    unit = make_bench(design, simulator=simulator, bench=bench, cache=cache_folder)
    return unit.run(campaigns, seed=seed, only_count=True, on_campaign=on_campaign)


def _asks_for_model(design: Design, names: Sequence[str], model: bool) -> bool:
    """Whether one of the names is a model's campaign, whose making takes long. Raises InputError for unknown names.

    Made small, the others tell their names at once.
    """
    small = campaigns_of(design, count=1, share=1 << 12, model=False)
    known = [campaign.name for campaign in small]
    if set(names) <= set(known):
        return False
    if model:
        prefix = LANE_PREFIX if isinstance(design.config, LaneConfig) else SELECTOR_PREFIX
        known += [prefix + linear for linear in target_linears(load_model(SHIPPED_MODEL).model, FGMPConfig().ignore)]
    check_names(names, known)
    return True


def make_bench(
    design: Design, *, simulator: str = "verilator", bench: str = "fast", cache: Path = CACHE
) -> Simulator | VerilatedUnit:
    """A compiled unit and what drives it: the C++ loop where it can, else cocotb, or cocotb where asked for."""
    if bench not in BENCHES:
        raise InputError(f"bench: {bench!r}, expected one of {', '.join(BENCHES)}")
    if bench == "fast" and simulator == "verilator":
        return VerilatedUnit(design, cache=cache)
    return Simulator(design, simulator=simulator, cache=cache)


def no_campaigns(name: str) -> InputError:
    """What is wrong with a unit that has no streams."""
    return InputError(f"preset {name}: has no campaigns, expected a lane, a selector or an engine")
