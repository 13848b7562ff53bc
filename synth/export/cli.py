"""`fgmp export`."""

import argparse
import json
from pathlib import Path

from ...hdl.cli import add_changes

__all__ = ["COMMANDS"]


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("unit", metavar="UNIT", help="a preset of fgmp verilog")
    add_changes(parser)
    parser.add_argument(
        "--tools", nargs="+", action="collect", metavar="TOOL", help="librelane, openroad, vivado; default: all"
    )
    parser.add_argument("--period", type=float, default=10.0, metavar="NS", help="of the clock, default 10")
    parser.add_argument("--utilization", type=int, default=40, metavar="PERCENT", help="of the core, default 40")
    parser.add_argument("--platform", default="sky130hd", help="of OpenROAD-flow-scripts, default sky130hd")
    parser.add_argument("--part", default="xczu7ev-ffvc1156-2-e", help="for Vivado, default xczu7ev-ffvc1156-2-e")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="folder, default out/export/UNIT")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def _export(args: argparse.Namespace) -> int:
    from ...files import check_folder
    from ...hdl.design import build_preset
    from .projects import TOOLS, export

    out = args.out or Path("out") / "export" / args.unit
    check_folder(out)
    design = build_preset(args.unit, args.set)
    paths = export(
        design,
        out,
        tuple(dict.fromkeys(args.tools or TOOLS)),
        period=args.period,
        utilization=args.utilization,
        platform=args.platform,
        part=args.part,
    )
    if args.json:
        print(json.dumps([str(path) for path in paths], indent=2))
    else:
        for path in paths:
            print(path)
    return 0


COMMANDS = {
    "export": (
        "write projects for layout and FPGA tools",
        "Writes a unit's Verilog with constraints (SDC, XDC) and the project files of LibreLane, OpenROAD-flow-scripts "
        "and Vivado (docs/export.md).\n"
        "\n  fgmp export engine -o out/export",
        _add_export,
        _export,
    )
}
