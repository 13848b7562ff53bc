"""`fgmp verilog`."""

import argparse
import json
from pathlib import Path

__all__ = ["COMMANDS", "add_changes"]


def add_changes(parser: argparse.ArgumentParser, text: str = "such as pipeline=5 sharing=merged") -> None:
    """`--set`: changes to the parameters of presets."""
    parser.add_argument(
        "--set",
        nargs="+",
        action="collect",
        default=[],
        metavar="NAME=VALUE",
        help=f"change parameters, {text}",
    )


def _add_verilog(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", nargs="?", help="what to generate; without it the presets are listed")
    add_changes(parser)
    parser.add_argument("--name", metavar="MODULE", help="the module's name (default: the preset's, and what --set "
                        "changes)")  # fmt: skip
    parser.add_argument("--double-underscores", action="store_true", help="name the ports of streams i__valid and so "
                        "on, as before; VHDL forbids such names (goes with the next release)")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", default=Path("out"), help="folder (default: out)")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def _verilog(args: argparse.Namespace) -> int:
    from ..files import check_folder
    from .config import PRESETS
    from .design import build, build_preset, sidecar, write_design

    if args.preset is None:
        if args.json:
            print(json.dumps({name: text for name, (text, _) in PRESETS.items()}, indent=2))
        else:
            width = max(map(len, PRESETS))
            for name, (text, _) in PRESETS.items():
                print(f"{name:{width}}  {text}")
        return 0
    check_folder(args.out)
    design = build_preset(args.preset, args.set, args.name)
    if args.double_underscores:
        design = build(design.config, design.name, separator="__")
    paths = write_design(design, args.out)
    if args.json:
        print(json.dumps({"files": [str(p) for p in paths], **sidecar(design)}, indent=2))
    else:
        for path in paths:
            print(path)
    return 0


def _add_registers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", default="markdown", help="markdown (default), c, rdl (SystemRDL), svd (CMSIS-SVD), "
                        "ipxact (IP-XACT)")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="default: print it")


def _registers(args: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..files import check_file, write_files
    from .engine.register_files import FORMATS

    if args.format not in FORMATS:
        raise InputError(f"format: {args.format!r}, expected one of {', '.join(FORMATS)}")
    if args.out is None:
        print(FORMATS[args.format](), end="")
        return 0
    check_file(args.out)
    write_files({args.out: FORMATS[args.format]().encode()})
    print(args.out)
    return 0


def _add_driver(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", default=Path("out"), help="folder (default: out)")
    parser.add_argument("--linux", action="store_true", help="also access by UIO and a device-tree binding")
    parser.add_argument("--litex", action="store_true", help="also a LiteX peripheral, and GEMMs by its DMAs")


def _driver(args: argparse.Namespace) -> int:
    from ..files import check_folder
    from .driver import write_driver

    check_folder(args.out)
    for path in write_driver(args.out, linux=args.linux, litex=args.litex):
        print(path)
    return 0


COMMANDS = {
    "driver": (
        "write the engine's driver in C: freestanding, two files and the register map",
        "Writes DIR/fgmp_driver.h, fgmp_driver.c and fgmp_engine.h. One for all engines.\n"
        "\n  fgmp driver -o sw"
        "\n  fgmp driver --linux -o sw"
        "\n  fgmp driver --litex -o sw",
        _add_driver,
        _driver,
    ),
    "registers": (
        "write the engine's register map: Markdown, C header, SystemRDL, CMSIS-SVD, IP-XACT",
        "One map for all engines.\n\n  fgmp registers > registers.md\n  fgmp registers --format rdl -o engine.rdl",
        _add_registers,
        _registers,
    ),
    "verilog": (
        "generate a unit's Verilog, its JSON sidecar and its port table",
        "Writes DIR/NAME.v, NAME.json, NAME.md and a FuseSoC core file for a preset, for an engine also a C header and "
        "the memory wrapper fgmp_ram_1r1w.v (one for all engines of a design). "
        "The same call gives the same bytes.\n"
        "\n  fgmp verilog                     # lists the presets"
        "\n  fgmp verilog engine -o rtl"
        "\n  fgmp verilog lane --set pipeline=2 sharing=merged -o rtl",
        _add_verilog,
        _verilog,
    ),
}
