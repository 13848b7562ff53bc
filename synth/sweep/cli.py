"""`fgmp sweep`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..options import add_workers, check_workers

__all__ = ["COMMANDS"]


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="TOML: flow, units, grid, options")
    parser.add_argument("-o", "--out", type=Path, default=Path("out/sweep"), metavar="DIR", help="for results and "
                        "plot; points that it holds are not run again; default out/sweep")  # fmt: skip
    add_workers(parser, "points")
    parser.add_argument("--dask", metavar="ADDRESS", help="run on the workers of a dask scheduler (tcp://host:8786)")
    parser.add_argument("--cache", type=Path, default=None, metavar="DIR", help="where flows keep what they computed, "
                        "default out/synth")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def _sweep(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ...cache import SYNTHESIS as CACHE
    from ...errors import InputError
    from ...files import check_folder, staged, write_json, write_text
    from ..liberty.find import read_liberty
    from .run import run_sweep
    from .runner import Runner
    from .spec import read_spec
    from .sweep_report import plot_sweep, sweep_csv, sweep_table

    spec = read_spec(args.file)
    check_folder(args.out)
    check_workers(args.workers)
    library = None
    if "liberty" in spec.options:
        library = read_liberty(Path(spec.options["liberty"]) if spec.options["liberty"] else None)
    with tqdm(total=len(spec.points), desc="sweep", unit="point", disable=not sys.stderr.isatty(), leave=False) as bar:

        def count(point: Any) -> None:
            bar.set_postfix_str(str(point), refresh=False)
            bar.update()

        runner = Runner(spec, library, args.cache or CACHE)
        result = run_sweep(runner, args.out, workers=args.workers, dask=args.dask, on_point=count)
    with staged(args.out) as folder:
        write_json(folder / "sweep.json", result)
        write_text(folder / "sweep.csv", sweep_csv(result))
        if result["plot"]:
            plot_sweep(result, folder / "pareto.svg")
    if not result["plot"]:  # one of an earlier run holds no longer
        (args.out / "pareto.svg").unlink(missing_ok=True)
    if result["plot"] is None and spec.chosen:
        raise InputError(f"{result['notes'][0]}; all figures are in {args.out / 'sweep.csv'}")
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print(sweep_table(result))
        print(f"written: {args.out}/sweep.json, sweep.csv{', pareto.svg' if result['plot'] else ''}")
    return 0


COMMANDS = {
    "sweep": (
        "run a grid of configurations through a flow, in parallel",
        """Runs every combination of parameters in FILE through `fgmp synth asic`, `fgmp synth fpga` or `fgmp energy`,
here or on a cluster, and prints a table with the Pareto front of two metrics (docs/sweep.md).

  fgmp sweep sweep.toml -o out/sweep --workers 2

FILE is, for example:

  flow = "asic"
  unit = "engine-lane"
  [grid]
  pipeline = [0, 1, 2, 3, 4]
  sharing = ["split", "merged"]
  [options]
  liberty = "sky130.lib.gz"

A sweep that was stopped continues when it is started again.""",
        _add_sweep,
        _sweep,
    )
}
