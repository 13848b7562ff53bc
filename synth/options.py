"""Options that the commands of this package share."""

import argparse
import fnmatch
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["add_library", "add_workers", "check_workers", "library_target", "stepper", "worker_count"]


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
    group.add_argument("--dont-use", nargs="+", action="collect", metavar="GLOB",
                       help="cells to leave alone, besides those that the library marks (default: SkyWater's special "
                       "ones)")  # fmt: skip
    group.add_argument("--cache", type=Path, default=None, metavar="DIR", help="where mapped netlists are kept, "
                       "default out/synth")  # fmt: skip


def library_target(args: argparse.Namespace) -> tuple[Any, Any]:
    """The library and mapping that the options of `add_library` ask for."""
    from ..cache import SYNTHESIS as CACHE
    from ..errors import InputError
    from ..files import check_folder
    from .asic.mapping import DONT_USE, Target
    from .liberty.find import read_liberty

    if not 1e-3 <= args.period <= 1e6:
        raise InputError(f"period: {args.period}, expected nanoseconds from 0.001 to 1000000")
    check_folder(args.cache or CACHE)
    library = read_liberty(args.liberty)
    for pattern in args.dont_use or ():
        if not fnmatch.filter(library.cells.cell_names, pattern):
            raise InputError(f"--dont-use: {pattern!r}, expected names of cells in {library.path}, * and ? allowed")
    return library, Target(
        library.cells,
        None if args.no_wire_load else library.cells.wire_load,
        args.period,
        args.optimize,
        not args.no_clock_gates,
        DONT_USE if args.dont_use is None else tuple(args.dont_use),
    )


def add_workers(parser: argparse.ArgumentParser, items: str) -> None:
    """`--workers`: how many `items` at a time."""
    parser.add_argument(
        "--workers",
        "--jobs",
        type=int,
        dest="workers",
        default=1,
        metavar="N",
        help=f"{items} at a time, default 1; -1: all cores",
    )


def check_workers(count: int) -> None:
    """Raise InputError, before any work, for a number of workers that means nothing."""
    from ..errors import InputError

    if count == 0:
        raise InputError("workers: 0, expected how many at a time, or -1 for all cores")


def worker_count(count: int, items: int) -> int:
    """Processes for so many items: what `--workers` says, but one for one item, and never more than items."""
    return min(count, items) if items > 1 else 1


def stepper(quiet: bool, name: str) -> Callable[[str], None]:
    """Shows the step that a long command is at, on one line of standard error; an empty step clears it."""

    def step(text: str) -> None:
        if not quiet:
            print(f"\r\033[K{name}: {text}" if text else "\r\033[K", end="", file=sys.stderr, flush=True)

    return step
