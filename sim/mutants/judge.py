"""Whether the regression notices a mutant, judged in several processes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from ...hdl.config import EngineConfig
from ...hdl.design import Design
from ...processes import end_with_parent
from ..engine.checks import Bench
from ..engine.driver import EngineDriver
from ..engine.scenarios import SCENARIOS, run_scenarios
from ..engine.verilated import VerilatedEngine, build_library
from ..regression import campaigns_of
from ..runner import SimulationError
from ..tally import Tally
from ..verilated_unit import VerilatedUnit

__all__ = ["SURVIVED", "Judge", "judged"]

SURVIVED = "survived"

# The cheapest first: most mutants do not live that long.
_FIRST_SCENARIOS = ("every kind of input and output", "registers", "GEMMs back to back", "NaN and illegal scales")


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


class Judge:
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
            except (OSError, MemoryError):
                raise  # the machine's, not the mutant's
            except Exception:
                return name
        return SURVIVED


_judge: Judge


def _begin(design: Design, cache: Path) -> None:
    global _judge  # noqa: PLW0603
    end_with_parent()
    _judge = Judge(design, cache)


def _judge_here(number: int) -> str:
    return _judge(number)


def judged(design: Design, numbers: Sequence[int], cache: Path, workers: int) -> Iterator[tuple[int, str]]:
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
            alone = [*_in_workers(design, [number], cache, 1)]
            if not alone and not [*_in_workers(design, [0], cache, 1)]:
                raise SimulationError(f"{design.name}: the simulator ends without a mutant")
            yield from alone or [(number, "the simulator ended")]
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
