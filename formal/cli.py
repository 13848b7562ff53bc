"""`fgmp prove`."""

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict

from ..processes import end_with_parent

__all__ = ["COMMANDS"]


def _add_prove(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("properties", nargs="*", metavar="PROPERTY", help="default: all")
    parser.add_argument("--list", action="store_true", help="say what there is to prove, and what is not proven")
    parser.add_argument("--seconds", type=int, default=120, metavar="N", help="for each case, default 120")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="properties at a time, default 1")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")


def _prove(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..errors import InputError
    from .properties import NOT_PROVEN
    from .prove import Outcome, properties_named, prove
    from .solver import find_solver

    for name in ("seconds", "workers"):
        if getattr(args, name) < 1:
            raise InputError(f"{name}: {getattr(args, name)}, expected at least 1")
    items = properties_named(args.properties)
    if args.list:
        listed = {"proven": {item.name: item.claim for item in items}, "not proven": dict(NOT_PROVEN)}
        if args.json:
            print(json.dumps(listed, indent=2))
            return 0
        for title, rows in listed.items():
            print(f"{title}:")
            print("\n".join(f"  {name:24} {text}" for name, text in rows.items()))
        return 0
    find_solver()
    outcomes: list[Outcome] = []
    with (
        ProcessPoolExecutor(args.workers, initializer=end_with_parent) as pool,
        tqdm(total=len(items), unit="property", disable=not sys.stderr.isatty(), leave=False) as bar,
    ):
        futures = [pool.submit(prove, item.name, args.seconds) for item in items]
        for future in as_completed(futures):
            outcomes.append(future.result())
            bar.update()
            if not args.json:
                tqdm.write(_line(outcomes[-1]), file=sys.stdout)
                sys.stdout.flush()
    proven = sum(outcome.proven for outcome in outcomes)
    if args.json:
        found = {"proven": proven, "properties": [asdict(outcome) for outcome in outcomes]}
        print(json.dumps({"schema": "fgmp-prove/1", **found}, indent=2))
    else:
        print(f"{proven} of {len(outcomes)} proven")
    return 0 if proven == len(outcomes) else 1


def _line(outcome: object) -> str:
    from .prove import Outcome

    assert isinstance(outcome, Outcome)
    if outcome.proven:
        said = f"proven; its fault shows in {outcome.fault}"
    elif outcome.failed:
        said = f"FALSE: {outcome.failed[0]}"
    elif outcome.open:
        said = f"open, more --seconds may help: {len(outcome.open)} cases, first {outcome.open[0]}"
    else:
        said = "holds, but so it does with its fault"
    return f"{outcome.name:24} {outcome.cases:5,} cases  {outcome.seconds:6.1f} s  {said}"


COMMANDS = {
    "prove": (
        "prove units for all inputs with an SMT solver, and that each proof sees its planted fault",
        "Formats, rounding, the selector's decisions, handshakes: docs/proofs.md lists all. Exit code 1 if any is not "
        "proven.\n"
        "\n  fgmp prove --list"
        "\n  fgmp prove round-float32 axi-holds"
        "\n  fgmp prove --workers 2 --json > prove.json",
        _add_prove,
        _prove,
    ),
}
