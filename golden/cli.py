"""The command `fgmp vectors`."""

import argparse
from pathlib import Path

__all__ = ["COMMANDS"]


def _add_vectors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("unit", help="lane or selector")
    parser.add_argument("--count", type=int, default=1000, help="rows (lane) or blocks (selector), default 1000")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("--k", type=int, default=256, help="lane: values in a row, default 256")
    parser.add_argument("--k-max", type=int, default=4096, help="lane: what the accumulator is built for, default 4096")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR", default=Path("out/vectors"), help="default out/vectors"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest instead of the file names")


def _vectors(args: argparse.Namespace) -> int:
    from .vectors import write_vectors

    paths = write_vectors(args.unit, args.count, args.seed, args.out, k=args.k, k_max=args.k_max)
    if args.json:
        print((args.out / f"{args.unit}_manifest.json").read_text(), end="")
    else:
        for path in paths:
            print(path)
    return 0


COMMANDS = {
    "vectors": (
        "write test vectors for a unit",
        "Writes DIR/UNIT.npz, a $readmemh file per array and a manifest. The same call gives the same bytes anywhere.\n"
        "\n  fgmp vectors lane --count 1000 --seed 7 -o vectors",
        _add_vectors,
        _vectors,
    ),
}
