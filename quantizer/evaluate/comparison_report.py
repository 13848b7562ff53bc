"""A comparison for people: the table as text, the plot of `fgmp evaluate`, and the demo's self-contained HTML page."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ...formats import ceil_div
from ...golden.blocks import MixedTensor
from ...plots import check_plot, save_figure, subplots
from .comparison import Comparison, Row
from .losses import Estimate

__all__ = ["difference_lines", "html_report", "plot_comparison", "table_lines"]

_FP4_COLOR, _FP8_COLOR = "#cfe3f5", "#b5322a"


def _headers(comparison: Comparison) -> tuple[str, ...]:
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


def _cells(row: Row) -> tuple[str, ...]:
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
    rows = [_headers(comparison), *map(_cells, comparison.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Draw perplexity against the FP4 share and the bits of the weights, into `path`.

    FP8, NVFP4 and plain FGMP are joined by a line; variants with options are marked beside it.
    """
    check_plot(path)
    rows = [row for row in comparison.rows if row.weight_fp4_share is not None]
    line = sorted((r for r in rows if len(r.name.split()) <= 2), key=lambda r: r.bits_per_weight)
    own = comparison.rows[0]
    figure, axes = subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axis, label, field in zip(
        axes,
        ("FP4 share of the weight blocks", "bits per weight"),
        ("weight_fp4_share", "bits_per_weight"),
        strict=True,
    ):
        values, errors = [r.perplexity.value for r in line], [r.perplexity.error for r in line]
        axis.errorbar(
            [getattr(r, field) for r in line], values, errors, marker="o", capsize=3, label="FP8, FGMP, NVFP4"
        )
        for row in rows:
            if row not in line:
                axis.plot(getattr(row, field), row.perplexity.value, "x", label=row.name)
        axis.axhline(own.perplexity.value, linestyle=":", color="gray", label=own.name)
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("perplexity (bars: one standard error)")
    axes[1].legend(fontsize="x-small")
    save_figure(figure, path)


def difference_lines(comparison: Comparison) -> list[str]:
    """How far some formats lie above another, paired window by window, as text."""
    return [
        f"{name}: KL {e.value:.5f} ±{e.error:.5f} above {comparison.against[name]}"
        + (f" ({e.value / e.error:.1f} standard errors)" if e.error else "")
        for name, e in comparison.kl_above.items()
    ]


def html_report(
    title: str,
    comparison: Comparison,
    weights: Mapping[str, MixedTensor],
    activation_shares: Mapping[str, float],
    facts: Sequence[tuple[str, str]],
) -> str:
    """The page. `weights` and `activation_shares` (FP8 share by site) belong to one FGMP variant."""
    head = "".join(f"<th>{html.escape(h)}</th>" for h in _headers(comparison))
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in _cells(row)) + "</tr>" for row in comparison.rows
    )
    facts_html = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in facts)
    pictures = (
        ("KL divergence from float32, nats per token (bars: two standard errors)", _kl_figure(comparison)),
        ("Precision of every weight block: FP4 light, FP8 red", _map_figure(weights)),
        ("Share of FP8 blocks", _share_figure(weights, activation_shares)),
    )
    figures = "".join(
        f'<h2>{html.escape(caption)}</h2><img alt="{html.escape(caption)}" src="data:image/png;base64,{_png(figure)}">'
        for caption, figure in pictures
    )
    differences = "".join(f"<li>{html.escape(line)}</li>" for line in difference_lines(comparison))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}"
        "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
        "td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child"
        "{text-align:left}img{max-width:100%}.facts td{text-align:left}</style>"
        f"<h1>{html.escape(title)}</h1><table><tr>{head}</tr>{body}</table>"
        "<p>± is one standard error over windows of text. "
        "Recovered: share of the KL gap between all-NVFP4 and all-FP8.</p>"
        f"<ul>{differences}</ul>{figures}<h2>How</h2><table class=facts>{facts_html}</table></html>\n"
    )


def _kl_figure(comparison: Comparison) -> Figure:
    rows = [row for row in comparison.rows if row.kl is not None]
    figure, axes = subplots(figsize=(9, 0.4 * len(rows) + 1))
    values = [row.kl.value for row in rows if row.kl is not None]
    errors = [2 * row.kl.error for row in rows if row.kl is not None]
    axes.barh([row.name for row in rows], values, xerr=errors, color="#4a7fb0")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _map_figure(weights: Mapping[str, MixedTensor]) -> Figure:
    columns = 4
    names = list(weights)
    rows = ceil_div(len(names), columns)
    figure, grid = subplots(rows, columns, figsize=(12, 1.5 * rows), squeeze=False)
    colors = ListedColormap([_FP4_COLOR, _FP8_COLOR])
    for axes, name in zip(grid.flat, names, strict=False):
        # Blocks of K downwards, output channels to the right.
        axes.imshow(weights[name].fp8.T.numpy(), aspect="auto", cmap=colors, vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(f"{name.removeprefix('model.')} {weights[name].fp8_share:.0%}", fontsize=8)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    return figure


def _share_figure(weights: Mapping[str, MixedTensor], activation_shares: Mapping[str, float]) -> Figure:
    entries = [(f"{n} (weight)", t.fp8_share, "#4a7fb0") for n, t in weights.items()]
    entries += [(f"{n} (input)", share, "#d98f3f") for n, share in activation_shares.items()]
    figure, axes = subplots(figsize=(9, 0.22 * len(entries) + 1))
    axes.barh([e[0].removeprefix("model.") for e in entries], [e[1] for e in entries], color=[e[2] for e in entries])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _png(figure: Figure) -> str:
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()
