"""Mutants of a unit: small faults planted in its netlist by yosys, and whether the regression notices each.

One build holds all mutants behind the input `fault_select`; number 0 is the unit itself. What was found is kept in a
file, so that a run that was stopped continues.
"""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_json
from ..formal.equivalence import change_is_equivalent
from ..formal.netlist import FLATTEN
from ..hdl.config import EngineConfig, LaneConfig, SelectorConfig
from ..hdl.design import Design, Port, build_preset
from ..hdl.yosys import run_yosys
from ..processes import end_with_parent
from .engine.checks import Bench
from .engine.driver import EngineDriver
from .engine.scenarios import SCENARIOS, run_scenarios
from .engine.verilated import VerilatedEngine, build_library
from .regression import campaigns_of, no_bench
from .runner import SimulationError
from .tally import Tally
from .verilated_unit import VerilatedUnit

__all__ = ["mutated", "run_mutants"]

SURVIVED = "survived"
_UNPROVEN, _EQUIVALENT = "survived, not proven equivalent", "equivalent"
_SELECT = "fault_select"
_PROOF_SECONDS = 60

# The cheapest first: most mutants do not live that long.
_FIRST_SCENARIOS = ("every kind of input and output", "registers", "GEMMs back to back", "NaN and illegal scales")


@dataclass(frozen=True)
class Mutant:
    """`line` is yosys' command, which says where in the Verilog it is."""

    number: int
    line: str


def mutated(design: Design, count: int, seed: int) -> tuple[Design, list[Mutant]]:
    """`design` with `count` mutants behind the input `fault_select`, flattened, and what they are."""
    with tempfile.TemporaryDirectory(prefix="fgmp-mutants-") as folder:
        work = Path(folder)
        (work / "unit.v").write_text(design.verilog)
        begin = f"read_verilog unit.v; hierarchy -check -top {design.name}; {FLATTEN}; write_rtlil flat.il"
        run_yosys(work, design.name, "-p", f"{begin}; mutate -list {count} -seed {seed} -o list.txt")
        lines = (work / "list.txt").read_text().splitlines()
        bits = len(lines).bit_length()
        script = ["read_rtlil flat.il", *(f"{line} -ctrl {_SELECT} {bits} {i}" for i, line in enumerate(lines, 1))]
        (work / "mutate.ys").write_text("\n".join([*script, "opt_clean", "write_verilog -noattr mutated.v", ""]))
        run_yosys(work, design.name, "-s", "mutate.ys")
        verilog = (work / "mutated.v").read_text()
    mutants = [Mutant(i, line) for i, line in enumerate(lines, 1)]
    port = Port(_SELECT, "input", bits, {})
    waivers = "/* verilator lint_off WIDTH */\n/* verilator lint_off UNUSED */\n/* verilator lint_off UNOPTFLAT */\n"
    waivers += "/* verilator lint_off DECLFILENAME */\n/* verilator lint_off CASEOVERLAP */\n"
    waivers += "/* verilator lint_off SYNCASYNCNET */\n"
    return dataclasses.replace(design, verilog=waivers + verilog, ports=(*design.ports, port)), mutants


def run_mutants(
    preset: str,
    changes: Sequence[str],
    *,
    count: int,
    seed: int,
    out: Path,
    workers: int = 1,
    say: Callable[[str], None] = lambda _: None,
    on_mutants: Callable[[int], object] = lambda _: None,
) -> dict[str, Any]:
    """Run the regression on each of `count` mutants until it notices; prove what it does not notice equivalent.

    What is known is read from and written to a file in the folder `out`. Raises InputError for a unit without a bench.
    """
    name = preset.replace("-", "_")
    design = build_preset(preset, changes, name)  # Verilator shortens very long names
    if not isinstance(design.config, (LaneConfig, SelectorConfig, EngineConfig)):
        raise no_bench(preset)
    faulty, mutants = mutated(design, count, seed)
    file = out / f"{'-'.join([name, *changes])}-{count}-{seed}.json"
    verdicts = _known(file, mutants)
    # Builds it once, and sees that it passes while no mutant is chosen.
    if (noticed := _Judge(faulty, out / "simulators")(0)) != SURVIVED:
        raise SimulationError(f"{design.name}: differs without a mutant: {noticed}")
    waiting = [m.number for m in mutants if str(m.number) not in verdicts]
    for number, verdict in _judged(faulty, waiting, out / "simulators", workers):
        verdicts[str(number)] = verdict
        _keep(file, mutants, verdicts)
        on_mutants(1)
    for mutant in (m for m in mutants if verdicts[str(m.number)] == SURVIVED):
        verdicts[str(mutant.number)] = (
            _EQUIVALENT if change_is_equivalent(design, mutant.line, _PROOF_SECONDS) else _UNPROVEN
        )
        _keep(file, mutants, verdicts)
    left = [m for m in mutants if verdicts[str(m.number)] == _UNPROVEN]
    killed = sum(v not in (_UNPROVEN, _EQUIVALENT) for v in verdicts.values())
    for mutant in left:
        say(f"survived: {mutant.line}")
    return {
        "schema": "fgmp-mutants/1",
        "unit": design.name,
        "mutants": len(mutants),
        "killed": killed,
        "equivalent": len(mutants) - killed - len(left),
        "survived": [m.line for m in left],
        "score": killed / max(killed + len(left), 1),
        "file": str(file),
    }


