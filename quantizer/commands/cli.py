"""The commands `fgmp quantize`, `evaluate`, `inspect` and `train`."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config import FGMPConfig

__all__ = ["COMMANDS"]


def _add_method(parser: argparse.ArgumentParser) -> None:
    """Options that say how, shared by both commands."""
    group = parser.add_argument_group("method")
    group.add_argument("--samples", type=int, default=128, metavar="N", help="calibration windows, default 128")
    group.add_argument("--threshold-samples", type=int, default=16, metavar="N", help="of these, how many set the "
                       "activation threshold, default 16")  # fmt: skip
    group.add_argument("--ignore", nargs="+", action="collect", default=[], metavar="GLOB", help="names of linears "
                       "that stay as they are, besides the output embedding and routers")  # fmt: skip
    group.add_argument("--no-default-ignore", action="store_true", help="only what --ignore says stays as it is")
    group.add_argument("--seed", type=int, default=0, help="of the policy random, default 0")
    group.add_argument("--no-special-tokens", action="store_true", help="leave out what the tokenizer puts before and "
                       "after a text by default, such as BOS")  # fmt: skip
    group.add_argument("--trust-remote-code", action="store_true", help="run the Python code that a model comes with")
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, or auto to spread a large model "
                       "over all (needs accelerate)")  # fmt: skip


def _add_quantize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="transformers model: a local folder or a hub id")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder for the quantized model")
    parser.add_argument("--calibration", required=True, metavar="TEXT", help="text file, python:train (this "
                        "Python's own text), or a data set NAME[:CONFIG[:SPLIT]] (needs the extra hub)")  # fmt: skip
    parser.add_argument("--fp4-fraction", type=float, default=0.7, metavar="P", help="blocks in FP4, or, by energy, "
                        "the energy and memory of so many; default 0.7")  # fmt: skip
    parser.add_argument("--fp4-weights", type=float, metavar="P", help="the same for weights alone")
    parser.add_argument("--fp4-activations", type=float, metavar="P", help="the same for activations alone")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")
    group = parser.add_argument_group("what a block costs, and where the line is drawn")
    group.add_argument("--policy", default="fisher", help="fisher (default), quantization-error, output-error, random, "
                       "or paper: the paper's method exactly (fisher, by fraction, rounded to nearest, no "
                       "permutation)")  # fmt: skip
    group.add_argument("--choice", help="energy (default: FP8 where it saves most loss for its energy, weights and "
                       "activations together) or fraction (a threshold for each)")  # fmt: skip
    group.add_argument("--budget", metavar="B", help="of the choice by energy: energy=X of what FP8-only hardware "
                       "takes, pj=X per block pair, bits=X per weight, or several with commas between; default: the "
                       "energy and bits that --fp4-fraction takes by fraction")  # fmt: skip
    group.add_argument("--prices", type=Path, metavar="FILE", help="energy.json of fgmp energy, for what a block pair "
                       "takes (default: SkyWater 130 nm)")  # fmt: skip
    group.add_argument("--no-permutation", action="store_true", help="leave channels in their order; by default "
                       "delicate ones share blocks, where that provably changes nothing")  # fmt: skip
    group.add_argument("--threshold", default="global", help="global (default) or per-layer")
    group.add_argument("--no-clip", action="store_true", help="FP4 weight scales from amax / 6, not by sensitivity")
    group.add_argument("--rounding", help="of weights: gptq (default: column by column, each making up for the errors "
                       "of those before it) or nearest")  # fmt: skip
    group.add_argument("--sensitivity", default="fisher", help="of weights: fisher (default), or factored: rows times "
                       "columns, for little memory")  # fmt: skip
    group.add_argument("--activations", default="dynamic", help="dynamic (default: decided block by block on the "
                       "fly), static (a pattern fixed at calibration) or none (weights only)")  # fmt: skip
    group.add_argument("--four-over-six", action="store_true", help="activation scales from amax / 6 or amax / 4 (for "
                       "hardware that is built with it)")  # fmt: skip
    group.add_argument("--channel-codes", action="store_true", help="weigh activation channels by powers of two")
    _add_method(parser)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="while the model is measured, and "
                        "of what is not quantized (default: float32, and as the model stores it)")  # fmt: skip
    parser.add_argument("--window", type=int, metavar="T", help="tokens in a sample (default: 512, or the model's "
                        "positions if those are fewer)")  # fmt: skip
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument("--layer-by-layer", action="store_true", help="one block's weights in memory at a time, the "
                        "rest in files beside OUT: for models larger than memory; needs accelerate")  # fmt: skip
    parser.add_argument("--checkpoint-every", type=float, default=30.0, metavar="SECONDS", help="how often calibration "
                        "saves its sums (0: after every sample), default 30")  # fmt: skip
    parser.add_argument("--max-shard-mib", type=int, default=4096, metavar="MIB", help="largest file, default 4096")


def _config(args: argparse.Namespace) -> "FGMPConfig":
    from ...errors import InputError
    from ..config import FGMPConfig
    from ..prices import Prices

    chosen = {name: getattr(args, name) for name in ("choice", "budget", "rounding")}
    changes: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    if args.prices is not None:
        changes["prices"] = Prices.read(args.prices)
    if args.no_permutation:
        changes["permutation"] = False
    paper = args.policy == "paper"
    if paper and changes:
        flag = next(iter(changes)).replace("permutation", "no-permutation")
        raise InputError(f"--{flag}: given with --policy paper, which says it already; expected one of them")
    return (FGMPConfig.paper if paper else FGMPConfig)(
        **changes,
        fp4_weights=args.fp4_fraction if args.fp4_weights is None else args.fp4_weights,
        fp4_activations=args.fp4_fraction if args.fp4_activations is None else args.fp4_activations,
        policy="fisher" if paper else args.policy,
        threshold=args.threshold,
        clip=not args.no_clip,
        sensitivity=args.sensitivity,
        activations=args.activations,
        four_over_six=args.four_over_six,
        channel_codes=args.channel_codes,
        samples=args.samples,
        threshold_samples=args.threshold_samples,
        seed=args.seed,
        ignore=_ignored(args),
    )


def _quantize(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from ...errors import InputError
    from .quantize import QuantizeRequest, run_quantization

    _check_device(args.device)
    if args.max_shard_mib < 1:
        raise InputError(f"max-shard-mib: {args.max_shard_mib}, expected at least 1")
    if not args.checkpoint_every >= 0:
        raise InputError(f"checkpoint-every: {args.checkpoint_every}, expected seconds, at least 0")
    config = _config(args)
    if args.window is not None:
        config = replace(config, window=args.window)  # which checks it before the model is loaded
    request = QuantizeRequest(
        model=args.model,
        out=args.out,
        calibration=args.calibration,
        config=config,
        window=args.window,
        dtype=args.dtype,
        device=args.device,
        gradient_checkpointing=args.gradient_checkpointing,
        layer_by_layer=args.layer_by_layer,
        checkpoint_seconds=args.checkpoint_every,
        max_shard_bytes=args.max_shard_mib << 20,
        special_tokens=not args.no_special_tokens,
        trust_remote_code=args.trust_remote_code,
    )
    description = run_quantization(request, say=lambda line: print(line, file=sys.stderr), progress=_progress())
    if not description:  # a process of torchrun that only helped
        return 0
    if args.json:
        print(json.dumps(description, indent=2))
    else:
        linears = description["linears"]
        print(
            f"{args.out}: {len(linears)} linears, {description['weights']:,} weights in {description['bytes']:,} bytes"
        )
        print(f"{description['bits_per_weight']:.4f} bits per weight, {_against_fp8(description)}")
        if description["expected"]:
            print(_expected(description["expected"]))
    return 0


def _expected(expected: dict[str, Any]) -> str:
    pairs = ", ".join(f"{name} {share:.1%}" for name, share in expected["pairs"].items())
    return (
        f"expected: {expected['pj']:.1f} pJ per block pair, {_share(1 - expected['energy'])} FP8-only hardware; "
        f"activations x weights: {pairs}"
    )


def _print_folder(folder: Path, as_json: bool) -> int:
    """`fgmp inspect` of a quantized folder."""
    from .quantize import describe_folder

    description = describe_folder(folder)
    if as_json:
        print(json.dumps(description, indent=2))
        return 0
    layers = description["linears"]
    width = max(len(layer["name"]) for layer in layers)
    print(f"{'linear':{width}}  {'shape':>13}  FP8 share       bytes  bits/weight  exponent  input: mode    threshold")
    for layer in layers:
        shape = "x".join(map(str, layer["shape"]))
        threshold = "" if layer["mode"] != "dynamic" else f"{layer['threshold']:.4g}"
        print(
            f"{layer['name']:{width}}  {shape:>13}  {layer['fp8_share']:9.1%}  {layer['bytes']:10,}"
            f"  {layer['bits_per_weight']:11.4f}  {layer['tensor_exponent']:8}  {layer['mode'] or 'as it is':>11}"
            f"  {threshold:>11}"
        )
    print(
        f"{len(layers)} linears, {description['bytes']:,} bytes, {description['bits_per_weight']:.4f} bits per weight, "
        f"{_against_fp8(description)}; all checksums match"
    )
    if description["expected"]:
        print(_expected(description["expected"]))
    return 0


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder or hub id, or a folder that fgmp quantize wrote")
    parser.add_argument("--text", required=True, metavar="TEXT", help="text file, data set NAME[:CONFIG[:SPLIT]], or "
                        "python:held-out, this Python's own text")  # fmt: skip
    parser.add_argument("--original", metavar="MODEL", help="of a quantized folder: the model it was made from "
                        "(default: what it names itself, if that is there)")  # fmt: skip
    parser.add_argument("--formats", nargs="+", action="collect", metavar="FORMAT", help="of a model: fp8, nvfp4, "
                        "fgmp:P or fgmp:energy=X, with options after commas (default: fp8 nvfp4 fgmp:0.7,paper "
                        "fgmp:0.7)")  # fmt: skip
    parser.add_argument("--ablation", type=float, metavar="P", help="of a model: from the paper's method to the "
                        "default step by step, and all policies and refinements, at this FP4 fraction")  # fmt: skip
    parser.add_argument("--calibration", metavar="TEXT", help="of a model: what to calibrate the formats on")
    parser.add_argument("--window", type=int, metavar="T", help="tokens in a window (default: the model's positions, "
                        "at most 2048)")  # fmt: skip
    parser.add_argument("--stride", type=int, metavar="T", help="tokens between windows (default: the window)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="evaluate on the first N tokens only")
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="windows at a time, default 4")
    parser.add_argument("--exact", action="store_true", help="compute as the hardware does, bit for bit (slower)")
    parser.add_argument("--tasks", nargs="+", action="collect", metavar="TASK", help="run these tasks of "
                        "lm-evaluation-harness too (needs the extra harness)")  # fmt: skip
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw perplexity against FP4 fraction and bits")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    _add_method(parser)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"],
                        help="what everything but the quantized products computes in, default float32")  # fmt: skip
    parser.add_argument("--calibration-window", type=int, metavar="T", help="default: 512, or the model's positions if "
                        "those are fewer")  # fmt: skip


def _evaluate(args: argparse.Namespace) -> int:
    from ...plots import check_plot
    from ..evaluate.comparison_report import plot_comparison, table_lines
    from .evaluate import EvaluateRequest, run_evaluation

    _check_device(args.device)
    if args.plot:
        check_plot(args.plot)
    values = {k: v for k, v in vars(args).items() if k in EvaluateRequest.__dataclass_fields__}
    values |= {"ignore": _ignored(args), "special_tokens": not args.no_special_tokens}
    result = run_evaluation(EvaluateRequest(**values), progress=_progress())
    if args.plot:
        plot_comparison(result.comparison, args.plot)
    if args.json:
        print(json.dumps(result.as_json(), indent=2))
        return 0
    for line in (*result.header, "", *table_lines(result.comparison), *result.footer):
        print(line)
    return 0


def _ignored(args: argparse.Namespace) -> tuple[str, ...]:
    from ..config import DEFAULT_IGNORE

    defaults = () if args.no_default_ignore else DEFAULT_IGNORE
    return (*defaults, *(glob for glob in args.ignore if glob not in defaults))


def _against_fp8(description: dict[str, Any]) -> str:
    return f"{_share(description['below_fp8'])} FP8"


def _share(below: float) -> str:
    return f"{abs(below):.1%} {'below' if below >= 0 else 'above'}"


def _check_device(device: str) -> None:
    import torch

    from ...errors import InputError

    if device in ("cpu", "auto"):
        return
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise InputError(f"device: {device!r}, expected cpu, cuda, cuda:N or auto") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device: {device!r}, but torch sees no CUDA device; expected cpu")


def _progress() -> bool:
    return sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a folder that fgmp quantize wrote, or a packed .safetensors file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _inspect(args: argparse.Namespace) -> int:
    if args.file.is_dir():
        return _print_folder(args.file, args.json)
    from ...golden.packed_file import load_packed
    from ...golden.packing import describe, unpack

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
    from ...errors import InputError

    if args.steps < 1:
        raise InputError(f"steps: {args.steps}, expected at least 1")
    if not 0 <= args.seed < 1 << 31:
        raise InputError(f"seed: {args.seed}, expected 0 to {(1 << 31) - 1}")
    from ..tinylm.train import train

    train(args.out, args.steps, args.seed)
    return 0


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="FOLDER", help="a model folder that was quantized: by fgmp, "
                        "ModelOpt or llm-compressor, or FP8 in blocks")  # fmt: skip
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder")
    parser.add_argument("--to", default="plain", help="plain (default), or compressed-tensors, of a folder of fgmp: "
                        "linears of one format throughout stay packed")  # fmt: skip
    parser.add_argument("--dtype", help="of weights that were quantized: float32, bfloat16 or float16 (default: as the "
                        "rest of the model)")  # fmt: skip
    parser.add_argument("--max-shard-mib", type=int, default=4096, metavar="MIB", help="largest file, default 4096")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def _convert(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ...errors import InputError
    from ..exchange.convert import convert

    if args.max_shard_mib < 1:
        raise InputError(f"max-shard-mib: {args.max_shard_mib}, expected at least 1")
    with tqdm(unit="tensor", disable=not _progress(), leave=False) as bar:

        def done(count: int, total: int) -> None:
            bar.total = total
            bar.update(count - bar.n)

        limit = args.max_shard_mib << 20
        result = convert(args.source, args.out, to=args.to, dtype=args.dtype, max_shard_bytes=limit, on_tensor=done)
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    kept = f"; packed: {result['fp8']} FP8, {result['nvfp4']} NVFP4" if args.to != "plain" else ""
    print(f"{args.out}: {result['linears']} linears from {result['from']}, {result['dtype']}{kept}")
    return 0


COMMANDS: dict[str, Any] = {
    "convert": (
        "make a plain model of one that was quantized, also by others, or write ours for others",
        """From ModelOpt (NVFP4, FP8), compressed-tensors (NVFP4, FP8) and FP8 checkpoints in blocks: a plain
