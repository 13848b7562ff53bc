"""The tables and the plot of `fgmp energy`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...formats import PRECISION_MODES
from ...plots import save_figure, subplots
from .tiles import CHANGES

__all__ = ["DRAWINGS", "aligned", "energy_table", "energy_tables", "plot_energy"]

_PARTS = {
    "lane": "lane",
    "accumulators": "accumulators",
    "activation_buffer": "activation buffer",
    "weight_buffer": "weight buffer",
    "decoder": "decoder",
    "row_order": "row order",
    "selector": "selector",
}


def energy_table(result: Mapping[str, Any]) -> str:
    """The comparison as text."""
    engine = result["engine"]
    lines = [
        f"{result['model']}: {result['text']}",
        f"{engine['preset']}: {engine['lanes']} lanes, {engine['rows']} rows, pipeline {engine['pipeline']}, in "
        f"{result['library']['name']} at {result['clock_mhz']:.0f} MHz; {result['places']:,} places simulated, "
        "0 differences from the golden model",
    ]
    for title, rows in energy_tables(result):
        lines += ["", title, *aligned(rows)]
    lines += ["", f"buffers: {result['memory']['source']}", *(f"note: {c}" for c in result["caveats"])]
    return "\n".join(lines)


def energy_tables(result: Mapping[str, Any]) -> Iterator[tuple[str, list[list[str]]]]:
    """Each table of the comparison: its title, and its rows, the first of which is the head."""
    rows = result["rows"]
    yield (
        "pJ per block pair (16 multiplications and additions)",
        [
            ["", *_PARTS.values(), "total"],
            *([r["name"], *(f"{r['parts_pj'][p]:.2f}" for p in _PARTS), f"{r['pj']:.2f}"] for r in rows),
        ],
    )
    yield "saved against FP8-only hardware", _savings(result)
    yield from _selector_table(rows)
    names = (*PRECISION_MODES, CHANGES)
    table = [["", *(n if n in PRECISION_MODES else "while changing" for n in names)]]
    for r in rows:
        often = {**r["pairs"], CHANGES: r["lane"]["changing_share"]}
        pj = r["lane"]["by_mode_pj"]
        table.append([r["name"], *(f"{pj[n]:.1f} ({often[n]:.0%})" if n in pj else "" for n in names)])
    yield "lane, pJ by precision mode (activations x weights), and how often the model has it", table
    yield from _expected_table(rows)


def _savings(result: Mapping[str, Any]) -> list[list[str]]:
    rows, paper = result["rows"], result["paper"]
    quality = [f"{result['measure']}", "above FP8", "KL divergence"]
    table = [
        ["", "energy", "with glitches", "without buffers", "lane alone", "weight memory", "selector / lane", *quality]
    ]
    for r in rows:
        own, above = r["quality"], r["above_fp8_percent"]
        digits = 3 if result["measure"] == "perplexity" else 6
        values = [r[f"saving{of}"] for of in ("", "_with_glitches", "_without_buffers", "_of_lane")] + [
            r["weight_saving"]
        ]
        base = r is rows[0]
        table.append(
            [
                r["name"],
                *("" if base or v is None else f"{round(v, 3) + 0.0:.1%}" for v in values),  # no -0.0%
                "" if base else f"{r['selector_share']:.2%}",
                f"{own['value']:.{digits}f} ±{own['error']:.{digits}f}",
                "" if above is None else f"{above['value']:+.2f} % ±{above['error']:.2f}",
                "" if r.get("kl") is None else f"{r['kl']['value']:.5f} ±{r['kl']['error']:.5f}",
            ]
        )
    saved, memory, selector = paper["energy_saving"], paper["weight_saving"], paper["selector_share"]
    name = f"paper, at {paper['fp4_fraction']:.0%} FP4"
    table.append([name, f"{saved:.0%}", "", "", "", f"{memory:.0%}", f"< {selector:.0%}", "", "< 1 %", ""])
    return table


def _expected_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[list[str]]]]:
    """What the choice by energy expected, beside what was measured."""
    expected = [r for r in rows if r["expected"] is not None]
    if not expected:
        return
    table = [["", *(f"{mode}" for mode in PRECISION_MODES), "pJ"]]
    for r in expected:
        own = r["expected"]
        pairs = (f"{own['pairs'][mode]:.1%} ({r['pairs'][mode]:.1%})" for mode in PRECISION_MODES)
        table.append([r["name"], *pairs, f"{own['pj']:.1f} ({r['pj']:.1f})"])
    yield "expected by the choice of blocks (and measured): shares of precision modes, energy", table


def _selector_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[list[str]]]]:
    layers = rows[-1]["selector_by_layer"]
    if not layers:
        return
    hows = [how for how in ("raw", "packed") if layers[0][how] is not None]
    table = [["", *(f"{layer['k']:,} x {layer['n']:,} {how}" for layer in layers for how in hows)]]
    table += [[r["name"], *(f"{layer[how]:.2%}" for layer in r["selector_by_layer"] for how in hows)] for r in rows[1:]]
    yield "selector / lane in a linear of K x N whose input comes raw, or was packed by the layer before", table


def plot_energy(result: Mapping[str, Any], folder: Path, kind: str = "svg") -> list[Path]:
    """Draw energy against FP4 fraction, quality against energy, and where the energy goes; returns the files."""
    paths = []
    for name, (_, draw) in DRAWINGS.items():
        figure, axes = subplots(figsize=(8, 4.5), layout="constrained")
        draw(result, axes)
        axes.spines[["top", "right"]].set_visible(False)
        paths.append(folder / f"{name}.{kind}")
        save_figure(figure, paths[-1])
    return paths


def _kinds(result: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of each kind, which is what follows the fraction in a name, with FP8 first; those at fraction 1 are last."""
    fp8, *others = result["rows"]
    ends = [r for r in others if r["fp4_fraction"] == 1]
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in others:
        if row not in ends:
            kinds.setdefault(" ".join(row["name"].split()[2:]) or "default", [fp8]).append(row)
    return {kind: [*rows, *ends] for kind, rows in kinds.items()} or {"all FP4": [fp8, *ends]}


