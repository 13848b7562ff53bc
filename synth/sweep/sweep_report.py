"""The tables, files and plots of `fgmp sweep`."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...plots import save_figure, subplots
from ..energy.energy_report import aligned

__all__ = ["draw_sweep", "plot_sweep", "sweep_csv", "sweep_rows", "sweep_table"]


def sweep_table(result: Mapping[str, Any]) -> str:
    """All rows; those marked * are best in one of the plot's metrics for what they are in the other."""
    plot = result["plot"]
    legend = [f"*: no other point is better in both {plot['x']} and {plot['y']}"] if plot else []
    return "\n".join([*aligned(sweep_rows(result)), "", *legend, *result["notes"]])


def sweep_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The table's rows, the first of which is the head."""
    names = _names(result)
    rows = [["*" if r["pareto"] else "", *(_text(r.get(n, "")) for n in names)] for r in result["rows"]]
    return [["", *names], *rows]


def sweep_csv(result: Mapping[str, Any]) -> str:
    """The same as CSV, in full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_names(result), "pareto"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(result["rows"])
    return text.getvalue()


def plot_sweep(result: Mapping[str, Any], path: Path) -> None:
    """Draw `draw_sweep` into `path`."""
    figure, axes = subplots(figsize=(9, 5.5), layout="constrained")
    draw_sweep(result, axes)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_sweep(result: Mapping[str, Any], axes: Any) -> None:
    """All points in the plot's two metrics, and the line through the best ones."""
    x, y = result["plot"]["x"], result["plot"]["y"]
    rows = [r for r in result["rows"] if x in r and y in r]
    swept = [n for n in _names(result) if isinstance(n, str) and len({str(r.get(n)) for r in rows}) > 1]
    labels = [n for n in swept if n == "format" or not all(isinstance(r.get(n), float) for r in rows)]
    axes.plot([r[x] for r in rows], [r[y] for r in rows], "o", color="#9ab6d0")
    best = sorted((r for r in rows if r["pareto"]), key=lambda r: r[x])
    axes.plot([r[x] for r in best], [r[y] for r in best], "o-", color="#b5322a", label="Pareto front")
    for r in rows:
        text = " ".join(str(r[n]) for n in labels if n in r and not n.startswith("pj"))
        axes.annotate(text, (r[x], r[y]), xytext=(4, 4), textcoords="offset points", fontsize="x-small")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend()


def _names(result: Mapping[str, Any]) -> list[str]:
    return [n for n in dict.fromkeys(key for row in result["rows"] for key in row) if n != "pareto"]


def _text(value: Any) -> str:
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and abs(value) < 1000
        else (f"{value:,.0f}" if isinstance(value, float) else str(value))
    )
