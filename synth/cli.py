"""`fgmp synth generic` and `fgmp synth asic`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["COMMANDS", "add_library", "library_target"]


def _add_synth(parser: argparse.ArgumentParser) -> None:
    flows = parser.add_subparsers(metavar="FLOW", required=True)
    text = "Technology-independent: shows that the Verilog synthesizes and compares units with one another, no more."
    generic = flows.add_parser("generic", help="count generic cells", description=text)
    _add_units(generic, "lane selector")
    generic.set_defaults(flow=_generic)

    text = (
        "Maps each unit to a standard-cell library and reports area by module, clock rate with the critical path, and "
        "energy by activity from gate simulation, whose every result is compared with the golden model. The figures "
        "are those of a netlist before layout (docs/silicon.md)."
    )
    asic = flows.add_parser("asic", help="area, clock rate and energy in a standard-cell library", description=text)
    _add_units(asic, "lane")
    add_library(asic)
    asic.add_argument("--no-energy", action="store_true", help="leave out the gate simulation")
    asic.add_argument("--words", type=int, default=8, metavar="N", help="simulate 64 N streams, default 8")
    asic.add_argument("--seed", type=int, default=0, help="of the random activity, default 0")
    asic.add_argument("-o", "--out", type=Path, metavar="FILE", help="also write the JSON to a file")
    asic.set_defaults(flow=_asic)


def _add_units(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("units", nargs="*", metavar="UNIT", help=f"presets of fgmp verilog; default: {default}")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="change parameters, such as pipeline=5 sharing=merged",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="units at a time, default 1; -1: all cores")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(default_units=default.split())


def add_library(parser: argparse.ArgumentParser) -> None:
    """Options that choose the library and how it is mapped to."""
    group = parser.add_argument_group("library and mapping")
    group.add_argument("--liberty", type=Path, metavar="FILE", help=".lib or .lib.gz; default: the first found in "
                       "PDK_ROOT and the usual places")  # fmt: skip
    group.add_argument("--period", type=float, default=1.0, metavar="NS", help="clock period that cell sizing aims at, "
                       "default 1 (as fast as it gets)")  # fmt: skip
    group.add_argument("--optimize", default="speed", choices=["speed", "area"], help="area: a few percent smaller, "
                       "adders become ripple chains")  # fmt: skip
    group.add_argument("--no-clock-gates", action="store_true", help="do not gate the clock of registers that rest")
    group.add_argument("--no-wire-load", action="store_true", help="leave out the library's wire load model")
    group.add_argument("--dont-use", nargs="+", metavar="GLOB", help="cells to leave alone, besides those that the "
                       "library marks (default: SkyWater's special ones)")  # fmt: skip
    group.add_argument("--cache", type=Path, default=None, metavar="DIR", help="where mapped netlists are kept, "
                       "default out/synth")  # fmt: skip


def library_target(args: argparse.Namespace) -> tuple[Any, Any]:
    """The library and mapping that the options of `add_library` ask for."""
    from ..errors import InputError
    from .asic.mapping import DONT_USE, Target
    from .liberty.find import read_liberty

    if not 0 < args.period < 1e6:
        raise InputError(f"period: {args.period}, expected nanoseconds above 0")
    library = read_liberty(args.liberty)
    return library, Target(
        library.cells,
        None if args.no_wire_load else library.cells.wire_load,
        args.period,
        args.optimize,
        not args.no_clock_gates,
        DONT_USE if args.dont_use is None else tuple(args.dont_use),
    )


def _designs(args: argparse.Namespace) -> list[Any]:
    from ..hdl.verilog import build_preset

    return [build_preset(name, args.set) for name in args.units or args.default_units]


def _each(args: argparse.Namespace, work: Any, items: list[Any]) -> list[Any]:
    """`work` on every item, `--jobs` at a time."""
    if args.jobs == 1 or len(items) == 1:
        return [work(item) for item in items]
    from joblib import Parallel, delayed

    return list(Parallel(n_jobs=args.jobs)(delayed(work)(item) for item in items))


def _steps(quiet: bool, name: str) -> Any:
    def step(text: str) -> None:
        if not quiet:
            print(f"\r\033[K{name}: {text}", end="", file=sys.stderr, flush=True)

    return step


def _finish(args: argparse.Namespace, results: list[Any], table: Any) -> int:
    from .asic.flow import write_json

    if args.out:
        write_json(args.out, results)
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        print("\n\n".join(table(result) for result in results))
    return 0


def _generic(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from .generic import synthesize

    designs = _designs(args)
    counted = _each(args, synthesize, designs)
    cells = {design.name: asdict(counts) for design, counts in zip(designs, counted, strict=True)}
    if args.json:
        print(json.dumps(cells, indent=2))
    else:
        for name, counts in cells.items():
            print(
                f"{name}: {counts['total']:,} generic cells, {counts['flip_flops']:,} of them flip-flops, "
                f"{counts['latches']} latches"
            )
    return 0


def _asic(args: argparse.Namespace) -> int:
    from ..errors import InputError
    from .asic.flow import characterize
    from .asic.report import asic_table
    from .cache import CACHE

    if not 1 <= args.words <= 1024:
        raise InputError(f"words: {args.words}, expected 1 to 1024")
    library, target = library_target(args)
    quiet = not sys.stderr.isatty() or args.jobs != 1

    def work(design: Any) -> Any:
        result = characterize(
            design,
            library,
            target,
            words=args.words,
            seed=args.seed,
            cache=args.cache or CACHE,
            energy=not args.no_energy,
            on_step=_steps(quiet, design.name),
        )
        if not quiet:
            print("\r\033[K", end="", file=sys.stderr)
        return result

    return _finish(args, _each(args, work, _designs(args)), asic_table)


def _synth(args: argparse.Namespace) -> int:
    code: int = args.flow(args)
    return code


COMMANDS = {
    "synth": (
        "synthesize units: generic cells, or area, clock rate and energy in a standard-cell library",
        "What units become in silicon: `generic`, `asic`.",
        _add_synth,
        _synth,
    )
}