def _draw_fraction(result: Mapping[str, Any], axes: Any) -> None:
    fp8 = result["rows"][0]
    for kind, rows in _kinds(result).items():
        x = [r["fp4_fraction"] for r in rows]
        axes.plot(x, [r["pj"] / fp8["pj"] for r in rows], marker="o", label=f"everything, {kind}")
        lane = [r["parts_pj"]["lane"] / fp8["parts_pj"]["lane"] for r in rows]
        axes.plot(x, lane, marker="s", linestyle="--", label=f"lane alone, {kind}")
    paper = result["paper"]
    axes.plot(paper["fp4_fraction"], 1 - paper["energy_saving"], "k*", markersize=12, label="paper, Llama-2-7B")
    axes.axhline(1, color="gray", linestyle=":")
    axes.set_xlabel("fraction of blocks in FP4 (0: FP8-only hardware)")
    axes.set_ylabel("energy, FP8-only hardware = 1")
    axes.legend(fontsize="small")


def _draw_quality(result: Mapping[str, Any], axes: Any) -> None:
    by_kl = all(r.get("kl") for r in result["rows"])  # which tells methods apart that perplexity cannot
    of_what = " of the difference from FP8" if result["rows"][-1]["above_fp8_percent"] and not by_kl else ""
    for kind, rows in _kinds(result).items():
        points = [r["kl" if by_kl else "quality"] for r in rows]
        errors = [0.0 if of_what and r is rows[0] else _error(r, rows[0]) for r in rows]
        if by_kl:
            errors = [point["error"] for point in points]
        values = [point["value"] for point in points]
        axes.errorbar([r["pj"] for r in rows], values, errors, marker="o", capsize=3, label=kind)
        for row, value in zip(rows, values, strict=True):
            axes.annotate(f"{row['fp4_fraction']:g}" if row["fp4_fraction"] else "FP8", (row["pj"], value),
                          xytext=(4, 4), textcoords="offset points", fontsize="small")  # fmt: skip
    axes.set_xlabel("pJ per block pair")
    measure = "KL divergence from float32, nats per token" if by_kl else result["measure"]
    axes.set_ylabel(f"{measure}\n(bars: one standard error{of_what})")
    axes.legend(fontsize="small")


def _error(row: Mapping[str, Any], fp8: Mapping[str, Any]) -> float:
    """Standard error, paired with FP8's where that was measured: what tells the points of one text apart."""
    above = row["above_fp8_percent"]
    return float(row["quality"]["error"] if above is None else above["error"] / 100 * fp8["quality"]["value"])


def _draw_breakdown(result: Mapping[str, Any], axes: Any) -> None:
    rows = result["rows"]
    left = [0.0] * len(rows)
    names = [r["name"] for r in rows]
    for part, label in _PARTS.items():
        values = [r["parts_pj"][part] for r in rows]
        axes.barh(names, values, left=left, label=label)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("pJ per block pair")
    axes.legend(fontsize="small", ncols=len(_PARTS), loc="lower center", bbox_to_anchor=(0.5, 1))


DRAWINGS: Mapping[str, tuple[str, Callable[[Mapping[str, Any], Any], None]]] = {
    "energy": ("Energy by the fraction of blocks in FP4", _draw_fraction),
    "quality": ("Quality against energy", _draw_quality),
    "breakdown": ("Where the energy goes", _draw_breakdown),
}
"""Each plot's caption, and what draws it from the result of `fgmp energy` onto axes."""


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in table
    ]
