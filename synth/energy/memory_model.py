"""Memories: SRAM by a published figure, scaled; accumulators as registers of the library, measured like the lane."""

import fnmatch
import math
import re
from dataclasses import dataclass

import numpy as np
import torch

from ...errors import InputError
from ...hdl.config import EngineLaneConfig
from ...hdl.design import Design, Port
from ...hdl.engine.memory import RAM_MODULE, RAM_VERILOG
from ..asic.stimulus import Stimulus
from ..asic.weight_stationary import Tile, flag_words, integer_words

__all__ = ["MemoryModel", "accumulator_memory", "accumulator_stimulus", "node_of"]

_READ_PJ, _READ_BITS, _READ_BYTES, _NODE_NM, _VOLTAGE = 10.0, 64, 8192, 45.0, 0.9

_NODES = {"sky130*": 130, "osu018*": 180, "gf180*": 180, "*sg13*": 130, "nangate*": 45, "*freepdk45*": 45, "asap7*": 7}


@dataclass(frozen=True)
class MemoryModel:
    """Energy of an SRAM access.

    10 pJ for 64 bits out of 8 KB in 45 nm at 0.9 V, 20 pJ out of 32 KB (M. Horowitz, "Computing's energy problem",
    ISSCC 2014, figure 1.1.9); between and beyond by the square root of the capacity, which those two figures follow,
    and in proportion to bits, feature size and the voltage's square. A write counts like a read.

    Attributes:
        node_nm: feature size of the library.
        voltage: its supply.
        factor: what the user scales all of it by.
    """

    node_nm: float
    voltage: float
    factor: float = 1.0

    def access(self, bits: int, words: int) -> float:
        """pJ to read or write `bits` in a memory of `words` x `bits`."""
        capacity = math.sqrt(bits * words / 8 / _READ_BYTES)
        technology = self.node_nm / _NODE_NM * (self.voltage / _VOLTAGE) ** 2
        return self.factor * _READ_PJ * bits / _READ_BITS * capacity * technology


def node_of(library: str, node_nm: float | None) -> float:
    """The feature size in nm: as given, else by the library's name. Raises InputError where that says nothing."""
    if node_nm is not None:
        if not 1 <= node_nm <= 1000:
            raise InputError(f"node: {node_nm}, expected nanometres from 1 to 1000")
        return node_nm
    for pattern, node in _NODES.items():
        if fnmatch.fnmatch(library.lower(), pattern):
            return node
    raise InputError(f"node: not known for library {library}, expected --node NM (it scales the memories' energy)")


def accumulator_memory(config: EngineLaneConfig, rows: int) -> Design:
    """One lane's accumulators: the engine's memory wrapper, `rows` deep, for registers of the library."""
    width, address = config.accumulator_bits + 1, (rows - 1).bit_length()
    name = f"accumulators_{rows}"
    values = {"WIDTH": width, "DEPTH": rows, "ADDRESS": address}
    verilog = RAM_VERILOG.replace(RAM_MODULE, name)
    for parameter, value in values.items():
        verilog = re.sub(rf"(parameter {parameter} = )\d+", rf"\g<1>{value}", verilog)
    widths = {
        "clk": 1,
        "write_enable": 1,
        "write_address": address,
        "write_data": width,
        "read_enable": 1,
        "read_address": address,
    }
    ports = (*(Port(n, "input", w, {}) for n, w in widths.items()), Port("read_data", "output", width, {}))
    return Design(name, config, verilog, ports)


def accumulator_stimulus(design: Design, tile: Tile) -> Stimulus:
    """A read and a write a cycle, as the lane that works through `tile` makes them; a row's first block is not read."""
    config = design.config
    assert isinstance(config, EngineLaneConfig)
    streams, blocks, rows = tile.a.fp8.shape
    steps, delay = blocks * rows, config.latency + 1
    begin, after = tile.growing_sums()
    poison_free = (1 << config.accumulator_bits) - 1
    after = after.reshape(streams, steps) & poison_free
    written = torch.cat([begin & poison_free, after], 1)  # first what the accumulators hold before
    total = rows + steps + delay
    at_read = np.clip(np.arange(total) - rows, 0, steps - 1)
    cycle = np.arange(total)
    at_write = np.where(cycle < rows, cycle, np.clip(cycle - delay, rows - 1, rows + steps - 1))
    width = design.port("write_data").width
    address = design.port("read_address").width
    enabled = np.repeat(((cycle >= rows) & (cycle < rows + steps))[None], streams, 0)
    enabled &= ~(tile.first.numpy()[:, None] & (at_read < rows)[None])
    place = torch.arange(total)[None].expand(streams, -1)
    inputs = {
        "write_enable": flag_words(total, streams, [c for c in range(total) if c < rows or c >= rows + delay]),
        "write_address": integer_words(torch.from_numpy(at_write % rows)[place], address),
        "write_data": integer_words(written[:, at_write], width),
        "read_enable": integer_words(torch.from_numpy(enabled.astype(np.int64)), 1),
        "read_address": integer_words(torch.from_numpy(at_read % rows)[place], address),
    }
    read = np.arange(rows, steps)
    expected = {"read_data": (rows + read + 1, integer_words(after[:, read - rows], width))}
    return Stimulus("the lane's sums", inputs, expected, rows + steps, rows + delay)