class _Noticed(Exception):
    """A comparison differed."""


class _StrictTally(Tally):
    def expect(self, what: str, found: object, expected: object) -> None:
        super().expect(what, found, expected)
        if self.differences:
            raise _Noticed(what)

    def expect_bytes(self, what: str, found: bytes, expected: bytes, values: int) -> None:
        super().expect_bytes(what, found, expected, values)
        if self.differences:
            raise _Noticed(what)


class _Judge:
    """Says what notices a mutant. Made once in each process."""

    def __init__(self, design: Design, cache: Path):
        self._engine = self._unit = None
        if isinstance(design.config, EngineConfig):
            self._engine, self._config = build_library(design, cache=cache), design.config
        else:
            self._unit = VerilatedUnit(design, cache=cache)
            campaigns = campaigns_of(design, count=4000, share=7, model=False)
            self._campaigns = sorted(campaigns, key=lambda c: len(c.inputs))  # the shortest first

    def __call__(self, number: int) -> str:
        """What noticed mutant `number`, or `SURVIVED`."""
        if self._unit is not None:
            return self._unit.notices(self._campaigns, number) or SURVIVED
        assert self._engine is not None
        engine = VerilatedEngine(self._engine, seed=1, fault=number)
        for name in [*_FIRST_SCENARIOS, *(name for name in SCENARIOS if name not in _FIRST_SCENARIOS)]:
            try:
                bench = Bench(engine, EngineDriver(engine, self._config), 1)
                run_scenarios(bench, [name], tally=_StrictTally)
            except (_Noticed, SimulationError, InputError, ValueError, IndexError):
                return name
        return SURVIVED


_judge: _Judge


def _begin(design: Design, cache: Path) -> None:
    global _judge  # noqa: PLW0603
    end_with_parent()
    _judge = _Judge(design, cache)


def _judge_here(number: int) -> str:
    return _judge(number)


def _judged(design: Design, numbers: Sequence[int], cache: Path, workers: int) -> Iterator[tuple[int, str]]:
    """Each mutant and what noticed it. One that ends the simulator, which runs in the worker itself, is noticed."""
    waiting = list(numbers)
    while waiting:
        done = set()
        for number, verdict in _in_workers(design, waiting, cache, workers):
            yield number, verdict
            done.add(number)
        waiting = [number for number in waiting if number not in done]
        # One of those that were being judged ended its worker, and with it all: each is judged alone.
        for number in waiting[:workers]:
            yield from [*_in_workers(design, [number], cache, 1)] or [(number, "the simulator ended")]
        waiting = waiting[workers:]


def _in_workers(design: Design, numbers: Sequence[int], cache: Path, workers: int) -> Iterator[tuple[int, str]]:
    """In order, up to where a worker ends."""
    # torch has threads, which a forked process would not have.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (design, cache))
    futures = [(number, pool.submit(_judge_here, number)) for number in numbers]
    try:
        for number, future in futures:
            yield number, future.result()
    except BrokenProcessPool:
        return
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _known(file: Path, mutants: Sequence[Mutant]) -> dict[str, str]:
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    same = data.get("mutants") == [m.line for m in mutants]
    return dict(data["verdicts"]) if same else {}


def _keep(file: Path, mutants: Sequence[Mutant], verdicts: dict[str, str]) -> None:
    write_json(file, {"mutants": [m.line for m in mutants], "verdicts": verdicts})
