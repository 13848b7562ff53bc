"""A design's memories on an FPGA: yosys for ECP5, up to where block RAM is mapped."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ...hdl.design import Design
from ..statistics import statistics

__all__ = ["Memories", "block_rams_of"]


@dataclass(frozen=True)
class Memories:
    """Counts: block RAMs, distributed RAM cells, and memories that were left to flip-flops (there should be none)."""

    block_rams: int
    distributed_rams: int
    flip_flop_memories: int


def block_rams_of(design: Design) -> Memories:
    """Run `synth_ecp5` on the design, hierarchy kept, through its RAM mapping."""
    script = f"synth_ecp5 -noflatten -top {design.name} -run begin:map_ffram"
    modules = {
        name.removeprefix("\\"): module["num_cells_by_type"]
        for name, module in statistics(design, script)["modules"].items()
    }
    cells = _cells(modules, design.name)
    return Memories(
        cells["DP16KD"] + cells["PDPW16KD"],
        cells["TRELLIS_DPR16X4"],
        sum(count for kind, count in cells.items() if kind.startswith("$mem")),
    )


def _cells(modules: Mapping[str, Mapping[str, int]], name: str) -> Counter[str]:
    """The cells of module `name` and of all that it instantiates, by kind."""
    total = Counter[str]()
    for kind, count in modules[name].items():
        inside = _cells(modules, kind) if kind in modules else {kind: 1}
        total.update({cell: count * number for cell, number in inside.items()})
    return total
