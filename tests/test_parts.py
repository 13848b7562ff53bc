"""Stimuli of units without streams: every input moves and every output is compared, but for those that are named."""

import numpy as np
import pytest

from fgmp.hdl.config import PRESETS
from fgmp.sim.parts.stimuli import PART_CONFIGS
from fgmp.sim.parts.vectors import STREAMS, vectors_by_activity

from .conftest import build_preset

PARTS = [name for name, (_, config) in PRESETS.items() if isinstance(config, PART_CONFIGS)]
# No block is illegal or NaN, no sum overflows; rows are taken at once and by precision, tiles are full.
LANE = {"a_nan", "a_illegal", "nan", "format_error", "overflow"}
STILL = {
    "dot-fp8": {"nan"},
    "dot-mixed": {"nan", "format_error"},
    "engine-lane": LANE,
    "engine-lane-merged": LANE,
    "engine-lane-fp8": LANE,
    "activation-decoder": {"valid", "decoded_nan", "decoded_illegal"},
    "row-order": {"taken", "row_final", "sort", "valid"},
}


def moves(parts):
    """Whether each bit of a port is 0 somewhere and 1 elsewhere."""
    bits = np.concatenate(parts)
    return bits.any(0) & ~bits.all(0)


@pytest.mark.parametrize("name", PARTS)
def test_what_moves_and_what_is_compared(name):
    design = build_preset(name)
    streams = [v for activity in vectors_by_activity(design, count=1, seed=1).values() for v in activity]
    assert len(streams) % STREAMS == 0
    for port in design.ports:
        if port.name != "clk":
            found = [v.inputs[port.name] if port.direction == "input" else v.expected[port.name][1] for v in streams]
            assert moves(found).any() == (port.name not in STILL.get(name, ())), port.name


def test_a_lane_of_the_engine_goes_on_from_its_sums():
    """Its second and third blocks add to what the accumulator holds, and weights are swapped while rows stream past."""
    design = build_preset("engine-lane")
    for streams in vectors_by_activity(design, count=1, seed=1).values():
        first, accumulator = (np.stack([v.inputs[name] for v in streams]) for name in ("term_first", "accumulator"))
        assert (~first[..., 0] & accumulator.any(-1)).sum(1).min() >= 32
        assert np.stack([v.inputs["swap"] for v in streams]).sum(1).min() >= 3
