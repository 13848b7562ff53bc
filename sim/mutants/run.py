"""`fgmp mutants`: plants mutants in a unit, runs the regression on each, and proves what it does not notice equivalent.

What was found is kept in a file, so that a run that was stopped continues. It counts while nothing of it has changed:
the unit, the regression, the proofs.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...cache import digest
from ...files import write_json
from ...formal.equivalence import Equivalence
from ...hdl.config import EngineConfig, LaneConfig, SelectorConfig
from ...hdl.design import Design, build_preset
from ..regression import no_campaigns
from ..runner import SimulationError
from .judge import SURVIVED, Judge, judged
from .plant import Mutant, in_netlist, in_source
from .reasons import reason

__all__ = ["PLACES", "run_mutants"]

PLACES = ("netlist", "source")

_UNPROVEN, _EQUIVALENT = "survived, not proven equivalent", "equivalent"
_PROOF_SECONDS = 60
_CODE = (".py", ".cpp")


def run_mutants(
    preset: str,
    changes: Sequence[str],
    *,
    place: str = "netlist",
    count: int,
    seed: int,
    out: Path,
    workers: int = 1,
    say: Callable[[str], None] = lambda _: None,
    on_mutants: Callable[[int], object] = lambda _: None,
) -> dict[str, Any]:
    """Run the regression on each of `count` mutants until it notices; prove what it does not notice equivalent.

    The `place` is "netlist", where yosys changes gates, or "source", where the description is changed.

    What is known is read from and written to a file in the folder `out`. The result's `score` is the share noticed of
    those not proven equivalent; `reasons` says of some survivors why no test is missing. Raises InputError for a unit
    without a bench.
    """
    name = preset.replace("-", "_")
    design = build_preset(preset, changes, name)  # Verilator shortens very long names
    if not isinstance(design.config, (LaneConfig, SelectorConfig, EngineConfig)):
        raise no_campaigns(preset)
    planted = in_source(preset, changes, name, count, seed) if place == "source" else in_netlist(design, count, seed)
    faulty, mutants = planted.faulty, planted.mutants
    file = out / f"{'-'.join([name, *changes, *([place] if place == 'source' else [])])}-{count}-{seed}.json"
    mark = _mark(faulty, mutants)
    verdicts = _known(file, mark)
    # Builds it once, and sees that it passes while no mutant is chosen.
    if (noticed := Judge(faulty, out / "simulators")(0)) != SURVIVED:
        raise SimulationError(f"{design.name}: differs without a mutant: {noticed}")
    waiting = [m.number for m in mutants if str(m.number) not in verdicts]
    for number, verdict in judged(faulty, waiting, out / "simulators", workers):
        verdicts[str(number)] = verdict
        _keep(file, mark, verdicts)
        on_mutants(1)
    survivors = [m for m in mutants if verdicts[str(m.number)] == SURVIVED]
    if survivors:
        with Equivalence(planted.proven, right=planted.right) as unit:
            for mutant in survivors:
                same = unit.holds(mutant.change, _PROOF_SECONDS)
                verdicts[str(mutant.number)] = _EQUIVALENT if same else _UNPROVEN
                _keep(file, mark, verdicts)
    left = [m for m in mutants if verdicts[str(m.number)] == _UNPROVEN]
    killed = sum(v not in (_UNPROVEN, _EQUIVALENT) for v in verdicts.values())
    reasons = {m.line: why for m in left if place == "source" and (why := reason(m.line)) is not None}
    for mutant in left:
        say(f"survived: {mutant.line}{f' ({reasons[mutant.line]})' if mutant.line in reasons else ''}")
    return {
        "schema": "fgmp-mutants/1",
        "unit": design.name,
        "place": place,
        "mutants": len(mutants),
        "killed": killed,
        "equivalent": len(mutants) - killed - len(left),
        "survived": [m.line for m in left],
        "reasons": reasons,
        "score": killed / max(killed + len(left), 1),
        "file": str(file),
    }


def _mark(faulty: Design, mutants: Sequence[Mutant]) -> dict[str, Any]:
    """What verdicts are of: the mutants, the unit, and all that judges them."""
    package = Path(__file__).parents[2]
    files = (path for name in ("formal", "golden", "sim") for path in sorted((package / name).rglob("*")))
    sources = (path for path in files if path.suffix in _CODE and path.name != "reasons.py")
    parts = [faulty.verilog, *(path.read_text() for path in sources)]
    return {"mutants": [m.line for m in mutants], "judged_by": digest(parts)}


def _known(file: Path, mark: Mapping[str, Any]) -> dict[str, str]:
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    same = isinstance(data, dict) and all(data.get(name) == value for name, value in mark.items())
    return dict(data["verdicts"]) if same else {}


def _keep(file: Path, mark: Mapping[str, Any], verdicts: Mapping[str, str]) -> None:
    write_json(file, {**mark, "verdicts": verdicts})
