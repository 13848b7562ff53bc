"""Quantized models and what they lose: `fgmp quantize`, `evaluate`, `demo`, and packed files."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from ...formats import BLOCK_SIZE, ceil_div
from ...golden.packed_file import load_packed
from ...golden.packing import unpack
from ...quantizer.choose.joint import SCORE_EDGES
from ...quantizer.commands.quantize import describe_folder
from ...quantizer.evaluate.comparison import Comparison
from ...quantizer.evaluate.comparison_report import cells, difference_lines, draw_comparison, draw_kl, heads
from ...quantizer.model.folder import headers
from ..elements import Picture, Section, Table, Text
from ..picture import draw
from ..precision_maps import MOST_MAPS, precision_maps

__all__ = ["SECTIONS", "folder_section", "packed_section"]

_WEIGHT, _INPUT = "#4a7fb0", "#d98f3f"
_MOST_BARS = 80


def folder_section(folder: Path) -> Section:
    """A folder that `fgmp quantize` wrote, verified to the last bit, with the precision of every block of weights."""
    description = describe_folder(folder)
    told = model_section(description)
    shapes = {la["name"]: (la["shape"][0], ceil_div(la["shape"][1], BLOCK_SIZE)) for la in description["linears"]}
    found = headers(folder)

    def mask(name: str) -> np.ndarray:
        key = f"{name}.weight_mask"
        with safe_open(folder / found[key].file, "np") as file:
            return np.unpackbits(file.get_tensor(key), axis=1, count=shapes[name][1], bitorder="little").astype(bool)

    maps = precision_maps("Precision of every block of weights", shapes, map(mask, shapes))
    return Section(told.title, told.source, told.facts, [maps, *told.parts])


def packed_section(path: Path) -> Section:
    """A packed file: the precision of its tensors' blocks."""
    tensors = {name: unpack(packed, name) for name, packed in load_packed(path).items()}
    shapes = {name: (tensor.fp8.shape[0], tensor.fp8.shape[1]) for name, tensor in tensors.items()}
    maps = precision_maps(
        "Precision of every block of weights", shapes, (tensor.fp8.numpy() for tensor in tensors.values())
    )
    total = sum(tensor.fp8.numel() for tensor in tensors.values())
    fp8 = sum(int(tensor.fp8.sum()) for tensor in tensors.values())
    shares = {name: tensor.fp8_share for name, tensor in tensors.items()}
    facts = [("tensors", f"{len(tensors)}"), ("blocks", f"{total:,}"), ("in FP8", f"{fp8 / max(total, 1):.1%}")]
    return Section(f"Packed weights: {path.name}", "", facts, [maps, _shares(shares, {})])


def model_section(description: Mapping[str, Any]) -> Section:
    """What `fgmp quantize` and `fgmp inspect` print of a quantized folder."""
    config, linears, expected = description["config"], description["linears"], description["expected"]
    facts = [
        ("made from", str(description["base_model"])),
        ("linears", f"{len(linears)}"),
        ("weights", f"{description['weights']:,}"),
        ("bytes", f"{description['bytes']:,}"),
        ("bits per weight", f"{description['bits_per_weight']:.4f}"),
        ("below FP8", f"{description['below_fp8']:.1%}"),
        ("calibration", f"{config['samples']} windows of {config['window']} tokens"),
        ("choice", f"{config['choice']}, rounding {config['rounding']}, activations {config['activations']}"),
    ]
    parts: list[Any] = []
    if expected:
        facts.append(("expected energy", f"{expected['energy']:.1%} of FP8-only hardware"))
        parts.append(_pairs("Block pairs, activation x weight, as the choice expects them", expected["pairs"]))
        if expected.get("scores"):
            parts.append(_score_histogram(expected["scores"]))
    parts.append(_shares({la["name"]: la["fp8_share"] for la in linears}, {}))
    rows = [
        [
            la["name"], " x ".join(map(str, la["shape"])), f"{la['fp8_share']:.1%}", f"{la['bytes']:,}",
            f"{la['bits_per_weight']:.4f}", str(la["tensor_exponent"]), la["mode"] or "as it is",
            f"{la['threshold']:.4g}" if la["mode"] == "dynamic" else "",
        ]
        for la in linears
    ]  # fmt: skip
    head = ["linear", "N x K", "FP8", "bytes", "bits/weight", "exponent", "input", "threshold"]
    title = "Linears" if len(rows) <= MOST_MAPS else f"Linears, the first {MOST_MAPS:,} of {len(rows):,}"
    parts.append(Table(head, rows[:MOST_MAPS], title))
    return Section(f"Quantized model: {Path(description['folder']).name}", "", facts, parts)


