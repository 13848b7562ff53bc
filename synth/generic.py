"""Technology-independent synthesis with yosys: that a unit's Verilog synthesizes, and its size in generic cells."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..hdl.design import Design
from ..hdl.yosys import run_yosys

__all__ = ["GenericCells", "synthesize"]


@dataclass(frozen=True)
class GenericCells:
    """Cells after `synth -flatten`: all of them, the flip-flops among them, and latches (there must be none)."""

    total: int
    flip_flops: int
    latches: int


def synthesize(design: Design) -> GenericCells:
    """Run yosys' generic `synth` on the unit's Verilog and `check` the result; raises RuntimeError if either fails."""
    script = (
        f"read_verilog design.v; synth -flatten -noabc -top {design.name}; check -assert; "
        "tee -q -o stat.json stat -json"
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "design.v").write_text(design.verilog)
        run_yosys(Path(folder), design.name, "-p", script)
        cells = json.loads((Path(folder) / "stat.json").read_text())["design"]["num_cells_by_type"]
    return GenericCells(
        sum(cells.values()),
        sum(count for kind, count in cells.items() if "DFF" in kind),
        sum(count for kind, count in cells.items() if "DLATCH" in kind or "SR_" in kind),
    )
