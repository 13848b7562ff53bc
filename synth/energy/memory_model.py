"""SRAM by a published figure, scaled."""

import fnmatch
import math
from dataclasses import dataclass

from ...errors import InputError

__all__ = ["MemoryModel", "node_of"]

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
