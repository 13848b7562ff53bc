"""`fgmp cache`."""

import argparse
import json
from typing import Any

__all__ = ["COMMANDS"]


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clear", action="store_true", help="remove everything that is kept")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _cache(args: argparse.Namespace) -> int:
    from .cache import LIMIT_BYTES, SIMULATORS, SYNTHESIS, clear, entries

    report: dict[str, Any] = {}
    for folder in (SIMULATORS, SYNTHESIS):
        held = list(entries(folder))
        report[str(folder)] = {"entries": len(held), "bytes": sum(entry.bytes for entry in held)}
        if args.clear:
            report[str(folder)]["cleared"] = clear(folder)
    if args.json:
        print(json.dumps({"limit_bytes": LIMIT_BYTES, "folders": report}, indent=2))
        return 0
    for name, what in report.items():
        verb = "cleared" if args.clear else "kept"
        print(f"{name}: {what['entries']} entries, {what['bytes'] / (1 << 20):,.1f} MiB {verb}")
    print(f"each may hold {LIMIT_BYTES / (1 << 30):g} GiB; what was used longest ago goes first")
    return 0


COMMANDS = {
    "cache": (
        "show or clear what is kept of slow tools",
        "Compiled simulators, mapped netlists and simulated energies are kept in out/simulators and out/synth of the "
        "working directory. Entries are checked when they are used, and made again where they are damaged.\n"
        "\n  fgmp cache"
        "\n  fgmp cache --clear",
        _add_cache,
        _cache,
    )
}
