"""Fixtures for the tests of a project that embeds a lane, a selector or an engine, or wraps one.

Put `pytest_plugins = ["fgmp.sim.pytest_plugin"]` into conftest.py. Then:

    def test_our_lane(fgmp_unit):
        fgmp_unit("lane", Path("rtl/our_lane.v"), top="our_lane").check()

    def test_our_engine(fgmp_engine):
        engine = fgmp_engine("engine-4", Path("rtl/top.v"), Path("rtl/engine_4.v"), top="top", changes=["rows=16"])
        engine.check("registers", "random stalls on all streams")
        assert engine.driver().read("ID") == 0x46474D50

The Verilog must have the ports that `fgmp verilog` gives the preset. Without a file, the generated one is tried.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ..errors import InputError
from ..hdl.config import EngineConfig, LaneConfig, SelectorConfig
from ..hdl.design import Design, build_preset
from .campaign import named
from .engine.checks import Bench
from .engine.driver import EngineDriver
from .engine.scenarios import SCENARIOS, check_scenario, run_scenarios
from .engine.verilated import VerilatedEngine, build_library
from .regression import campaigns_of
from .runner import SimulationError
from .verilated_unit import VerilatedUnit

__all__ = ["EngineUnderTest", "UnitUnderTest", "fgmp_engine", "fgmp_unit"]


class UnitUnderTest:
    """A lane or a selector, compiled."""

    def __init__(self, design: Design, cache: Path, lint: bool):
        self.design = design
        self.simulator = VerilatedUnit(design, lint=lint, cache=cache)

    def check(self, *campaigns: str, count: int = 400, seed: int = 1, share: int = 7) -> int:
        """Run the campaigns of these names, or all; returns how many results were compared.

        `count` random rows or blocks in those that are random, one in `share` of all element pairs. Fails the test with
        the first difference, decoded. Raises InputError for a campaign that there is not.
        """
        made = campaigns_of(self.design, count=count, seed=seed, share=share, model=False)
        with _failing():
            return sum(r.compared for r in self.simulator.run(named(made, *campaigns) if campaigns else made))


class EngineUnderTest:
    """An engine, compiled."""

    def __init__(self, design: Design, cache: Path, lint: bool):
        assert isinstance(design.config, EngineConfig)
        self.design = design
        self.config = design.config
        self._library = build_library(design, lint=lint, cache=cache)

    def driver(self, seed: int = 1) -> EngineDriver:
        """A driver of a new simulation: registers by name, whole GEMMs."""
        return EngineDriver(VerilatedEngine(self._library, seed=seed), self.config)

    def check(self, *scenarios: str, seed: int = 1) -> int:
        """Run the scenarios of these names, or all; returns how many results were compared.

        Fails the test with the first difference. Raises InputError for a scenario that there is not.
        """
        for name in scenarios:
            check_scenario(name)
        with _failing():
            engine = VerilatedEngine(self._library, seed=seed)
            bench = Bench(engine, EngineDriver(engine, self.config), seed)
            results = run_scenarios(bench, scenarios or SCENARIOS)
        wrong = [f"{result.name}: {result.first}" for result in results if result.differences]
        if wrong:
            pytest.fail(wrong[0], pytrace=False)
        return sum(result.compared for result in results)


@pytest.fixture(scope="session")
def fgmp_unit(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., UnitUnderTest]:
    """Compiles a lane or a selector: preset, Verilog files, `top`, `changes` of parameters, `lint`."""
    cache = tmp_path_factory.mktemp("fgmp-units")

    def make(
        preset: str, *files: Path, top: str | None = None, changes: Sequence[str] = (), lint: bool = False
    ) -> UnitUnderTest:
        design = _design(preset, files, top, changes)
        if not isinstance(design.config, LaneConfig | SelectorConfig):
            raise InputError(f"preset {preset}: expected a lane or a selector")
        return UnitUnderTest(design, cache, lint)

    return make


@pytest.fixture(scope="session")
def fgmp_engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EngineUnderTest]:
    """Compiles an engine: preset, Verilog files, `top`, `changes` of parameters, `lint`."""
    cache = tmp_path_factory.mktemp("fgmp-engines")

    def make(
        preset: str, *files: Path, top: str | None = None, changes: Sequence[str] = (), lint: bool = False
    ) -> EngineUnderTest:
        design = _design(preset, files, top, changes)
        if not isinstance(design.config, EngineConfig):
            raise InputError(f"preset {preset}: expected an engine")
        return EngineUnderTest(design, cache, lint)

    return make


def _design(preset: str, files: Sequence[Path], top: str | None, changes: Sequence[str]) -> Design:
    """The preset's ports and parameters, with the Verilog of `files`, if there are any."""
    if bool(files) != (top is not None):
        raise InputError("Verilog: expected files and the name of their top module, or neither")
    design = build_preset(preset, changes)
    if top is None:
        return design
    for file in files:
        if not file.is_file():
            raise InputError(f"Verilog: {file} is not a file")
    return replace(design, name=top, verilog="\n".join(file.read_text() for file in files))


@contextmanager
def _failing() -> Iterator[None]:
    """What a simulation says is the test's failure, without a traceback of ours."""
    try:
        yield
    except SimulationError as error:
        pytest.fail(str(error), pytrace=False)
