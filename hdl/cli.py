"""`fgmp verilog`."""

import argparse
import json
from pathlib import Path

__all__ = ["COMMANDS"]


def _add_verilog(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", nargs="?", help="what to generate; without it the presets are listed")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="change parameters, such as pipeline=5"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", default=Path("out"), help="folder (default: out)")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def _verilog(args: argparse.Namespace) -> int:
    from .config import PRESETS
    from .verilog import build_preset, sidecar, write_design

    if args.preset is None:
        if args.json:
            print(json.dumps({name: text for name, (text, _) in PRESETS.items()}, indent=2))
        else:
            width = max(map(len, PRESETS))
            for name, (text, _) in PRESETS.items():
                print(f"{name:{width}}  {text}")
        return 0
    design = build_preset(args.preset, args.set)
    paths = write_design(design, args.out)
    if args.json:
        print(json.dumps({"files": [str(p) for p in paths], **sidecar(design)}, indent=2))
    else:
        for path in paths:
            print(path)
    return 0


COMMANDS = {
    "verilog": (
        "generate a unit's Verilog, its JSON sidecar and its port table",
        "Writes DIR/NAME.v, NAME.json and NAME.md for a preset, for an engine also a C header and a FuseSoC core file. "
        "The same call gives the same bytes.",
        _add_verilog,
        _verilog,
    )
}
