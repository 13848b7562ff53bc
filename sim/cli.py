"""`fgmp demo` and `fgmp simulate`."""

import argparse
import json
import sys
from pathlib import Path

__all__ = ["COMMANDS"]


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="transformers model folder (default: the shipped one)"
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="text (default: the running Python's own)")
    parser.add_argument(
        "--fp4-fraction", type=float, nargs="+", default=[0.7, 0.9], metavar="P", help="fractions, default 0.7 0.9"
    )
    parser.add_argument("--samples", type=int, default=64, help="calibration windows of 512 tokens, default 64")
    parser.add_argument("--windows", type=int, default=48, help="evaluation windows of 512 tokens, default 48")
    parser.add_argument("--rows", type=int, default=24, help="activation rows through the simulated lane, default 24")
    parser.add_argument("--lane", default="lane", metavar="PRESET", help="default lane")
    parser.add_argument("--selector", default="selector", metavar="PRESET", help="default selector")
    parser.add_argument("--seed", type=int, default=1, help="of the random policy, default 1")
    parser.add_argument("--simulator", default="verilator", help="verilator (default) or icarus")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", default=Path("out/demo"), help="default out/demo")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON instead of the table")


def _demo(args: argparse.Namespace) -> int:
    from ..golden.llm.models import SHIPPED_MODEL
    from .demo import DemoOptions, run_demo

    options = DemoOptions(
        model=args.model or SHIPPED_MODEL,
        text=args.text,
        out=args.out,
        fractions=tuple(args.fp4_fraction),
        samples=args.samples,
        windows=args.windows,
        rows=args.rows,
        lane=args.lane,
        selector=args.selector,
        seed=args.seed,
        simulator=args.simulator,
    )
    say = (lambda line: None) if args.json else (lambda line: print(line, flush=True))
    numbers = run_demo(options, say=say, progress=sys.stderr.isatty())
    if args.json:
        print(json.dumps(numbers, indent=2))
    return 1 if numbers["differences"] else 0


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="default: lane selector")
    parser.add_argument("--count", type=int, default=2000, help="random rows or blocks per campaign, default 2000")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("--k", type=int, help="lane: length of the random rows (default: 16 to 192)")
    parser.add_argument("--no-model", action="store_true", help="leave out rows captured from the shipped model")
    parser.add_argument("--simulator", default="verilator", help="verilator (default) or icarus")
    parser.add_argument("--waves", type=Path, metavar="FILE", help="record waveforms as FST (one preset only)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _simulate(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..errors import InputError
    from .regression import regress
    from .runner import summarize

    presets = args.presets or ["lane", "selector"]
    if args.count < 1:
        raise InputError(f"count: {args.count}, expected at least 1")
    if not 1 <= args.seed < 1 << 31:
        raise InputError(f"seed: {args.seed}, expected 1 to {(1 << 31) - 1}")
    if args.k is not None and not any(preset.startswith("lane") for preset in presets):
        raise InputError(f"k: {args.k} given for {', '.join(presets)}, expected a lane (others work block by block)")
    if args.waves is not None and len(presets) != 1:
        raise InputError(f"waves: {len(presets)} presets given, expected one")
    summary = {}
    for preset in presets:
        bar = tqdm(desc=preset, unit="campaign", disable=not sys.stderr.isatty(), leave=False)

        def announce(name: str, total: int, bar: "tqdm[None]" = bar) -> None:
            bar.reset(total)

        def done(name: str, bar: "tqdm[None]" = bar) -> None:
            bar.set_postfix_str(name)
            bar.update()

        with bar:
            results = regress(
                preset,
                count=args.count,
                seed=args.seed,
                k=args.k if preset.startswith("lane") else None,
                model=not args.no_model,
                simulator=args.simulator,
                waves_to=args.waves,
                announce=announce,
                on_campaign=done,
            )
        summary[preset] = summarize(results)
        if not args.json:
            for result in results:
                print(f"{preset}  {result.name:48} {result.compared:8,} compared  {result.differences:6,} different")
                if result.first:
                    print(result.first)
    compared = sum(s["compared"] for s in summary.values())
    differences = sum(s["differences"] for s in summary.values())
    if args.json:
        print(json.dumps({"compared": compared, "differences": differences, "presets": summary}, indent=2))
    else:
        print(f"results compared {compared:,}, differences {differences}")
    return 1 if differences else 0


COMMANDS = {
    "demo": (
        "the whole job: quantize, compare formats, generate Verilog, prove it on the model's own numbers",
        "Writes Verilog, sidecars, packed weights, vectors and report.html to the output folder.",
        _add_demo,
        _demo,
    ),
    "simulate": (
        "run the regression of lanes and selectors in a Verilog simulator",
        "Compares every result bit for bit with the golden model. Exit code 1 if any differs.",
        _add_simulate,
        _simulate,
    ),
}