def comparison_section(result: Mapping[str, Any]) -> Section:
    """What `fgmp evaluate` and `fgmp demo` print: formats side by side."""
    comparison = Comparison.from_json(result)
    facts = [("tokens", f"{comparison.tokens:,}")]
    facts += [(name, f"{result[name]:,}") for name in ("window", "windows") if name in result]
    facts += [(name, str(result[name])) for name in ("model", "text") if name in result]
    good = None
    if "compared" in result:
        good = result["differences"] == 0
        facts.append(("simulated Verilog", f"{result['compared']:,} results, {result['differences']:,} differences"))
    parts: list[Any] = [Table(heads(comparison), [cells(row) for row in comparison.rows])]
    parts.append(
        Text(
            "± is one standard error over windows of text. Gap recovered: the share of the KL divergence between "
            "all NVFP4 and all FP8 that the choice of blocks wins back."
        )
    )
    parts += [Text(line) for line in difference_lines(comparison)]
    if any(row.kl for row in comparison.rows):
        bars = sum(row.kl is not None for row in comparison.rows)
        caption = "KL divergence from the model's own precision, nats per token (bars: two standard errors)"
        parts.append(draw(caption, lambda axes: draw_kl(comparison, axes), size=(9, 0.4 * bars + 1)))
    if sum(row.weight_fp4_share is not None for row in comparison.rows) > 1:
        caption = "Perplexity (bars: one standard error) and bits per weight"
        parts.append(draw(caption, lambda axes: draw_comparison(comparison, axes, "bits_per_weight")))
    if "shares" in result:  # the demo's
        parts.append(_shares(result["shares"]["weights"], result["shares"]["activations"]))
    if result.get("scores"):
        parts.append(_score_histogram(result["scores"]))
    if result.get("tasks"):
        rows = [
            [task, metric, f"{value:.4f}" if isinstance(value, float) else str(value)]
            for task, values in result["tasks"].items()
            for metric, value in values.items()
        ]
        parts.append(Table(["task", "metric", "value"], rows, "Tasks of lm-evaluation-harness", left=2))
    return Section("Formats side by side", "", facts, parts, good)


def _score_histogram(scores: Mapping[str, Sequence[float]]) -> Picture:
    """Where blocks lie beside their thresholds."""
    step = SCORE_EDGES[1] - SCORE_EDGES[0]
    begins = [SCORE_EDGES[0] - step, *SCORE_EDGES]

    def onto(axes: Any) -> None:
        for name, color in (("weights", _WEIGHT), ("activations", _INPUT)):
            values = [100 * share for share in scores[name]]
            axes.bar(begins, values, width=step, align="edge", color=color, alpha=0.6, label=name)
        axes.axvline(0, color="#000000", linestyle="--", label="threshold: to the right FP8")
        axes.set_xlim(begins[0], -begins[0])
        axes.set_xlabel("score over threshold, binary logarithm (outermost bars: all beyond)")
        axes.set_ylabel("% of the blocks")
        axes.legend(fontsize="small")

    return draw("Scores of the blocks against their thresholds", onto)


def _pairs(caption: str, pairs: Mapping[str, float]) -> Table:
    return Table(list(pairs), [[f"{share:.1%}" for share in pairs.values()]], caption, left=0)


def _shares(weights: Mapping[str, float], activations: Mapping[str, float]) -> Picture:
    """Share of FP8 by linear and site; of large models by layer and kind."""
    entries = [(f"{name} (weight)", share, _WEIGHT) for name, share in weights.items()]
    entries += [(f"{name} (input)", share, _INPUT) for name, share in activations.items()]
    if len(entries) > _MOST_BARS:
        return _shares_by_layer(weights)

    def onto(axes: Any) -> None:
        axes.barh(range(len(entries)), [100 * e[1] for e in entries], color=[e[2] for e in entries])
        axes.set_yticks(range(len(entries)), [e[0].removeprefix("model.") for e in entries], fontsize=8)
        axes.set_ylim(len(entries) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the blocks in FP8")

    return draw("Share of FP8 blocks", onto, size=(9, 0.22 * len(entries) + 1))


def _shares_by_layer(shares: Mapping[str, float]) -> Picture:
    """A row for each kind of linear, a column for each layer; what repeats in a layer, as experts do, is averaged."""
    found: dict[tuple[str, int], list[float]] = {}
    for name, share in shares.items():
        number = re.search(r"\.(\d+)\.", name)
        found.setdefault((name.rpartition(".")[2], int(number[1]) if number else 0), []).append(share)
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    table = np.full((len(kinds), 1 + max(layer for _, layer in found)), np.nan)
    for (kind, layer), values in found.items():
        table[kinds.index(kind), layer] = 100 * sum(values) / len(values)

    def onto(axes: Any) -> None:
        mesh = axes.pcolormesh(table, cmap="viridis", vmin=0, vmax=max(1.0, np.nanmax(table)))
        axes.set_yticks(np.arange(len(kinds)) + 0.5, kinds, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("layer")
        axes.figure.colorbar(mesh, label="% of the blocks in FP8")

    return draw("Share of FP8 blocks of weights, by layer and kind", onto, size=(9, 0.3 * len(kinds) + 1.2))


SECTIONS = {
    "fgmp-model/1": model_section,
    "fgmp-evaluate/1": comparison_section,
    "fgmp-demo/1": comparison_section,
}
