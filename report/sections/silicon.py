"""Area, clock rate and energy: `fgmp synth asic` and `fpga`, `fgmp energy`, `fgmp sweep`."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ...synth.energy.energy_report import DRAWINGS, energy_tables
from ...synth.sweep.sweep_report import draw_sweep, sweep_rows
from ..elements import Picture, Section, Table, Text
from ..picture import draw

__all__ = ["SECTIONS"]


def asic_section(result: Mapping[str, Any]) -> Section:
    """One unit in a standard-cell library."""
    area, timing, energy = result["area"], result["timing"], result["energy"]
    facts = [
        ("library", result["library"]["name"]),
        ("area", f"{area['total_um2']:,.0f} um²"),
        ("cells", f"{area['cells']:,}"),
        ("flip-flops", f"{area['flip_flops']:,}, {area['sequential_share']:.0%} of the area"),
    ]
    parts: list[Any] = [_floor(area["by_hierarchy"], area["total_um2"])]
    if timing and timing["clock_mhz"]:
        facts.append(("clock", f"{timing['clock_mhz']:,.1f} MHz ({timing['period_ns']:.3f} ns)"))
        parts.append(_longest_path([(f"{p['cell'] or 'input'} {p['net']}", p["delay"]) for p in timing["path"]]))
        rows = [[kind, f"{longest:.3f}"] for kind, longest in timing["longest_ns"].items()]
        parts.append(Table(["paths", "longest, ns"], rows))
    if energy:
        rows = [
            [e["activity"], f"{e['pj_per_cycle']:.3f}", *(f"{value:.3f}" for value in e["parts_pj"].values())]
            for e in energy
        ]
        head = ["activity", "pJ/cycle", *(name.replace("_", " ") for name in energy[0]["parts_pj"])]
        parts.append(Table(head, rows, "Energy by activity, pJ a cycle"))
    parts += [Text(f"Note: {caveat}.") for caveat in result["caveats"]]
    return Section(f"{result['unit']} in standard cells", "", [*_parameters(result), *facts], parts)


def _floor(parts: Sequence[Mapping[str, Any]], total: float) -> Picture:
    """Areas side by side, what is inside of what below it."""
    boxes = []
    cursor = {0: 0.0}
    for part in parts:
        depth = part["depth"]
        begin = cursor.get(depth, 0.0)
        boxes.append((part["part"], depth, begin, part["area_um2"]))
        cursor[depth], cursor[depth + 1] = begin + part["area_um2"], begin
    depths = 1 + max((depth for _, depth, _, _ in boxes), default=0)

    def onto(axes: Any) -> None:
        from matplotlib import colormaps

        colors = colormaps["tab20"]
        for index, (name, depth, begin, area) in enumerate(boxes):
            axes.barh(depth, 100 * area / total, left=100 * begin / total, height=0.94, color=colors(index % 20),
                      alpha=0.7, edgecolor="#ffffff")  # fmt: skip
            if area > 0.012 * len(name) * total:
                axes.annotate(name, (100 * (begin + area / 2) / total, depth), ha="center", va="center", fontsize=8)
        axes.set_xlim(0, 100)
        axes.invert_yaxis()
        axes.set_yticks([])
        axes.set_xlabel("% of the area; what is inside a part stands below it")

    return draw("Floor of areas", onto, size=(10, 0.45 * depths + 1))


def _longest_path(steps: Sequence[tuple[str, float]]) -> Picture:
    def onto(axes: Any) -> None:
        begin = 0.0
        for index, (_, delay) in enumerate(steps):
            axes.barh(index, delay, left=begin, color="#4a7fb0")
            begin += delay
        axes.set_yticks(range(len(steps)), [name[-60:] for name, _ in steps], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("ns")

    return draw("Longest path: what drives each net, and when", onto, size=(10, 0.2 * len(steps) + 1))


def fpga_section(result: Mapping[str, Any]) -> Section:
    """One unit on an FPGA."""
    target, clock = result["target"], result["clock_mhz"]
    rates = list(clock["by_seed"].values())
    facts = [
        ("device", f"{target['family']} {target['device']} {target['package']}"),
        ("clock", f"{clock['median']:.1f} MHz, median of {len(rates)} seeds ({min(rates):.1f} to {max(rates):.1f})"),
    ]
    rows = [
        [kind, f"{count['used']:,}", f"{count['available']:,}", f"{count['used'] / count['available']:.0%}"]
        for kind, count in sorted(result["utilization"].items(), key=lambda item: -item[1]["used"])
    ]
    parts: list[Any] = [Table(["kind", "used", "of", "share"], rows, "Utilization")]
    if result["path"]:
        parts.append(_longest_path([(f"{s['kind']} {s['net'] or s['cell']}", s["delay_ns"]) for s in result["path"]]))
    parts += [Text(f"Note: {caveat}.") for caveat in result["caveats"]]
    return Section(f"{result['unit']} on an FPGA", "", [*_parameters(result), *facts], parts)


def _parameters(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("parameters", ", ".join(f"{name}={value}" for name, value in result["parameters"].items()))]


def energy_section(result: Mapping[str, Any]) -> Section:
    """`fgmp energy`: a model's GEMMs on mixed and on FP8-only hardware."""
    engine = result["engine"]
    facts = [
        ("model", result["model"]),
        ("text", result["text"]),
        (
            "engine",
            f"{engine['preset']}: {engine['lanes']} lanes, {engine['rows']} rows, pipeline {engine['pipeline']}",
        ),
        ("library", result["library"]["name"]),
        ("clock", f"{result['clock_mhz']:.0f} MHz"),
        ("places simulated", f"{result['places']:,}, 0 differences from the golden model"),
    ]
    parts: list[Any] = [Table(rows[0], rows[1:], title) for title, rows in energy_tables(result)]
    parts += [draw(caption, partial(drawing, result), size=(9, 4.5)) for caption, drawing in DRAWINGS.values()]
    parts.append(Text(f"Buffers: {result['memory']['source']}."))
    parts += [Text(f"Note: {caveat}.") for caveat in result["caveats"]]
    return Section("Energy, against FP8-only hardware", "", facts, parts)


def sweep_section(result: Mapping[str, Any]) -> Section:
    """`fgmp sweep`: a grid of configurations."""
    head, *rows = sweep_rows(result)
    parts: list[Any] = [Table(head, rows, "* no other point is better in both metrics of the plot")]
    if result["plot"]:
        parts.append(draw("Pareto front", lambda axes: draw_sweep(result, axes), size=(9, 5.5)))
    parts += [Text(note) for note in result["notes"]]
    options = [(name, str(value)) for name, value in result["options"].items() if value is not None]
    return Section("Sweep", "", [("flow", result["flow"]), ("points", f"{len(rows)}"), *options], parts)


SECTIONS = {
    "fgmp-synth-asic/1": asic_section,
    "fgmp-synth-fpga/1": fpga_section,
    "fgmp-energy/1": energy_section,
    "fgmp-sweep/1": sweep_section,
}
