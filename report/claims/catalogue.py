"""The claims, and the commands that measure them. A claim names a figure; a table, several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...quantizer.model.language_model import SHIPPED_MODEL
from ...synth.energy.energy_report import energy_tables

__all__ = ["CLAIMS", "FRACTIONS", "PAPER_POINT", "RUNS", "TABLES", "Claim", "Run", "Table", "quality_points"]

Rows = list[list[str]]


@dataclass(frozen=True)
class Run:
    """Commands that measure something, one after the other; the last prints JSON.

    In their words, `{out}` is a folder for what they write, `{model}` the shipped model, `{liberty}` a Liberty file.
    `minutes` is about what they take on two cores.
    """

    name: str
    commands: Sequence[str]
    minutes: float

    @property
    def needs_liberty(self) -> bool:
        """Whether it measures standard cells."""
        return any("{liberty}" in command for command in self.commands)

    def words(self, command: str, **places: str) -> list[str]:
        """One of `commands` as words, with its places filled."""
        return [word.format(model=SHIPPED_MODEL, **places) for word in command.split()]


FRACTIONS = (0.5, 0.7, 0.8, 0.9)
"""Of blocks in FP4, at which refinements are measured."""

_STEPS = {"paper": "the paper's method", "paper,gptq": "+ error compensation", "paper,energy": "+ chosen by energy",
          "": "all refinements"}  # fmt: skip
_REFINED = " ".join(f"fgmp:{p:g}{',' + step if step else ''}" for step in _STEPS for p in FRACTIONS)

RUNS = {
    run.name: run
    for run in (
        Run("demo", ["fgmp demo -o {out}/demo --json"], 2),
        Run(
            "energy",
            [
                "fgmp energy --liberty {liberty} --formats fgmp:0.7 fgmp:0.8 fgmp:0.9 fgmp:0.7,static fgmp:0.8,static "
                "fgmp:0.9,static fgmp:0.7,paper fgmp:0.9,paper fgmp:0.7,paper,static fgmp:0.9,paper,static "
                "-o {out}/energy --json"
            ],
            10,
        ),
        Run(
            "refinements",
            [f"fgmp energy --liberty {{liberty}} --formats {_REFINED} --no-glitches -o {{out}}/refinements --json"],
            15,
        ),
        Run("units", ["fgmp simulate lane selector --json"], 3),
        Run("engine", ["fgmp simulate engine --json"], 5),
        Run(
            "model",
            [
                "fgmp quantize {model} {out}/model --calibration python:train --fp4-fraction 0.7",
                "fgmp simulate --model {out}/model --tokens 32 --json",
            ],
            2,
        ),
        Run("coverage", ["fgmp coverage --json"], 4),
        Run("proofs", ["fgmp prove --workers 2 --json"], 6),
        Run("mutants-lane", ["fgmp mutants lane-1k --workers 2 -o {out}/mutants --json"], 5),
        Run("mutants-selector", ["fgmp mutants selector-four-over-six --workers 2 -o {out}/mutants --json"], 10),
        Run("mutants-lane-source", ["fgmp mutants lane-1k --in source --workers 2 -o {out}/mutants --json"], 5),
        Run(
            "mutants-selector-source",
            ["fgmp mutants selector-four-over-six --in source --workers 2 -o {out}/mutants --json"],
            10,
        ),
        Run(
            "area",
            [
                "fgmp synth asic engine-lane engine-lane-merged lane accumulators activation-decoder row-order "
                "selector selector-four-over-six --liberty {liberty} --json"
            ],
            5,
        ),
    )
}
"""By name."""


@dataclass(frozen=True)
class Claim:
    """A figure that documents state.

    Attributes:
        name: by which documents ask for it.
        text: what it is of; empty for a figure that is not a row of the table of claims.
        paper: what arXiv 2504.14152 says, of Llama-2-7B; empty where it says nothing.
        run: which of `RUNS` it comes from.
        figure: from that run's JSON, as it is stated.
    """

    name: str
    text: str
    paper: str
    run: str
    figure: Callable[[Any], str]


def _named(rows: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next(row for row in rows if row["name"] == name)


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _above(data: Any, name: str) -> str:
    """Perplexity above FP8."""
    return f"{_named(data['rows'], name)['degradation_percent']['value']:+.1f} %"


def _recovered(data: Any, name: str) -> str:
    return _percent(_named(data["rows"], name)["recovered"]["value"])


def _row(name: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda data: _named(data["rows"], name)


def _energy(name: str, key: str, digits: int = 1) -> Callable[[Any], str]:
    return lambda data: _percent(_named(data["rows"], name)[key], digits)


def _packed_selector(data: Any) -> str:
    return _percent(_named(data["rows"], "FGMP 0.7")["selector_by_layer"][0]["packed"], 2)


def _phase(name: str, key: str, form: str) -> Callable[[Any], str]:
    return lambda data: format(_named(data["phases"], name)[key], form)


def _busy(data: Any) -> str:
    rows = data["presets"]["engine"]["performance"]
    return _percent(next(row for row in rows if row["fp4_fraction"] == 0.7)["utilization"])


def _compared(data: Any) -> str:
    return f"{data['compared']:,} results, {data['differences']:,} differences"


def _score(data: Any) -> str:
    (unit,) = data
    return f"{_percent(unit['score'])} of {unit['mutants'] - unit['equivalent']:,}"


CLAIMS = (
    Claim("perplexity", "perplexity above FP8, 70 % FP4", "below 1 %", "demo", lambda d: _above(d, "FGMP 0.7")),
    Claim("recovered", "loss of NVFP4 that is won back, 70 % FP4", "", "demo", lambda d: _recovered(d, "FGMP 0.7")),
    Claim("paper-recovered", "... by the paper's method, here", "", "demo", lambda d: _recovered(d, "FGMP 0.7 paper")),
    Claim("energy", "energy saved, 70 % FP4", "14 %", "energy", _energy("FGMP 0.7", "saving")),
    Claim("energy-glitches", "... with glitches", "", "energy", _energy("FGMP 0.7", "saving_with_glitches")),
    Claim("energy-90", "... at 90 % FP4", "", "energy", _energy("FGMP 0.9", "saving")),
    Claim("clock", "", "", "energy", lambda d: f"{d['clock_mhz']:.0f} MHz"),
    Claim("weights", "weight memory saved, 70 % FP4", "30 %", "energy", _energy("FGMP 0.7", "weight_saving")),
    Claim(
        "selector", "selector's energy over the lanes', 4,096 x 4,096, packed input", "below 1 %", "energy",
        _packed_selector,
    ),
    Claim("decoding", "decoding, times as fast as FP8", "", "model", _phase("decode", "speedup", ".2f")),
    Claim("busy", "cycles in which all lanes work, M = 64, N = 256, K = 1,024", "", "engine", _busy),
    Claim("units-compared", "Verilog of lane and selector against the golden model", "", "units", _compared),
    Claim("engine-compared", "Verilog of the engine", "", "engine", _compared),
    Claim("model-compared", "a language model on the simulated engine", "", "model", _compared),
    Claim(
        "proofs", "proven for all inputs", "", "proofs",
        lambda d: f"{d['proven']} properties, {sum(p['cases'] for p in d['properties']):,} cases",
    ),
    Claim("mutants-lane", "planted faults noticed, lane", "", "mutants-lane", _score),
    Claim("mutants-selector", "planted faults noticed, selector", "", "mutants-selector", _score),
    Claim("mutants-lane-source", "the same in the source, lane", "", "mutants-lane-source", _score),
    Claim("mutants-selector-source", "the same in the source, selector", "", "mutants-selector-source", _score),
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of a document: its run, and the rows that it makes of that run's JSON, the head first."""

    run: str
    rows: Callable[[Any], Rows]


