"""What becomes of a design's memories on an FPGA: yosys for ECP5, up to where block RAM is mapped."""

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ...hdl.design import Design
from ...hdl.yosys import run_yosys

__all__ = ["Memories", "block_rams_of"]


@dataclass(frozen=True)
class Memories:
    """Counts: block RAMs, distributed RAM cells, and memories that were left to flip-flops (there should be none)."""

    block_rams: int
    distributed_rams: int
    flip_flop_memories: int


def block_rams_of(design: Design) -> Memories:
    """Run `synth_ecp5` on the design, hierarchy kept, through its RAM mapping."""
    script = (
        f"read_verilog design.v; synth_ecp5 -noflatten -top {design.name} -run begin:map_ffram; "
        "tee -q -o stat.json stat -json"
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "design.v").write_text(design.verilog)
        run_yosys(Path(folder), design.name, "-p", script)
        modules = json.loads((Path(folder) / "stat.json").read_text())["modules"]
    uses = Counter[str]()
    for module in modules.values():
        uses.update(module["num_cells_by_type"])
    cells = Counter[str]()
    for name, module in modules.items():
        # The hierarchy is two deep: what holds a memory is instantiated once or in the core.
        for kind, count in module["num_cells_by_type"].items():
            cells[kind] += count * max(uses[name.removeprefix("\\")], 1)
    return Memories(
        cells["DP16KD"] + cells["PDPW16KD"],
        cells["TRELLIS_DPR16X4"],
        sum(count for kind, count in cells.items() if kind.startswith("$mem")),
    )
