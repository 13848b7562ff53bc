"""Puts measured figures where they are stated: claims.json of this package, the marked documents, and their picture."""

import hashlib
import io
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import write_files
from ...plots import subplots
from .catalogue import CLAIMS, PAPER_POINT, RUNS, TABLES
from .documents import filled

__all__ = ["DOCUMENTS", "check_checkout", "draw_quality", "points_digest", "publish", "published"]

DOCUMENTS = (
    "README.md",
    "docs/claims.md",
    "docs/energy.md",
    "docs/silicon.md",
    "docs/tutorials/start.md",
    "docs/verification.md",
)
"""Documents with marks, from the root of the repository."""

_PICTURE = "docs/pictures/quality.svg"


def published() -> dict[str, Any]:
    """The figures that the documents of this version state."""
    figures: dict[str, Any] = json.loads((files(__package__) / "claims.json").read_text("utf-8"))
    return figures


def publish(figures: Mapping[str, Any], root: Path) -> list[Path]:
    """Write `figures`, over those published before, into the checkout at `root`; returns what changed.

    Raises InputError if `root` is none.
    """
    home = check_checkout(root)
    before = published() if (home / "claims.json").is_file() else {}
    known = {"runs": RUNS, "figures": [claim.name for claim in CLAIMS], "tables": TABLES}
    merged = dict(figures)
    for key, names in known.items():
        both = {**before.get(key, {}), **figures[key]}
        merged[key] = {name: both[name] for name in names if name in both}
    merged["points"] = figures["points"] or before.get("points", {})
    contents = {home / "claims.json": (json.dumps(merged, indent=1, ensure_ascii=False) + "\n").encode()}
    for name in DOCUMENTS:
        try:
            contents[root / name] = filled((root / name).read_text("utf-8"), merged).encode()
        except KeyError as missing:
            raise InputError(f"document {name}: {missing} was not measured, expected all that it states") from None
    if merged["points"]:
        contents[root / _PICTURE] = draw_quality(merged["points"]).encode()
    changed = {path: new for path, new in contents.items() if not path.is_file() or path.read_bytes() != new}
    write_files(changed)
    return list(changed)


def check_checkout(root: Path) -> Path:
    """Where a checkout at `root` keeps the figures. Raises InputError if there is none."""
    home = root / "report" / "claims"
    if not (home / "catalogue.py").is_file():
        raise InputError(f"publish {root}: no report/claims/catalogue.py, expected a checkout of the repository")
    return home


def draw_quality(points: Mapping[str, Any]) -> str:
    """Quality against energy as SVG: a line for each refinement, the paper's energy as a mark."""
    import matplotlib

    figure, axes = subplots(figsize=(8, 4.2), layout="constrained")
    for (name, line), color in zip(points.items(), ("#8a8a8a", "#d98f3f", "#6aa84f", "#1f5f99"), strict=True):
        energy, kl, error = zip(*line, strict=True)
        axes.errorbar(energy, kl, error, marker="o", capsize=3, label=name, color=color)
    axes.axvline(PAPER_POINT, color="#b5322a", linestyle=":", label="energy of the paper's hardware at 70 % FP4")
    axes.set_xlabel("energy of all matrix products, FP8-only hardware = 1")
    axes.set_ylabel("KL divergence from float32\nnats per token, bars: one standard error")
    axes.set_title("50, 70, 80 and 90 % FP4, from the right", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize="small")
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "fgmp"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().replace("<svg ", f"<!-- drawn from {points_digest(points)} -->\n<svg ", 1)


def points_digest(points: Mapping[str, Any]) -> str:
    """What a drawing says of the figures that it was made from."""
    return hashlib.sha256(json.dumps(points, sort_keys=True).encode()).hexdigest()[:16]
