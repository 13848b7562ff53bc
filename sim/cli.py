"""`fgmp simulate`, `waves`, `rate`, `mutants`, `coverage` and `replay`."""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..hdl.cli import add_changes

__all__ = ["COMMANDS"]


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "presets",
        nargs="*",
        metavar="PRESET",
        help="lanes, selectors, engines, parts such as dot-mixed; default: lane selector",
    )
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="instead: run a folder that fgmp quantize wrote on the engine"
    )
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="model: tokens of text, default 32")
    parser.add_argument("--generate", type=int, default=8, metavar="N", help="model: tokens to generate, default 8")
    parser.add_argument("--text", metavar="FILE", help="model: text (default: the running Python's own)")
    parser.add_argument("--engine", default="engine", metavar="PRESET", help="model: default engine")
    parser.add_argument("--clock", type=float, default=100.0, metavar="MHZ", help="model: for tokens per second, "
                        "default 100")  # fmt: skip
    parser.add_argument("--count", type=int, default=4000, help="random rows or blocks per campaign, vectors per "
                        "activity of a part, default 4000")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("--k", type=int, help="lane: length of the random rows (default: 16 to 192)")
    parser.add_argument("--no-model", action="store_true", help="leave out rows captured from the shipped model")
    parser.add_argument("--simulator", default="verilator", help="verilator (default) or icarus")
    parser.add_argument("--bench", default="fast", help="fast (default): a C++ loop; cocotb: of lanes and selectors, "
                        "always with icarus")  # fmt: skip
    add_changes(parser, "such as pipeline=2 sharing=merged")
    parser.add_argument("--campaign", type=float, metavar="HOURS", help="instead: units with random parameters, one "
                        "after the other, for so long; PRESETs say of which kinds (default: all)")  # fmt: skip
    parser.add_argument("--only", nargs="+", action="collect", default=[], metavar="NAME", help="campaigns of a lane "
                        "or selector, scenarios of an engine, activities of a part, as printed")  # fmt: skip
    parser.add_argument("--waves", type=Path, metavar="FILE", help="record one preset: waveforms as .fst or .vcd, "
                        "with a view for GTKWave and Surfer beside them, or activities as .saif")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _simulate(args: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..files import check_file, check_folder
    from .waves.recording import check_headers, trace_format
    from .waves.viewers import view_folder

    if args.model is not None:
        if args.presets:
            raise InputError(f"--model: given with {', '.join(args.presets)}, expected one of them")
        if args.set or args.campaign is not None or args.only or args.waves is not None:
            raise InputError("--model: given with --set, --campaign, --only or --waves, which are of presets; expected "
                             "one of them")  # fmt: skip
        return _simulate_model(args)
    presets = args.presets or ["lane", "selector"]
    if not 1 <= args.count <= 1_000_000:
        raise InputError(f"count: {args.count}, expected 1 to 1000000")
    if not 1 <= args.seed < 1 << 31:
        raise InputError(f"seed: {args.seed}, expected 1 to {(1 << 31) - 1}")
    if args.campaign is not None:
        return _simulate_random(args)
    if args.k is not None and not any(preset.startswith("lane") for preset in presets):
        raise InputError(f"k: {args.k} given for {', '.join(presets)}, expected a lane (others work block by block)")
    for option, given in (("waves", args.waves is not None), ("only", bool(args.only))):
        if given and len(presets) != 1:
            raise InputError(f"{option}: {len(presets)} presets given, expected one")
    if args.waves is not None:
        check_headers(trace_format(args.waves))
        check_folder(view_folder(args.waves))
    check_file(args.waves)
    summary = {preset: _simulate_preset(args, preset) for preset in presets}
    compared = sum(s["compared"] for s in summary.values())
    differences = sum(s["differences"] for s in summary.values())
    if args.json:
        whole = {"compared": compared, "differences": differences, "presets": summary}
        print(json.dumps({"schema": "fgmp-simulate/1", **whole}, indent=2))
    else:
        print(f"results compared {compared:,}, differences {differences}")
    return 1 if differences else 0


def _simulate_preset(args: argparse.Namespace, preset: str) -> dict[str, Any]:
    """The regression of one preset; prints its campaigns unless JSON is asked for."""
    from tqdm import tqdm

    from ..errors import InputError
    from ..hdl.config import EngineConfig
    from ..hdl.config import preset as preset_config
    from .engine.regression import regress_engine
    from .engine.simulation_report import engine_lines
    from .regression import regress
    from .runner import summarize
    from .waves.viewers import opening_lines

    engine = isinstance(preset_config(preset), EngineConfig)
    if engine and (args.simulator, args.bench) != ("verilator", "fast"):
        raise InputError(f"preset {preset}: an engine runs in verilator, with the fast bench")
    with tqdm(desc=preset, unit="campaign", disable=not sys.stderr.isatty(), leave=False) as bar:

        def announce(name: str, total: int) -> None:
            bar.reset(total)

        def done(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        if engine:
            summary = regress_engine(
                preset,
                args.set,
                seed=args.seed,
                only=args.only,
                waves_to=args.waves,
                announce=announce,
                on_scenario=done,
            )
        else:
            results = regress(
                preset,
                args.set,
                count=args.count,
                seed=args.seed,
                k=args.k if preset.startswith("lane") else None,
                model=not args.no_model,
                simulator=args.simulator,
                bench=args.bench,
                only=args.only,
                waves_to=args.waves,
                announce=announce,
                on_campaign=done,
            )
            summary = summarize(results)
    if args.json:
        return summary
    if args.waves is not None:
        print("\n".join([f"{preset}  recorded in {args.waves}", *opening_lines(args.waves, preset.replace("-", "_"))]))
    if engine:
        print("\n".join(engine_lines(preset, summary)))
        return summary
    for result in results:
        print(f"{preset}  {result.name:48} {result.compared:8,} compared  {result.differences:6,} different")
        if result.first:
            print(result.first)
    return summary


def _add_waves(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", help="a unit, as for fgmp verilog")
    add_changes(parser, "such as pipeline=2 sharing=merged")
    parser.add_argument("--scope", metavar="PATH", help="of the unit in your waveforms, such as tb.dut (default: as in "
                        "those of fgmp simulate)")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="default out/waves/UNIT")


def _waves(args: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..files import check_folder, write_files
    from ..hdl.design import build_preset
    from .waves.viewers import view_files

    if args.scope is not None and not re.fullmatch(
        r"[A-Za-z_]\w*(\[\d+\])?(\.[A-Za-z_]\w*(\[\d+\])?)*", args.scope, re.A
    ):
        raise InputError(f"scope: {args.scope!r}, expected names of instances with points between them")
    design = build_preset(args.preset, args.set)
    out = args.out or Path("out/waves") / design.name
    check_folder(out)
    files = view_files(design, args.scope)
    write_files({out / name: text.encode() for name, text in files.items()})
    print(f"{out}: compile {design.name}_view.sv with the unit; then, in that folder:")
    print(f"  gtkwave WAVES {design.name}.gtkw\n  surfer WAVES --command-file {design.name}.sucl")
    return 0


def _simulate_random(args: argparse.Namespace) -> int:
    from ..errors import InputError
    from .random_units import run_random_units

    if args.set:
        raise InputError(f"--set: {args.set[0]} given with --campaign, which sets all parameters; expected one of them")
    if args.only or args.waves is not None:
        raise InputError("--campaign: given with --only or --waves, which are of one preset; expected one of them")
    if not args.campaign > 0:
        raise InputError(f"campaign: {args.campaign}, expected hours, more than 0")
    say = (lambda line: None) if args.json else (lambda line: print(line, flush=True))
    result = run_random_units(args.presets, 3600 * args.campaign, seed=args.seed, count=args.count, say=say)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{result['units']} units, results compared {result['compared']:,}, failures {len(result['failures'])}")
    return 1 if result["failures"] else 0


def _simulate_model(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .engine.model import run_model
    from .engine.simulation_report import model_lines

    with tqdm(desc="engine", unit="linear", disable=not sys.stderr.isatty(), leave=False) as bar:

        def done(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        run = run_model(
            args.model,
            tokens=args.tokens,
            generate=args.generate,
            text=args.text,
            engine=args.engine,
            clock=args.clock,
            announce=bar.reset,
            on_layer=done,
        )
    print(json.dumps(run.as_dict(), indent=2) if args.json else "\n".join(model_lines(run)))
    return 1 if run.differences else 0


def _add_rate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a transformers folder or its config.json; no weights are read")
    parser.add_argument("--tokens", type=int, nargs="+", action="collect", default=[1, 512], metavar="N",
                        help="tokens at once: 1 decodes, a prompt's length is prefill; default 1 512")  # fmt: skip
    parser.add_argument("--fp4", type=float, default=0.7, metavar="P", help="share of blocks in FP4, default 0.7")
    parser.add_argument("--engine", default="engine", metavar="PRESET", help="default engine")
    add_changes(parser, "such as weight_streams=4 lanes=64 k_max=16384")
    parser.add_argument("--clock", type=float, default=100.0, metavar="MHZ", help="default 100")
    parser.add_argument("--memory", type=float, metavar="GB/S", help="what memory brings and takes (default: as much "
                        "as the engine can)")  # fmt: skip
    parser.add_argument("--energy", type=Path, metavar="FILE", help="energy.json of fgmp energy: also joules per token")
    parser.add_argument("--memory-energy", type=float, default=0.0, metavar="PJ", help="per byte on the streams, for "
                        "joules per token; default 0")  # fmt: skip
    parser.add_argument("--ignore", nargs="+", action="collect", metavar="GLOB", help="linears that are not quantized "
                        "(default: as fgmp quantize)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def _rate(args: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..hdl.config import EngineConfig, changed, preset
    from ..quantizer.config import DEFAULT_IGNORE
    from .rate import RateRequest, model_shapes, rate_model
    from .rate_report import rate_lines

    engine = changed(preset(args.engine), args.set)
    if not isinstance(engine, EngineConfig):
        raise InputError(f"preset: {args.engine!r}, expected an engine")
    request = RateRequest(
        engine=engine,
        tokens=tuple(args.tokens),
        fp4=args.fp4,
        clock=args.clock,
        memory=args.memory,
        energy=args.energy,
        memory_energy=args.memory_energy,
        ignore=tuple(args.ignore or DEFAULT_IGNORE),
    )
    result = rate_model(model_shapes(args.model, request.ignore), request)
    print(json.dumps(result, indent=2) if args.json else "\n".join(rate_lines(result)))
    return 0


def _add_mutants(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="lanes, selectors, engines; default: lane-1k "
                        "selector-four-over-six engine-4")  # fmt: skip
    add_changes(parser, "such as pipeline=2 sharing=merged")
    parser.add_argument("--in", dest="place", choices=("netlist", "source"), default="netlist", help="what is changed: "
                        "gates of the netlist, or operators, bits, conditions and assignments of the source; default "
                        "netlist")  # fmt: skip
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="mutants of each unit, or all there are; "
                        "default 1000")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="which mutants, default 1")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="mutants at a time, default 1")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", default=Path("out/mutants"), help="where what is "
                        "known is kept, default out/mutants")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _mutants(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..errors import InputError
    from ..files import check_folder
    from .mutants.run import run_mutants
    from .runner import check_tools

    for name, least in (("count", 1), ("seed", 0), ("workers", 1)):
        if getattr(args, name) < least:
            raise InputError(f"{name}: {getattr(args, name)}, expected at least {least}")
    check_folder(args.out)
    check_tools("verilator")
    say: Callable[[str], None] = (lambda line: None) if args.json else (lambda line: print(line, flush=True))
    found = []
    for preset in args.presets or ["lane-1k", "selector-four-over-six", "engine-4"]:
        with tqdm(total=args.count, desc=preset, unit="mutant", disable=not sys.stderr.isatty(), leave=False) as bar:
            result = run_mutants(preset, args.set, place=args.place, count=args.count, seed=args.seed, out=args.out,
                                 workers=args.workers, say=say, on_mutants=bar.update)  # fmt: skip
        found.append(result)
        say(f"{result['unit']}: {result['mutants']} mutants, {result['killed']} noticed, {result['equivalent']} proven "
            f"equivalent, {len(result['survived'])} survived: {result['score']:.1%}")  # fmt: skip
    if args.json:
        print(json.dumps(found, indent=2))
    return 1 if any(len(result["survived"]) > len(result["reasons"]) for result in found) else 0


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", help="a lane, a selector, an engine, or a part such as dot-mixed")
    add_changes(parser, "such as pipeline=2 sharing=merged")
    parser.add_argument("--count", type=int, metavar="N", help="random rows or blocks a campaign, vectors an activity "
                        "(24 in each of 64 streams at least), default 200; GEMMs of an engine, default 12")  # fmt: skip
    parser.add_argument("--campaign", nargs="+", action="collect", default=[], metavar="NAME", help="of a lane or "
                        "selector, activities of other units: only these, as fgmp simulate names them")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="default out/replay/UNIT")
    parser.add_argument("--json", action="store_true", help="print the manifest")


def _replay(args: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..files import check_folder
    from ..hdl.config import EngineConfig
    from ..hdl.design import build_preset
    from .replay.folder import write_replay

    if args.seed < 0:
        raise InputError(f"seed: {args.seed}, expected at least 0")
    design = build_preset(args.preset, args.set)
    out = args.out or Path("out/replay") / design.name
    check_folder(out)
    count = args.count if args.count is not None else 12 if isinstance(design.config, EngineConfig) else 200
    words = ["fgmp", "replay", args.preset, "--count", str(count), "--seed", str(args.seed)]
    words += ["--set", *args.set] if args.set else []
    words += ["--campaign", *args.campaign] if args.campaign else []
    manifest = write_replay(
        design, out, command=shlex.join(words), count=count, seed=args.seed, campaigns=args.campaign
    )
    if args.json:
        print(json.dumps(manifest, indent=2))
    else:
        print(f"{out}: {manifest['results']['beats']:,} beats to compare; README.md there says how to run it")
    return 0


def _add_coverage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="lanes, selectors, engines; default: lane-1k "
                        "selector-four-over-six engine-4")  # fmt: skip
    add_changes(parser, "such as pipeline=2 sharing=merged")
    parser.add_argument("--count", type=int, default=4000, help="random rows or blocks per campaign, default 4000")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("--least", type=float, default=0.0, metavar="PERCENT", help="exit code 1 if lines, branches or "
                        "toggles are below, or a bin is empty")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, with all holes")


def _coverage(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..errors import InputError
    from .coverage.measure import coverage_lines, least_share, measure_coverage

    if not 1 <= args.count <= 1_000_000:
        raise InputError(f"count: {args.count}, expected 1 to 1000000")
    if not 0 <= args.least <= 100:
        raise InputError(f"least: {args.least}, expected percent, 0 to 100")
    found = []
    for preset in args.presets or ["lane-1k", "selector-four-over-six", "engine-4"]:
        with tqdm(desc=preset, unit="campaign", disable=not sys.stderr.isatty(), leave=False) as bar:
            update: Callable[[], object] = bar.update
            one = measure_coverage(
                preset, args.set, count=args.count, seed=args.seed, announce=bar.reset, on_campaign=update
            )
        found.append(one)
        if not args.json:
            print("\n".join(coverage_lines(one)), flush=True)
    if args.json:
        print(json.dumps(found, indent=2))
    enough = all(100 * least_share(one) >= args.least for one in found)
    empty = args.least > 0 and any(one["functional"]["holes"] for one in found)
    return 0 if enough and not empty and not any(one["differences"] for one in found) else 1


COMMANDS = {
    "waves": (
        "write a unit's view for GTKWave and Surfer: blocks by element, codes and registers by name",
        "For waveforms of your own simulator; fgmp simulate --waves writes the same beside those that it records.\n"
        "\n  fgmp waves engine-4 --scope tb.dut -o view"
        "\n  fgmp simulate lane --waves lane.fst",
        _add_waves,
        _waves,
    ),
    "coverage": (
        "say what a unit's regression covers: functional bins, lines, branches, toggles",
        "Runs the regression in a build that counts. What never happened is listed, or waived with a reason "
        "(docs/verification.md).\n"
        "\n  fgmp coverage lane-1k"
        "\n  fgmp coverage engine-4 --json > coverage.json"
        "\n  fgmp coverage --least 95",
        _add_coverage,
        _coverage,
    ),
    "replay": (
        "write a unit's recorded streams and answers, with benches in SystemVerilog and cocotb that replay them",
        "The benches need nothing of fgmp: they run in Verilator, Icarus and other simulators, on the Verilog written "
        "beside them or on yours with the same ports.\n"
        "\n  fgmp replay engine-4 -o out/replay"
        "\n  fgmp replay dot-mixed --campaign FP8xFP8",
        _add_replay,
        _replay,
    ),
    "rate": (
        "predict cycles, tokens per second and energy of a language model on an engine, from its config.json",
        "Follows every GEMM's tiles through loaders, buffers, lanes (docs/engine.md), at an FP4 share and in all FP8.\n"
        "\n  fgmp rate MODEL --tokens 1 512"
        "\n  fgmp rate MODEL --set lanes=64 weight_streams=4 k_max=16384 --clock 1000 --memory 64",
        _add_rate,
        _rate,
    ),
    "mutants": (
        "plant faults in a unit's netlist or source, one at a time, and see whether the regression notices each",
        "Every mutant is one gate, bit or connection changed by yosys, or one operator, operand, bit, condition or "
        "assignment of the source. What is not noticed is proven equivalent, or listed: a test is missing, or the "
        "reason is given. May be stopped and continued. Exit code 1 if one survives without a reason.\n"
        "\n  fgmp mutants lane-1k --workers 2"
        "\n  fgmp mutants selector --count 100 --seed 3"
        "\n  fgmp mutants engine-4 --in source --count 500",
        _add_mutants,
        _mutants,
    ),
    "simulate": (
        "run the regression of lanes, selectors, engines and parts, or a whole model, in a Verilog simulator",
        "Compares every result bit for bit with the golden model. Exit code 1 if any differs.\n"
        "\n  fgmp simulate lane selector"
        "\n  fgmp simulate dot-mixed engine-lane"
        "\n  fgmp simulate engine-4 --set rows=16"
        "\n  fgmp simulate engine-4 --only limits --waves engine.vcd"
        "\n  fgmp simulate --campaign 8 --seed 1"
        "\n  fgmp simulate --model OUT --tokens 32",
        _add_simulate,
        _simulate,
    ),
}
