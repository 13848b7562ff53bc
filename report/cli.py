"""`fgmp report` and `fgmp demo`."""

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
        "--fp4-fraction",
        type=float,
        nargs="+",
        action="collect",
        default=[0.7, 0.9],
        metavar="P",
        help="fractions, default 0.7 0.9",
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
    from ..quantizer.model.language_model import SHIPPED_MODEL
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


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="JSON of any command (--json), a folder "
                        "that fgmp quantize wrote, a packed file, or a folder that holds such")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, default=Path("out/report.html"), metavar="FILE", help="default "
                        "out/report.html")  # fmt: skip
    parser.add_argument("--title", help="of the page")


def _report(args: argparse.Namespace) -> int:
    from ..files import check_file, write_text
    from .build import report

    check_file(args.out)
    page = report(args.paths, args.title)
    write_text(args.out, page)
    print(f"written: {args.out} ({len(page.encode()) / 1e6:.1f} MB)")
    return 0


def _add_claims(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help="default: all that --list shows")
    parser.add_argument("--list", action="store_true", help="say what there is to run, and about how long it takes")
    parser.add_argument("--liberty", metavar="FILE", help="standard cells for the runs that need them (default: as "
                        "fgmp energy finds one; the documents' figures are of sky130_fd_sc_hd)")  # fmt: skip
    parser.add_argument("--again", action="store_true", help="also what was run before")
    parser.add_argument("-o", "--out", type=Path, default=Path("out/claims"), metavar="DIR", help="where what was "
                        "printed is kept, default out/claims")  # fmt: skip
    parser.add_argument("--publish", type=Path, metavar="CHECKOUT", help="write the figures into the documents of a "
                        "checkout of the repository")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _claims(args: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..files import check_folder, write_json
    from .claims.catalogue import CLAIMS, RUNS
    from .claims.publish import check_checkout, publish, published
    from .claims.run import measure

    if args.list:
        for run in RUNS.values():
            needs = ", needs --liberty" if run.needs_liberty else ""
            print(f"{run.name:18} about {run.minutes:g} minutes{needs}")
        return 0
    if args.liberty is not None and not Path(args.liberty).is_file():
        raise InputError(f"Liberty file {args.liberty}: not found, expected a Liberty file")
    check_folder(args.out)
    if args.publish is not None:
        check_checkout(args.publish)
    figures = measure(
        args.runs or list(RUNS),
        args.out,
        args.liberty,
        again=args.again,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    write_json(args.out / "figures.json", figures)
    if args.publish is not None:
        for path in publish(figures, args.publish):
            print(f"written: {path}", file=sys.stderr)
    if args.json:
        print(json.dumps(figures, indent=2))
        return 0
    stated = published()["figures"]
    print(f"{'':66}  {'the paper':>9}  {'documents':>40}  {'here':>40}")
    for claim in CLAIMS:
        if claim.name in figures["figures"]:
            here = figures["figures"][claim.name]
            print(f"{claim.text or claim.name:66}  {claim.paper:>9}  {stated.get(claim.name, ''):>40}  {here:>40}")
    return 0


COMMANDS = {
    "demo": (
        "the whole job: quantize, compare formats, generate Verilog, prove it on the model's own numbers",
        "Writes Verilog, sidecars, packed weights, vectors and report.html to the output folder.\n"
        "\n  fgmp demo"
        "\n  fgmp demo --model MODEL --text text.txt --fp4-fraction 0.5 0.7 0.9",
        _add_demo,
        _demo,
    ),
    "report": (
        "one HTML page of any runs: quantized models, evaluations, simulations, energy, synthesis, sweeps",
        """Makes one page of what runs wrote. It holds the precision map of every layer, tables and plots, opens in any
browser, and fetches nothing.

  fgmp report OUT                                    # a folder that fgmp quantize wrote
  fgmp evaluate OUT --text test.txt --json > evaluate.json
  fgmp simulate --json > simulate.json
  fgmp report OUT evaluate.json simulate.json out/energy/energy.json -o report.html""",
        _add_report,
        _report,
    ),
    "claims": (
        "measure what the documents claim, by the commands behind each figure",
        """Runs the commands behind the figures in the README and docs/, and prints each figure beside the one that is
stated there. What was run already is not run again, so that a run that was stopped goes on.

  fgmp claims --list
  fgmp claims demo engine
  fgmp claims --liberty sky130_fd_sc_hd__tt_025C_1v80.lib.gz""",
        _add_claims,
        _claims,
    ),
}
