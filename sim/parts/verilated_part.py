"""Runs a unit without streams, such as a dot product, cycle by cycle in a C++ loop."""

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...cache import SIMULATORS as CACHE
from ...hdl.design import Design, Port
from ..library import compile_library
from .operand_bits import Bits

__all__ = ["VerilatedPart"]

_LOOP = Path(__file__).with_name("cycle_loop.cpp")


class VerilatedPart:
    """Any unit, compiled for simulation: its ports are driven and seen as they are."""

    def __init__(self, design: Design, *, cache: Path = CACHE):
        """Compile `design`, or find it compiled in `cache`. Raises InputError for a missing tool."""
        ports = [port for port in design.ports if port.name != "clk"]
        self._inputs = [port for port in ports if port.direction == "input"]
        self._outputs = [port for port in ports if port.direction == "output"]
        lines = [f"{port.direction.upper()}({port.name}, {_bytes(port)})" for port in ports]
        lines += ["CLOCK(clk)"] if len(ports) < len(design.ports) else []
        library = compile_library(design, _LOOP, headers={"ports.h": "\n".join([*lines, ""])}, cache=cache)
        self._cycles = ctypes.CDLL(str(library)).fgmp_cycles
        self._cycles.argtypes = [ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]
        self._cycles.restype = None

    def run(self, inputs: Mapping[str, Bits]) -> dict[str, Bits]:
        """Outputs before each rise of the clock, bool (cycles, width) each, for as many cycles of inputs.

        Registers begin with zeros. Inputs that are not given are 0. Raises ValueError for a port or a width that there
        is not.
        """
        widths = {port.name: port.width for port in self._inputs}
        for name, bits in inputs.items():
            if bits.shape[1] != widths.get(name):
                raise ValueError(f"{name}: {bits.shape[1]} bits, expected {widths.get(name, 'no such input')}")
        cycles = max(map(len, inputs.values()))
        given = [inputs.get(port.name, np.zeros((cycles, port.width), np.bool_)) for port in self._inputs]
        packed = [np.packbits(bits, axis=1, bitorder="little") for bits in given]
        size = sum(map(_bytes, self._outputs))
        found = np.empty((cycles, size), np.uint8)
        self._cycles(cycles, np.concatenate(packed, axis=1).tobytes(), found.ctypes.data)
        answers, place = {}, 0
        for port in self._outputs:
            part = found[:, place : place + _bytes(port)]
            answers[port.name] = np.unpackbits(part, axis=1, bitorder="little")[:, : port.width].astype(np.bool_)
            place += _bytes(port)
        return answers


def _bytes(port: Port) -> int:
    return -(-port.width // 8)
