"""Runs campaigns on a unit that Verilator compiled with a C++ loop: ten times as fast as the cocotb bench.

It drives and checks what `bench` does, and beside that changes the payload in every cycle in which it is not valid.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import SIMULATORS as CACHE
from ..hdl.design import Design
from .campaign import Campaign, Group
from .library import compile_library, recording
from .runner import CampaignResult, SimulationError, checked
from .scoreboard import Scoreboard
from .waves.recording import RESERVE

__all__ = ["VerilatedUnit"]

_LOOP = Path(__file__).with_name("unit_loop.cpp")
_FAULTS = {1: "nothing moved for 2000 cycles", 2: "valid fell before ready rose",
           3: "payload changed while valid waited for ready"}  # fmt: skip
_SURPLUS = 16  # results that are kept beyond those that are expected


class VerilatedUnit:
    """A lane or a selector compiled for simulation."""

    def __init__(
        self,
        design: Design,
        *,
        random_state: bool = False,
        coverage: bool = False,
        lint: bool = True,
        trace: str | None = None,
        cache: Path = CACHE,
    ):
        """Compile `design`, or find it compiled in `cache`; `random_state` starts registers with random values.

        With `coverage` each run counts lines and toggles, for `write_coverage`. With `lint`, a warning of Verilator's
        is an error. `trace` ("fst", "vcd", "saif") lets `run` write such a file.

        Raises InputError for a missing tool, with the line that installs it.
        """
        ports = "".join(f"PORT({port.name}, {port.width})\n" for port in design.ports)
        headers = {"ports.h": ports}
        how: dict[str, Any] = {"random_state": random_state, "coverage": coverage, "lint": lint, "trace": trace}
        library = compile_library(design, _LOOP, headers=headers, cache=cache, **how)
        self.design = design
        self._random_state = random_state
        self._c = _declare(ctypes.CDLL(str(library)))
        self._index = {port.name: index for index, port in enumerate(design.ports)}

    def run(
        self,
        campaigns: Sequence[Campaign],
        *,
        fault: int = 0,
        seed: int = 1,
        only_count: bool = False,
        on_campaign: Callable[[str], None] | None = None,
        coverage_to: Path | None = None,
        trace_to: Path | None = None,
    ) -> list[CampaignResult]:
        """Run all campaigns; raises SimulationError, with the first difference decoded, if any result differs.

        With `only_count`, differences are counted and not raised; a breach of the handshake always raises. `fault`
        selects a planted fault, `seed` the random state, and `on_campaign` is told the name of each that is done. What
        was covered goes into the file `coverage_to`, what happened into `trace_to`, if the unit was compiled for it.
        """
        results = []
        for result in self._each(campaigns, fault, seed, coverage_to, trace_to):
            results.append(result)
            if on_campaign:
                on_campaign(result.name)
        return checked(self.design, results, campaigns, only_count)

    def notices(self, campaigns: Sequence[Campaign], fault: int) -> str | None:
        """Which of the campaigns first sees the planted fault, or None."""
        results = self._each(campaigns, fault, 1)
        for campaign in campaigns:
            try:
                if next(results).differences:
                    return campaign.name
            except SimulationError as error:
                return str(error)
        return None

    def _each(
        self,
        campaigns: Sequence[Campaign],
        fault: int,
        seed: int,
        coverage_to: Path | None = None,
        trace_to: Path | None = None,
    ) -> Iterator[CampaignResult]:
        unit = self._c.fgmp_create(seed, int(self._random_state), fault)
        try:
            with ExitStack() as stack:
                if trace_to is not None:
                    stack.enter_context(recording(lambda: self._c.fgmp_trace_end(unit), trace_to))
                    self._c.fgmp_trace(unit, str(trace_to).encode(), RESERVE)
                for campaign in campaigns:
                    yield self._campaign(unit, campaign)
            if coverage_to is not None:
                self._c.fgmp_coverage(unit, str(coverage_to).encode())
        finally:
            self._c.fgmp_destroy(unit)

    def _campaign(self, unit: Any, campaign: Campaign) -> CampaignResult:
        i, o = self.design.port("i_payload"), self.design.port("o_payload")
        board = Scoreboard(campaign.name, i, o)
        self._set(unit, campaign.groups[0])
        self._c.fgmp_begin(unit, campaign.seed, *campaign.stalls)
        sent = received = 0
        for number, group in enumerate(campaign.groups):
            self._set(unit, group)
            inputs = np.ascontiguousarray(campaign.inputs[sent : sent + group.inputs])
            expected = campaign.results[received : received + group.results]
            found = np.zeros((group.results + _SURPLUS, campaign.results.shape[1]), np.uint8)
            count = self._c.fgmp_group(
                unit, inputs.ctypes.data, len(inputs), found.ctypes.data, group.results, len(found)
            )
            if count < 0:
                raise SimulationError(f"campaign {campaign.name!r}: {_FAULTS[-count]}, in group {number}")
            last = inputs if len(inputs) == group.results else inputs[_marked_last(inputs, i.fields["last"][0])]
            board.check_results(received, expected, found[: min(count, group.results)], last)
            board.check_count(group.results, count)
            for name, value in group.flags.items():
                board.check_flag(name, value, self._c.fgmp_get(unit, self._index[name]), number)
            self._c.fgmp_clear_flags(unit)
            sent += group.inputs
            received += group.results
        return CampaignResult(campaign.name, board.compared, board.differences, board.first, self._c.fgmp_cycles(unit))

    def _set(self, unit: Any, group: Group) -> None:
        for name, value in group.registers.items():
            self._c.fgmp_set(unit, self._index[name], value & 0xFFFFFFFF)


def _marked_last(inputs: np.ndarray, bit: int) -> np.ndarray:
    marked: np.ndarray = (inputs[:, bit // 8] >> bit % 8 & 1).astype(bool)
    return marked


def _declare(library: Any) -> Any:
    handle, size, pointer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p
    for name, result, arguments in (
        ("create", handle, (ctypes.c_uint64, ctypes.c_int, ctypes.c_uint32)),
        ("destroy", None, (handle,)),
        ("coverage", None, (handle, ctypes.c_char_p)),
        ("trace", None, (handle, ctypes.c_char_p, ctypes.c_uint64)),
        ("trace_end", ctypes.c_int, (handle,)),
        ("begin", None, (handle, ctypes.c_uint64, ctypes.c_double, ctypes.c_double)),
        ("set", None, (handle, ctypes.c_int, ctypes.c_uint32)),
        ("get", ctypes.c_uint32, (handle, ctypes.c_int)),
        ("group", ctypes.c_int64, (handle, pointer, size, pointer, size, size)),
        ("clear_flags", None, (handle,)),
        ("cycles", ctypes.c_uint64, (handle,)),
    ):
        function = getattr(library, f"fgmp_{name}")
        function.restype, function.argtypes = result, arguments
    return library