_DEMO_NAMES = {
    "float32": "float32",
    "FP8": "all FP8",
    "NVFP4": "all NVFP4",
    "NVFP4 clip": "... clipped by sensitivity",
    "FGMP 0.7": "**FGMP, energy and memory of 70 % FP4**",
    "FGMP 0.7 paper": "... the paper's method, 70 % FP4",
    "FGMP 0.7 quantization-error": "... by quantization error",
    "FGMP 0.7 random": "... at random",
    "FGMP 0.9": "**FGMP, energy and memory of 90 % FP4**",
    "FGMP 0.9 paper": "... the paper's method, 90 % FP4",
}


def _demo(data: Any) -> Rows:
    rows = [["format", "perplexity", "against FP8", "KL from float32", "gap recovered", "weight bytes, FP8 = 1"]]
    for name, shown in _DEMO_NAMES.items():
        row = _named(data["rows"], name)
        above, kl, recovered = row["degradation_percent"], row["kl"], row["recovered"]
        gap = ""
        if recovered:
            gap = _percent(recovered["value"], 1 if recovered["error"] else 0)
            gap = f"**{gap}**" if shown.startswith("**") else gap
            gap += f" ± {100 * recovered['error']:.1f}" if recovered["error"] else ""
        rows.append(
            [
                shown, f"{row['perplexity']['value']:.3f}",
                f"{above['value']:+.1f} %" if above and name != "FP8" else "", f"{kl['value']:.4f}" if kl else "",
                gap, f"{row['weight_bytes_vs_fp8']:.3f}",
            ]
        )  # fmt: skip
    return rows


