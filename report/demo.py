"""The demo: quantize a real language model, see what it loses and saves, and prove the Verilog on its own numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import check_folder, staged, write_json, write_text
from ..golden.lane import check_k
from ..golden.packed_file import save_packed
from ..golden.packing import unpack
from ..golden.vectors import write_vectors
from ..hdl.config import LaneConfig, SelectorConfig, preset
from ..hdl.design import Design, build_preset, write_design
from ..quantizer.config import FGMPConfig, check_fraction
from ..quantizer.evaluate.comparison import FP8, NVFP4, NVFP4_CLIPPED, Comparison, compare, uniform
from ..quantizer.evaluate.comparison_report import difference_lines, table_lines
from ..quantizer.evaluate.losses import whole_windows
from ..quantizer.model.default_text import read_corpus
from ..quantizer.model.language_model import load_model, windows
from ..quantizer.study import Study
from ..sim.capture import Capture, capture, captured_lane_campaign, captured_selector_campaign
from ..sim.regression import make_bench
from ..sim.runner import CampaignResult, check_tools
from ..sim.tally import totals
from .build import report

__all__ = ["DemoOptions", "run_demo"]

WINDOW = FGMPConfig().window
_BASELINES = {"paper": "fisher", "quantization-error": "quantization-error", "random": "random"}
"""The paper's method, and the policies that it compares with."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The options of `fgmp demo`; the defaults are the demo.

    `rows` and `outputs` say how much of one layer goes through the simulated lane.
    """

    model: Path
    text: Path | None
    out: Path
    fractions: tuple[float, ...] = (0.7, 0.9)
    samples: int = 64
    windows: int = 48
    rows: int = 24
    outputs: int = 512
    lane: str = "lane"
    selector: str = "selector"
    seed: int = 1
    simulator: str = "verilator"

    def check(self) -> None:
        """Raise InputError for anything that cannot work, before any work is done."""
        for fraction in self.fractions:
            check_fraction(fraction)
        if len({f"{fraction:g}" for fraction in self.fractions}) != len(self.fractions):
            raise InputError(f"FP4 fractions: {self.fractions}, expected each only once (to six digits)")
        if not 0 <= self.seed < 1 << 31:
            raise InputError(f"seed: {self.seed}, expected 0 to {(1 << 31) - 1}")
        if self.rows > WINDOW:
            raise InputError(f"rows: {self.rows}, expected at most {WINDOW}, the tokens of one window")
        check_folder(self.out)
        for name, minimum in (("samples", 1), ("windows", 2), ("rows", 1), ("outputs", 1)):
            if getattr(self, name) < minimum:
                raise InputError(f"{name}: {getattr(self, name)}, expected at least {minimum}")
        for name, kind in ((self.lane, LaneConfig), (self.selector, SelectorConfig)):
            if not isinstance(preset(name), kind):
                raise InputError(f"preset: {name!r}, expected a {kind.__name__.removesuffix('Config').lower()}")
        check_tools(self.simulator)
        if self.text is not None and not self.text.is_file():
            raise InputError(f"text {self.text}: not found, expected a text file")


def run_demo(options: DemoOptions, *, say: Callable[[str], None], progress: bool) -> dict[str, Any]:
    """Run the demo, write `options.out`, and return its numbers; `say` is given the lines for people."""
    options.check()
    language_model = load_model(options.model)
    train_text, held_out_text, source = _texts(options)
    say(f"model    {options.model}")
    say(f"text     {source}")
    calibration_windows = windows(language_model, train_text, options.samples, "calibration text")
    held_out = windows(language_model, held_out_text, options.windows, "held-out text")
    study = Study(language_model.model, calibration_windows, progress=progress)
    lane = preset(options.lane)
    assert isinstance(lane, LaneConfig)
    check_k(max(site.channels for site in study.sites), lane.k_max)
    formats = {FP8: uniform(False), NVFP4: uniform(True), NVFP4_CLIPPED: replace(uniform(True), clip=True)}
    for fraction in options.fractions:
        shares: dict[str, Any] = {"fp4_weights": fraction, "fp4_activations": fraction, "seed": options.seed}
        formats[_name(fraction)] = FGMPConfig(**shares)
        for name, policy in _BASELINES.items():
            formats[_name(fraction, name)] = FGMPConfig.paper(**shares, policy=policy)
    against = {_name(f, name): _name(f) for f in options.fractions for name in _BASELINES}
    comparison, variants = compare(study, formats, whole_windows(held_out), against=against)
    say("")
    for line in (*table_lines(comparison), "", *difference_lines(comparison), ""):
        say(line)
    chosen = variants[_name(options.fractions[0])]
    assert chosen.quantizers is not None
    fp8_shares = {site: q.fp8_blocks / q.blocks for site, q in chosen.quantizers.items()}
    layers = capture(study.model, study.sites, chosen, held_out[0], options.rows)
    results, designs = _simulate(options, layers, say)
    compared, differences = totals(results).values()
    say(f"results compared {compared:,}, differences {differences}")

    numbers = _numbers(options, source, comparison, results)
    weights = {name: unpack(packed, name).fp8_share for name, packed in chosen.weights.items()}
    numbers["shares"] = {"weights": weights, "activations": fp8_shares}
    numbers["scores"] = chosen.expected.scores if chosen.expected else None
    title = f"fgmp: {options.model.name} at {options.fractions[0]:.0%} FP4"
    with staged(options.out) as folder:
        for design in designs:
            write_design(design, folder / "verilog")
        for fraction in options.fractions:
            save_packed(folder / f"packed-{fraction:g}.safetensors", variants[_name(fraction)].weights)
        for unit in ("lane", "selector"):
            write_vectors(unit, 200, options.seed, folder / "vectors")
        write_json(folder / "results.json", numbers)
        write_text(folder / "report.html", report([folder], title))
    say(f"written  {options.out}/ (open {options.out / 'report.html'})")
    for result in results:
        if result.first:
            say(result.first)
    return numbers


def _name(fraction: float, baseline: str = "") -> str:
    return f"FGMP {fraction:g} {baseline}".rstrip()


def _texts(options: DemoOptions) -> tuple[str, str, str]:
    """Calibration text, held-out text, and where they come from."""
    if options.text is None:
        corpus = read_corpus()
        return corpus.train, corpus.held_out, f"this Python's sources and documentation, SHA-256 {corpus.digest}"
    try:
        text = options.text.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"text {options.text}: not UTF-8 at byte {error.start}, expected a text file") from None
    return (
        text[: len(text) // 2],
        text[len(text) // 2 :],
        f"{options.text}: first half calibrates, second half evaluates",
    )


def _simulate(
    options: DemoOptions, layers: Sequence[Capture], say: Callable[[str], None]
) -> tuple[list[CampaignResult], list[Design]]:
    """One layer through the lane, all sites' activations through the selector."""
    layer = next((la for la in layers if la.name.endswith("gate_proj")), layers[-1])
    outputs = min(options.outputs, layer.weight.shape[0])
    results: list[CampaignResult] = []
    designs = [build_preset(name) for name in (options.lane, options.selector)]
    for name, design in zip((options.lane, options.selector), designs, strict=True):
        if isinstance(design.config, LaneConfig):
            campaigns = [captured_lane_campaign(design, layer, outputs)]
        else:
            campaigns = [captured_selector_campaign(design, la) for la in layers if la.name in _first_readers(layers)]
        say(f"simulate {name}: {sum(len(c.results) for c in campaigns):,} results of real model data ...")
        results += make_bench(design, simulator=options.simulator).run(campaigns, only_count=True)
    return results, designs


def _first_readers(layers: Sequence[Capture]) -> set[str]:
    """One linear per site: those that share their settings read the same activations."""
    seen: dict[int, str] = {}
    for layer in layers:
        seen.setdefault(id(layer.settings), layer.name)
    return set(seen.values())


def _numbers(
    options: DemoOptions, source: str, comparison: Comparison, results: Sequence[CampaignResult]
) -> dict[str, Any]:
    return {
        "schema": "fgmp-demo/1",
        "model": str(options.model),
        "text": source,
        **comparison.as_json(),
        **totals(results),
        "cycles": sum(r.cycles for r in results),
        "calibration": f"{options.samples} windows of {WINDOW} tokens",
        "hardware": [options.lane, options.selector],
        "out": str(options.out),
    }
