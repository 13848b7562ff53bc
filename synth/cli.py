"""`fgmp synth generic`, `asic` and `fpga`."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..hdl.cli import add_changes
from ..processes import end_with_parent
from .energy.cli import COMMANDS as _ENERGY_COMMANDS
from .export.cli import COMMANDS as _EXPORT_COMMANDS
from .options import add_library, add_workers, check_workers, library_target, stepper, worker_count
from .sweep.cli import COMMANDS as _SWEEP_COMMANDS

__all__ = ["COMMANDS"]


def _add_synth(parser: argparse.ArgumentParser) -> None:
    flows = parser.add_subparsers(metavar="FLOW", required=True)
    text = (
        "Technology-independent: shows that the Verilog synthesizes and compares units with one another, no more.\n"
        "\n  fgmp synth generic lane selector"
    )
    generic = flows.add_parser("generic", help="count generic cells", description=text)
    _add_units(generic, "lane selector")
    generic.set_defaults(flow=_generic)

    text = (
        "Maps each unit to a standard-cell library and reports area by hierarchy, clock rate with the critical path, "
        "and energy by activity from gate simulation, whose every result is compared with the golden model. The "
        "figures are those of a netlist before layout (docs/silicon.md).\n"
        "\n  fgmp synth asic lane selector --liberty sky130.lib.gz --workers 2"
    )
    asic = flows.add_parser("asic", help="area, clock rate and energy in a standard-cell library", description=text)
    _add_units(asic, "lane")
    add_library(asic)
    asic.add_argument("--no-energy", action="store_true", help="leave out the gate simulation")
    asic.add_argument("--words", type=int, default=8, metavar="N", help="simulate 64 N streams, default 8")
    asic.add_argument("--seed", type=int, default=0, help="of the random activity, default 0")
    asic.add_argument("--activities", type=Path, metavar="DIR", help="also write each unit's netlist, constraints and "
                      "activities as SAIF, for power tools of others")  # fmt: skip
    asic.add_argument("-o", "--out", type=Path, metavar="FILE", help="also write the JSON to a file")
    asic.set_defaults(flow=_asic)

    text = (
        "Places and routes each unit with yosys and nextpnr, over several seeds; reports utilization and clock rate. "
        "The unit stands between shift registers, so that it needs four pins and every path is between registers.\n"
        "\n  fgmp synth fpga lane --target ecp5 --device 45k --seeds 5"
    )
    fpga = flows.add_parser("fpga", help="utilization and clock rate on an FPGA", description=text)
    _add_units(fpga, "lane")
    fpga.add_argument("--target", default="ecp5", metavar="FAMILY", help="ecp5 (default) or ice40")
    fpga.add_argument("--device", metavar="NAME", help="such as 85k, 45k, um5g-85k (ecp5); hx8k, up5k (ice40)")
    fpga.add_argument("--package", help="default: a common one of the device")
    fpga.add_argument("--seeds", type=int, default=3, metavar="N", help="places and routes, default 3")
    fpga.add_argument("--mhz", type=float, default=100.0, help="clock rate that the router aims at, default 100")
    fpga.add_argument("--dsp", action="store_true", help="let multiplications go into DSP blocks (products of 4 bits "
                      "are better off without)")  # fmt: skip
    fpga.add_argument(
        "--cache", type=Path, default=None, metavar="DIR", help="where results are kept, default out/synth"
    )
    fpga.add_argument("-o", "--out", type=Path, metavar="FILE", help="also write the JSON to a file")
    fpga.set_defaults(flow=_fpga)


def _add_units(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("units", nargs="*", metavar="UNIT", help=f"presets of fgmp verilog; default: {default}")
    add_changes(parser)
    add_workers(parser, "units (fpga: seeds)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(default_units=default.split())


def _check_units(args: argparse.Namespace) -> None:
    """Raise InputError, before anything is looked for or made, for units and parameters that there are not."""
    from ..hdl.config import changed, preset

    for name in args.units or args.default_units:
        changed(preset(name), args.set)


def _check_no_engine(args: argparse.Namespace) -> None:
    """Raise InputError for an engine, of which nothing is simulated as a whole."""
    from ..errors import InputError
    from ..hdl.config import EngineConfig, preset

    for name in args.units or args.default_units:
        if isinstance(preset(name), EngineConfig):
            raise InputError(f"activities: {name}, expected parts of an engine, such as engine-lane and selector")


def _designs(args: argparse.Namespace) -> list[Any]:
    from ..hdl.design import build_preset

    return [build_preset(name, args.set) for name in args.units or args.default_units]


def _each(args: argparse.Namespace, work: Any, items: list[Any]) -> list[Any]:
    """`work` on every item, `--workers` at a time."""
    processes = worker_count(args.workers, len(items))
    if processes == 1:
        return [work(item) for item in items]
    from joblib import Parallel, delayed

    def one(item: Any) -> Any:
        end_with_parent()
        return work(item)

    return list(Parallel(n_jobs=processes)(delayed(one)(item) for item in items))


def _finish(args: argparse.Namespace, results: list[Any], table: Any) -> int:
    from ..files import write_json

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

    check_workers(args.workers)
    _check_units(args)
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
    from ..cache import SYNTHESIS as CACHE
    from ..errors import InputError
    from ..files import check_file, check_folder
    from .asic.asic_report import asic_table
    from .asic.flow import Implementation, characterize
    from .asic.power import PowerMeter
    from .asic.saif import write_activities

    if not 1 <= args.words <= 1024:
        raise InputError(f"words: {args.words}, expected 1 to 1024")
    if not 0 <= args.seed < 1 << 31:
        raise InputError(f"seed: {args.seed}, expected 0 to 2147483647")
    check_workers(args.workers)
    check_file(args.out)
    if args.activities is not None:
        if args.no_energy:
            raise InputError("--activities: given with --no-energy, which simulates none; expected one of them")
        check_folder(args.activities)
        _check_no_engine(args)
    _check_units(args)
    library, target = library_target(args)
    quiet = not sys.stderr.isatty() or args.workers != 1

    def write(unit: Implementation, meters: Mapping[str, PowerMeter]) -> None:
        if args.activities is not None:
            write_activities(args.activities / unit.design.name, unit, meters)

    def work(design: Any) -> Any:
        step = stepper(quiet, design.name)
        result = characterize(
            design,
            library,
            target,
            words=args.words,
            seed=args.seed,
            cache=args.cache or CACHE,
            energy=not args.no_energy,
            on_step=step,
            on_metered=write,
        )
        if args.activities is not None and result["energy"] is None:
            raise InputError(f"activities: {library.path} has no delays or no power for {design.name}, expected both")
        step("")
        return result

    return _finish(args, _each(args, work, _designs(args)), asic_table)


def _fpga(args: argparse.Namespace) -> int:
    from ..cache import SYNTHESIS as CACHE
    from ..errors import InputError
    from ..files import check_file, check_folder
    from .fpga.flow import characterize_fpga, fpga_table
    from .fpga.nextpnr import device

    if not 1 <= args.seeds <= 1000:
        raise InputError(f"seeds: {args.seeds}, expected 1 to 1000")
    if not 1 <= args.mhz <= 10_000:
        raise InputError(f"mhz: {args.mhz}, expected 1 to 10000")
    check_workers(args.workers)
    check_file(args.out)
    check_folder(args.cache or CACHE)
    _check_units(args)
    where = device(args.target, args.device, args.package)
    results = []
    for design in _designs(args):
        step = stepper(not sys.stderr.isatty() or args.workers != 1, design.name)
        results.append(
            characterize_fpga(
                design,
                where,
                seeds=args.seeds,
                mhz=args.mhz,
                dsp=args.dsp,
                cache=args.cache or CACHE,
                each=lambda work, seeds: _each(args, work, seeds),
                on_step=step,
            )
        )
        step("")
    return _finish(args, results, fpga_table)


def _synth(args: argparse.Namespace) -> int:
    code: int = args.flow(args)
    return code


COMMANDS = {
    "synth": (
        "synthesize units: generic cells, a standard-cell library, FPGAs",
        "What units become in silicon: `generic`, `asic`, `fpga`, each with --help.\n"
        "\n  fgmp synth asic engine-lane --liberty sky130.lib.gz"
        "\n  fgmp synth fpga engine-8 --target ecp5 --device 85k",
        _add_synth,
        _synth,
    ),
    **_ENERGY_COMMANDS,
    **_SWEEP_COMMANDS,
    **_EXPORT_COMMANDS,
}
