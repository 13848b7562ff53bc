"""Compares results exactly and says, in words, what the first difference is."""

from typing import Any

import numpy as np

from ..formats import BLOCK_SIZE, E2M1, E4M3, MiniFloat
from ..hdl.design import Port
from .payload import field_values
from .tally import Tally

__all__ = ["Scoreboard", "as_integer", "describe_block"]


class Scoreboard(Tally):
    """The tally of one campaign; it decodes the first difference."""

    def __init__(self, campaign: str, i: Port, o: Port):
        super().__init__()
        self._campaign = campaign
        self._i = i
        self._o = o

    def check_result(self, index: int, expected: int, actual: int, last_input: int) -> None:
        """Compare one payload; `last_input` is the input that completed the result."""
        if expected == actual:
            self.add(1, 0)
            return
        lines = [f"result {index} of campaign {self._campaign!r} differs"]
        want, got = field_values(self._o, expected), field_values(self._o, actual)
        for name in want:
            if want[name] != got[name]:
                lines.append(f"  {name}: expected {want[name]:#x}, got {got[name]:#x}")
                if name == "codes":
                    lines += _element_differences(want, got)
        lines.append("  input that completed it:")
        lines += [f"    {line}" for line in describe_input(self._i, last_input)]
        self.add(1, 1, "\n".join(lines))

    def check_results(self, first: int, expected: np.ndarray, actual: np.ndarray, last_inputs: np.ndarray) -> None:
        """Compare payloads, uint8 (n, bytes), of which the first is result `first` of the campaign.

        `last_inputs` (n, bytes) completed them. Where fewer came than are expected, those are compared.
        """
        same = (expected[: len(actual)] == actual).all(1)
        self.add(int(same.sum()), 0)
        for index in np.flatnonzero(~same).tolist():
            self.check_result(first + index, *map(as_integer, (expected[index], actual[index], last_inputs[index])))

    def check_flag(self, name: str, expected: int, actual: int, group: int) -> None:
        """Compare a sticky flag at the end of a group."""
        self.expect(f"flag {name} after group {group} of campaign {self._campaign!r}", actual, expected)

    def check_count(self, expected: int, actual: int) -> None:
        """A result too many or too few is a difference too."""
        if expected != actual:
            self.add(0, 1, f"campaign {self._campaign!r} yields {actual} results, expected {expected}")


def as_integer(payload: np.ndarray) -> int:
    """A payload, uint8 (bytes), as a number."""
    return int.from_bytes(payload.tobytes(), "little")


def describe_block(codes: int, scale: int, fp8: bool) -> str:
    """A stored block in words: its precision, and code and value of each element."""
    fmt = E4M3 if fp8 else E2M1
    factor = 1.0 if fp8 else E4M3.magnitude(scale)
    elements = [_value(fmt, codes >> fmt.bits * i & (1 << fmt.bits) - 1, factor) for i in range(BLOCK_SIZE)]
    return f"{'FP8' if fp8 else f'FP4, scale {scale:#04x} = {factor:g}'}: {' '.join(elements)}"


def describe_input(port: Port, payload: int) -> list[str]:
    """An input payload in words, block by block where it has blocks."""
    fields = field_values(port, payload)
    lines = []
    for name, value in fields.items():
        operand, _, part = name.partition(".")
        if part == "codes":
            scale, fp8 = fields.get(f"{operand}.scale", 0), bool(fields.get(f"{operand}.fp8", 1))
            lines.append(f"{operand}: {describe_block(value, scale, fp8)}")
        elif not part:
            lines.append(f"{name}: {value:#x}")
    return lines


def _element_differences(want: dict[str, Any], got: dict[str, Any]) -> list[str]:
    lines = []
    if want["fp8"] != got["fp8"]:
        return [f"    block should be {'FP8' if want['fp8'] else 'FP4'} and is {'FP8' if got['fp8'] else 'FP4'}"]
    fmt = E4M3 if want["fp8"] else E2M1
    for i in range(BLOCK_SIZE):
        pair = [side["codes"] >> fmt.bits * i & (1 << fmt.bits) - 1 for side in (want, got)]
        if pair[0] != pair[1]:
            lines.append(
                f"    element {i} ({fmt.name}): expected {_value(fmt, pair[0], 1)}, got {_value(fmt, pair[1], 1)}"
            )
    return lines


def _value(fmt: MiniFloat, code: int, factor: float) -> str:
    sign = "-" if code & fmt.sign_bit else ""
    return f"{code:#04x}={sign}{fmt.magnitude(code) * factor:g}"
