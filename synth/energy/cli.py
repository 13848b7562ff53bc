"""`fgmp energy`."""

import argparse
import json
import sys
from pathlib import Path

from ...hdl.cli import add_changes
from ..options import add_library, library_target, stepper

__all__ = ["COMMANDS"]


def _add_energy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="demo", metavar="MODEL", help="demo (default: the model that "
                        "travels with the package), a transformers folder, or a hub id")  # fmt: skip
    parser.add_argument("--text", metavar="TEXT", help="file or data set; without --calibration its first half "
                        "calibrates and its second evaluates (demo: this Python's own documentation)")  # fmt: skip
    parser.add_argument("--calibration", metavar="TEXT", help="another text to calibrate on")
    parser.add_argument("--fractions", type=float, nargs="+", action="collect", metavar="P",
                        help="of blocks in FP4, default 0.5 0.7 0.8 0.9 1")  # fmt: skip
    parser.add_argument("--formats", nargs="+", action="collect", metavar="FORMAT", help="in place of --fractions, "
                        "--activations and --policy: formats as fgmp evaluate names them, such as fgmp:0.7,paper,gptq "
                        "or fgmp:energy=0.8")  # fmt: skip
    parser.add_argument("--activations", nargs="+", action="collect", metavar="KIND",
                        help="dynamic (decided block by block on the fly), static (fixed at calibration); default: "
                        "both")  # fmt: skip
    parser.add_argument("--samples", type=int, default=64, metavar="N", help="calibration windows, default 64")
    parser.add_argument("--windows", type=int, default=48, metavar="N", help="windows to evaluate, default 48")
    parser.add_argument("--captured", type=int, default=4, metavar="N", help="of these, how many feed the hardware "
                        "with activations, default 4")  # fmt: skip
    parser.add_argument("--words", type=int, default=8, metavar="N", help="simulate 64 N places, default 8")
    parser.add_argument("--seed", type=int, default=0, help="of the places, default 0")
    parser.add_argument("--engine", default="engine", metavar="PRESET", help="whose units are measured, default engine")
    add_changes(parser, "such as pipeline=3 rows=128")
    parser.add_argument("--node", type=float, metavar="NM", help="the library's feature size, for the memories' energy "
                        "(default: by the library's name)")  # fmt: skip
    parser.add_argument("--memory-factor", type=float, default=1.0, metavar="X", help="scale the memories' energy")
    parser.add_argument("--layer", type=int, nargs=2, action="append", metavar=("K", "N"), help="also report the "
                        "selector's energy against the lanes' in a linear of this size; may be repeated, default "
                        "4096 4096")  # fmt: skip
    parser.add_argument("--policy", help="fisher (default: as fgmp quantize does) or paper (the "
                        "paper's method exactly)")  # fmt: skip
    parser.add_argument("--prices", type=Path, metavar="FILE", help="an earlier energy.json, by whose prices blocks "
                        "are chosen (default: SkyWater 130 nm)")  # fmt: skip
    parser.add_argument("--no-glitches", action="store_true", help="leave out what gates with delays take, which needs "
                        "some minutes")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, default=Path("out/energy"), metavar="DIR", help="for energy.json and "
                        "plots, default out/energy")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_library(parser)


def _energy(args: argparse.Namespace) -> int:
    from ...cache import SYNTHESIS as CACHE
    from ...errors import InputError
    from ...files import check_folder, staged, write_json
    from ...quantizer.prices import Prices
    from .energy_report import energy_table, plot_energy
    from .run import EnergyRequest, run_energy
    from .workload import Texts

    own = {name: getattr(args, name) for name in ("fractions", "activations", "policy") if getattr(args, name)}
    if args.formats and own:
        raise InputError(f"--formats: given with --{next(iter(own))}, expected one of them")
    for name in own.keys() - {"policy"}:
        own[name] = tuple(dict.fromkeys(own[name]) if name == "activations" else own[name])
    request = EnergyRequest(
        model=args.model,
        texts=Texts(args.text, args.calibration, args.samples, args.windows),
        formats=tuple(args.formats or ()),
        **own,
        engine=args.engine,
        changes=tuple(args.set),
        node_nm=args.node,
        memory_factor=args.memory_factor,
        words=args.words,
        captured=args.captured,
        seed=args.seed,
        layers=tuple((k, n) for k, n in args.layer or ()),
        glitches=not args.no_glitches,
        prices=None if args.prices is None else Prices.read(args.prices),
        cache=args.cache or CACHE,
    )
    request.check()
    check_folder(args.out)
    library, target = library_target(args)
    progress = sys.stderr.isatty()
    result = run_energy(request, library, target, progress=progress, on_step=stepper(not progress, "energy"))
    stepper(not progress, "")("")
    with staged(args.out) as folder:
        write_json(folder / "energy.json", result)
        drawn = [args.out / path.name for path in plot_energy(result, folder)]
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print(energy_table(result))
        print(f"written: {args.out / 'energy.json'}, {', '.join(map(str, drawn))}")
    return 0


COMMANDS = {
    "energy": (
        "what a model takes on mixed hardware, and on FP8-only hardware",
        """Quantizes MODEL at several FP4 fractions, simulates the gates of the engine's lane, accumulators and selector
with its packed weights and activations, in the engine's order of work, and compares the energy with that of FP8-only
hardware from the same generator, in the same library, with the same data in FP8 (docs/energy.md).

  fgmp energy --liberty sky130.lib.gz
  fgmp energy MODEL --text test.txt --calibration train.txt --liberty sky130.lib.gz
  fgmp energy --liberty sky130.lib.gz --formats fgmp:0.7,paper fgmp:0.7,paper,gptq fgmp:0.7

Mapped netlists and simulated energies are kept, so that a run that was stopped goes on quickly.""",
        _add_energy,
        _energy,
    )
}