transformers folder, which fgmp quantize takes. From a folder of fgmp: a plain one, or compressed-tensors.

  fgmp convert Llama-3.1-8B-NVFP4 llama
  fgmp quantize llama llama-fgmp --calibration train.txt
  fgmp convert llama-fgmp llama-ct --to compressed-tensors""",
        _add_convert,
        _convert,
    ),
    "quantize": (
        "quantize a language model to mixed NVFP4 and FP8",
        """Calibrates MODEL on text, decides block by block (16 weights or activations) what must stay in FP8, and
writes the packed model to OUT. transformers loads it after `fgmp.quantizer.register_transformers()`.

  fgmp quantize meta-llama/Llama-2-7b-hf llama-fgmp --calibration train.txt --fp4-fraction 0.7
  fgmp evaluate llama-fgmp --text test.txt
  torchrun --nproc-per-node 4 -m fgmp quantize MODEL OUT --calibration train.txt --device cuda

A run that was killed continues when it is started again with the same arguments.""",
        _add_quantize,
        _quantize,
    ),
    "evaluate": (
        "perplexity of a model's formats, side by side",
        """Perplexity on text, with standard errors. Of a folder that fgmp quantize wrote: what it computes, beside
float32, all-FP8 and all-NVFP4 where the original model is at hand. Of any other model: the formats that are asked for.

  fgmp evaluate OUT --text test.txt
  fgmp evaluate MODEL --text test.txt --calibration train.txt --formats fp8 nvfp4 fgmp:0.7 fgmp:0.7,random,noclip
  fgmp evaluate MODEL --text test.txt --calibration train.txt --ablation 0.7
  fgmp evaluate MODEL --text test.txt --calibration train.txt --formats fp8 fgmp:0.7 fgmp:0.9 nvfp4 --plot p.svg""",
        _add_evaluate,
        _evaluate,
    ),
    "inspect": (
        "verify a quantized model or packed file and list its layers",
        "Verifies version, checksums and every structural rule, then prints shape, FP8 share and size of each tensor.\n"
        "\n  fgmp inspect OUT"
        "\n  fgmp inspect out/demo/packed-0.7.safetensors --json",
        _add_inspect,
        _inspect,
    ),
    "train": (
        "train the small model that ships with fgmp",
        "Trains on the running Python's own sources and documentation; a stopped run continues where it was.\n"
        "\n  fgmp train -o out/tiny --steps 4000",
        _add_train,
        _train,
    ),
}
