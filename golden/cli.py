"""The commands of this package: `fgmp vectors`, `inspect`, `train`, and those of `llm`."""

import argparse
import json
from pathlib import Path

from .llm.cli import COMMANDS as _LLM_COMMANDS
from .llm.cli import print_folder

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


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a folder that fgmp quantize wrote, or a packed .safetensors file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _inspect(args: argparse.Namespace) -> int:
    if args.file.is_dir():
        return print_folder(args.file, args.json)
    from .packed_file import load_packed
    from .packing import describe, unpack

    layers = describe({name: unpack(packed, name) for name, packed in load_packed(args.file).items()})
    if args.json:
        print(json.dumps({"file": str(args.file), "tensors": layers}, indent=2))
        return 0
    width = max((len(layer["name"]) for layer in layers), default=4)
    print(f"{'tensor':{width}}  {'shape':>13}  exponent  FP8 share      bytes  bits/weight")
    for layer in layers:
        shape = "x".join(map(str, layer["shape"]))
        print(
            f"{layer['name']:{width}}  {shape:>13}  {layer['tensor_exponent']:8}  {layer['fp8_share']:9.1%}"
            f"  {layer['bytes']:9,}  {layer['bits_per_weight']:11.4f}"
        )
    print(f"{len(layers)} tensors, {sum(layer['bytes'] for layer in layers):,} bytes, all checksums match")
    return 0


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", required=True, help="folder for model and card")
    parser.add_argument("--steps", type=int, default=4000, help="batches of 8,192 tokens, default 4000")
    parser.add_argument("--seed", type=int, default=1, help="default 1")


def _train(args: argparse.Namespace) -> int:
    from ..errors import InputError

    if args.steps < 1:
        raise InputError(f"steps: {args.steps}, expected at least 1")
    if not 0 <= args.seed < 1 << 31:
        raise InputError(f"seed: {args.seed}, expected 0 to {(1 << 31) - 1}")
    from .tinylm.train import train

    train(args.out, args.steps, args.seed)
    return 0


COMMANDS = {
    **_LLM_COMMANDS,
    "vectors": (
        "write test vectors for a unit",
        "Writes DIR/UNIT.npz, a $readmemh file per array and a manifest. The same call gives the same bytes anywhere.",
        _add_vectors,
        _vectors,
    ),
    "inspect": (
        "verify a quantized model or packed file and list its layers",
        "Verifies version, checksums and every structural rule, then prints shape, FP8 share and size of each tensor.",
        _add_inspect,
        _inspect,
    ),
    "train": (
        "train the small model that ships with fgmp",
        "Trains on the running Python's own sources and documentation; a stopped run continues where it was.",
        _add_train,
        _train,
    ),
}
