"""A comparison for people: the table as text, and its plots."""

import math
from pathlib import Path
from typing import Any

from ...plots import check_plot, save_figure, subplots
from .comparison import Comparison, Row
from .losses import Estimate

__all__ = ["cells", "difference_lines", "draw_comparison", "draw_kl", "heads", "plot_comparison", "table_lines"]


def heads(comparison: Comparison) -> tuple[str, ...]:
    """The names of the table's columns."""
    return (
        "format",
        "FP4 weights",
        "FP4 activ.",
        "perplexity",
        f"ppl. vs {comparison.degradation_against}",
        "KL divergence",
        "gap recovered",
        "weight bytes",
        "bits/weight",
        "bytes vs FP8",
    )


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table as it is shown."""

    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.1%}"

    def estimate(e: Estimate | None, digits: int, suffix: str = "", factor: float = 1) -> str:
        if e is None:
            return ""
        error = "" if math.isnan(e.error) else f" ±{e.error * factor:.{digits}f}"  # one window has none
        return f"{e.value * factor:.{digits}f}{suffix}{error}"

    return (
        row.name,
        share(row.weight_fp4_share),
        share(row.activation_fp4_share),
        estimate(row.perplexity, 3),
        estimate(row.degradation_percent, 2, " %"),
        estimate(row.kl, 5),
        estimate(row.recovered, 1, " %", 100),
        *(
            (f"{row.weight_bytes:,}", f"{row.bits_per_weight:.4f}", f"{row.weight_bytes_vs_fp8:.3f}")
            if row.weight_bytes
            else ("", "", "")
        ),
    )


def table_lines(comparison: Comparison) -> list[str]:
    """The table as aligned text."""
    rows = [heads(comparison), *map(cells, comparison.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Draw perplexity against the FP4 share and the bits of the weights, into `path`."""
    check_plot(path)
    figure, axes = subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axis, field in zip(axes, _AXES, strict=True):
        draw_comparison(comparison, axis, field)
    axes[1].set_ylabel("")
    axes[0].get_legend().remove()
    save_figure(figure, path)


_AXES = {"weight_fp4_share": "FP4 share of the weight blocks", "bits_per_weight": "bits per weight"}


def draw_comparison(comparison: Comparison, axes: Any, field: str) -> None:
    """Perplexity against a `field` of the rows, `weight_fp4_share` or `bits_per_weight`.

    FP8, NVFP4 and plain FGMP are joined by a line; variants with options are marked beside it.
    """
    rows = [row for row in comparison.rows if row.weight_fp4_share is not None]
    line = sorted((r for r in rows if len(r.name.split()) <= 2), key=lambda r: r.bits_per_weight)
    own = comparison.rows[0]
    values, errors = [r.perplexity.value for r in line], [r.perplexity.error for r in line]
    axes.errorbar([getattr(r, field) for r in line], values, errors, marker="o", capsize=3, label="FP8, FGMP, NVFP4")
    for row in rows:
        if row not in line:
            axes.plot(getattr(row, field), row.perplexity.value, "x", label=row.name)
    axes.axhline(own.perplexity.value, linestyle=":", color="gray", label=own.name)
    axes.set_xlabel(_AXES[field])
    axes.set_ylabel("perplexity (bars: one standard error)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")


def draw_kl(comparison: Comparison, axes: Any) -> None:
    """A bar for each row that has a KL divergence, with two standard errors."""
    rows = [(row.name, row.kl) for row in comparison.rows if row.kl is not None]
    values, errors = [kl.value for _, kl in rows], [2 * kl.error for _, kl in rows]
    axes.barh([name for name, _ in rows], values, xerr=errors, color="#4a7fb0", ecolor="#000000")
    axes.invert_yaxis()


def difference_lines(comparison: Comparison) -> list[str]:
    """How far some formats lie above another, paired window by window, as text."""
    return [
        f"{name}: KL {e.value:.5f} ±{e.error:.5f} above {comparison.against[name]}"
        + (f" ({e.value / e.error:.1f} standard errors)" if e.error else "")
        for name, e in comparison.kl_above.items()
    ]
