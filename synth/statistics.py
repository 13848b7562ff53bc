"""Cells of a unit, as yosys counts them after a script of its commands."""

import json
import tempfile
from pathlib import Path
from typing import Any

from ..hdl.design import Design
from ..hdl.yosys import run_yosys

__all__ = ["statistics"]


def statistics(design: Design, script: str) -> dict[str, Any]:
    """The JSON of yosys' `stat` after `script` ran on the unit's Verilog; raises RuntimeError if a command fails."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "design.v").write_text(design.verilog)
        script = f"read_verilog design.v; {script}; tee -q -o stat.json stat -json"
        run_yosys(Path(folder), design.name, "-p", script)
        counts: dict[str, Any] = json.loads((Path(folder) / "stat.json").read_text())
    return counts