def _saved(data: Any) -> Rows:
    head = ["energy saved", "with glitches", "without buffers", "of the lane alone", "weight memory saved"]
    keys = ("saving", "saving_with_glitches", "saving_without_buffers", "saving_of_lane", "weight_saving")
    rows = [["", *head, "perplexity against FP8"]]
    for row in data["rows"][1:]:
        above = row["above_fp8_percent"]
        rows.append(
            [row["name"], *(_percent(row[key]) for key in keys), f"{above['value']:+.2f} % ± {above['error']:.2f}"]
        )
    paper = data["paper"]
    saved, memory = (_percent(paper[key], 0) for key in ("energy_saving", "weight_saving"))
    return [*rows, ["paper, Llama-2-7B, 70 % FP4", saved, "", "", "", memory, "below +1 %"]]


_PARTS = {
    "lane": "lane", "accumulators": "accumulators", "activation_buffer": "activations", "weight_buffer": "weights",
    "decoder": "decoder", "row_order": "order of rows", "selector": "selector",
}  # fmt: skip


def _parts(data: Any) -> Rows:
    rows = [["", *_PARTS.values(), "total"]]
    for row in data["rows"]:
        values = [row["parts_pj"][part] for part in _PARTS]
        rows.append([row["name"], *(f"{v:.2f}" if v else "" for v in values), f"{row['pj']:.1f}"])
    return rows


def _steps(data: Any) -> Rows:
    """Energy and KL divergence of each refinement at each fraction."""
    rows = [["", *(f"{p:.0%} FP4: energy, KL" for p in FRACTIONS)]]
    for shown, points in quality_points(data).items():
        rows.append([shown, *(f"{energy:.3f}, {kl:.4f} ± {error:.4f}" for energy, kl, error in points)])
    return rows


PAPER_POINT = 0.86
"""The paper's energy over FP8-only hardware: 14 % saved at 70 % FP4."""


def quality_points(data: Any) -> dict[str, list[tuple[float, float, float]]]:
    """Of each refinement, by fraction: energy over FP8-only hardware, KL divergence and its standard error."""
    points = {}
    for step, shown in _STEPS.items():
        names = [" ".join([f"FGMP {p:g}", *filter(None, step.split(","))]) for p in FRACTIONS]
        rows = [_named(data["rows"], name) for name in names]
        points[shown] = [(1 - row["saving"], row["kl"]["value"], row["kl"]["error"]) for row in rows]
    return points


def _of_tables(title: str) -> Callable[[Any], Rows]:
    """The table of `fgmp energy` whose title begins so."""
    return lambda data: next(rows for found, rows in energy_tables(data) if found.startswith(title))


def _synthesized(data: Any, lanes: bool) -> Rows:
    """Area, clock rate, and pJ a cycle: of lanes by precision mode, of others with random values."""
    rows: Rows = []
    for unit in data:
        name, area, energy = unit["unit"].replace("_", "-"), unit["area"], unit["energy"]
        if ("lane" in name) != lanes:
            continue
        clock = unit["timing"]["clock_mhz"]
        pj = energy if lanes else energy[-1:]
        rows = rows or [["", "area, um²", "clock, MHz", *(e["activity"] if lanes else "pJ a cycle" for e in pj)]]
        rows.append(
            [f"`{name}`", f"{area['total_um2']:,.0f}", f"{clock:.1f}", *(f"{e['pj_per_cycle']:.1f}" for e in pj)]
        )
    return rows


def _covered(data: Any) -> Rows:
    rows = [["", "bins", "lines", "branches", "toggles"]]
    for unit in data:
        bins, parts = unit["functional"], unit["structure"]
        shares = (_percent(parts[kind]["covered"] / parts[kind]["total"]) for kind in ("line", "branch", "toggle"))
        rows.append([f"`{unit['unit'].replace('_', '-')}`", f"{bins['covered']} of {bins['total']}", *shares])
    return rows


TABLES = {
    "coverage": Table("coverage", _covered),
    "demo": Table("demo", _demo),
    "saved": Table("energy", _saved),
    "parts": Table("energy", _parts),
    "steps": Table("refinements", _steps),
    "modes": Table("energy", _of_tables("lane, pJ")),
    "expected": Table("energy", _of_tables("expected by")),
    "lanes": Table("area", lambda data: _synthesized(data, True)),
    "around": Table("area", lambda data: _synthesized(data, False)),
}
"""By name."""
