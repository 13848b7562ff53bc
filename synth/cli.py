"""`fgmp synth`."""

import argparse
import json
from dataclasses import asdict

__all__ = ["COMMANDS"]


def _add_synth(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="default: lane selector")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _synth(args: argparse.Namespace) -> int:
    from ..hdl.verilog import build_preset
    from .generic import synthesize

    designs = [build_preset(name) for name in args.presets or ["lane", "selector"]]
    cells = {design.name: asdict(synthesize(design)) for design in designs}
    if args.json:
        print(json.dumps(cells, indent=2))
    else:
        for name, counts in cells.items():
            print(
                f"{name}: {counts['total']:,} generic cells, {counts['flip_flops']:,} of them flip-flops, "
                f"{counts['latches']} latches"
            )
    return 0


COMMANDS = {
    "synth": (
        "synthesize units with yosys and count generic cells",
        "Technology-independent: shows that the Verilog synthesizes and compares units with one another, no more.",
        _add_synth,
        _synth,
    )
}
