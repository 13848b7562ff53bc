"""Technology-independent synthesis with yosys: that a unit's Verilog synthesizes, and its size in generic cells."""

from dataclasses import dataclass

from ..hdl.design import Design
from .statistics import statistics

__all__ = ["GenericCells", "synthesize"]


@dataclass(frozen=True)
class GenericCells:
    """Cells after `synth -flatten`: all of them, the flip-flops among them, and latches (there must be none)."""

    total: int
    flip_flops: int
    latches: int


def synthesize(design: Design) -> GenericCells:
    """Run yosys' generic `synth` on the unit's Verilog and `check` the result; raises RuntimeError if either fails."""
    counts = statistics(design, f"synth -flatten -noabc -top {design.name}; check -assert")
    cells = counts["design"]["num_cells_by_type"]
    return GenericCells(
        sum(cells.values()),
        sum(count for kind, count in cells.items() if "DFF" in kind),
        sum(count for kind, count in cells.items() if "DLATCH" in kind or "SR_" in kind),
    )
