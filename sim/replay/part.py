"""The recording of a unit without streams: inputs, answers and which of them count, cycle by cycle, and its bench."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...hdl.design import Design, Port
from ..campaign import check_names
from ..parts.vectors import Vectors, vectors_by_activity
from ..scoreboard import as_integer

__all__ = ["PartRecording", "part_bench_text", "record_part"]

_TEMPLATE = Path(__file__).with_name("part.sv")


@dataclass(frozen=True)
class PartRecording:
    """Lines of a cycle each, as integers; the first port has the highest bits.

    Attributes:
        inputs, outputs: ports.
        given, expected, checked: what is driven, what must be answered, and which bits of that count.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    given: tuple[int, ...]
    expected: tuple[int, ...]
    checked: tuple[int, ...]

    @property
    def compared(self) -> int:
        """Cycles with an answer."""
        return sum(map(bool, self.checked))

    def files(self) -> Iterator[tuple[str, int, tuple[int, ...]]]:
        """Name, bits and lines of each file."""
        outputs = sum(port.width for port in self.outputs)
        yield "inputs", sum(port.width for port in self.inputs), self.given
        yield "expected", outputs, self.expected
        yield "checked", outputs, self.checked


def record_part(design: Design, *, count: int, seed: int, activities: Sequence[str] = ()) -> PartRecording:
    """Activities of these names, or all, one stream after the other, each of `count` vectors.

    Raises InputError for a unit without activities, or an activity that there is not.
    """
    found = vectors_by_activity(design, count=count, seed=seed)
    check_names(activities, list(found))
    inputs = tuple(p for p in design.ports if p.direction == "input" and p.name != "clk")
    outputs = tuple(p for p in design.ports if p.direction == "output")
    lines: tuple[list[int], list[int], list[int]] = ([], [], [])
    for vectors in (vectors for name in activities or found for vectors in found[name]):
        for which, part in enumerate(_lines(vectors, inputs, outputs)):
            lines[which].extend(part)
    given, expected, checked = map(tuple, lines)
    return PartRecording(inputs, outputs, given, expected, checked)


def _lines(vectors: Vectors, inputs: Sequence[Port], outputs: Sequence[Port]) -> Iterator[list[int]]:
    yield _integers(vectors.inputs.get(port.name, np.zeros((vectors.cycles, port.width), np.bool_)) for port in inputs)
    values, counts = [], []
    for port in outputs:
        value, counted = (np.zeros((vectors.cycles, port.width), np.bool_) for _ in range(2))
        if port.name in vectors.expected:
            at, bits = vectors.expected[port.name]
            value[at], counted[at] = bits, True
        values.append(value)
        counts.append(counted)
    yield _integers(values)
    yield _integers(counts)


def _integers(ports: Iterable[np.ndarray]) -> list[int]:
    """bool (cycles, width) of each port, the highest first, to an integer for each cycle."""
    bits = np.concatenate(list(ports)[::-1], axis=1)
    return [as_integer(row) for row in np.packbits(bits, axis=1, bitorder="little")]


def part_bench_text(design: Design, recording: PartRecording) -> str:
    """The bench, which is called `replay_NAME`. It reads its hex files from the folder in which it runs."""
    connected = [".clk(clk)"] if any(port.name == "clk" for port in design.ports) else []
    widths = []
    for bus, ports in (("given", recording.inputs), ("answer", recording.outputs)):
        widths.append(low := sum(port.width for port in ports))
        for port in ports:
            low -= port.width
            connected.append(f".{port.name}({bus}[{low} +: {port.width}])")
    parts = {
        "NAME": design.name,
        "CYCLES": str(len(recording.given)),
        "INPUT_BITS": str(widths[0]),
        "OUTPUT_BITS": str(widths[1]),
        "EXPECTED": str(recording.compared),
        "PORTS": ",\n    ".join(connected),
    }
    text = _TEMPLATE.read_text()
    for name, value in parts.items():
        text = text.replace(f"@{name}@", value)
    return text
