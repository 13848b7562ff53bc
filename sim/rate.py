"""What decoding and prefill of a language model cost on an engine: from its configuration alone, without weights."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError, first_line
from ..formats import ceil_div
from ..hdl.config import EngineConfig
from ..hdl.engine.rate import GemmLoad, gemm_rate
from ..quantizer.config import DEFAULT_IGNORE
from ..quantizer.prepare.linears import LinearExperts, prepare, target_linears

__all__ = ["RateRequest", "Shape", "model_shapes", "rate_model"]

_MHZ, _GB = 1e6, 1e9


@dataclass(frozen=True)
class Shape:
    """Linears of one size.

    Attributes:
        outputs, inputs: N and K.
        count: how many there are.
        experts: how many of them are experts of one layer, of which each token reads `chosen`; 1 where all are read.
        chosen: see `experts`.
    """

    outputs: int
    inputs: int
    count: int
    experts: int = 1
    chosen: int = 1

    def calls(self, tokens: int) -> list[tuple[float, int]]:
        """The products that so many tokens need: how many there are with how many rows. Experts are chosen evenly."""
        read = min(self.experts, tokens * self.chosen)
        rows, more = divmod(tokens * self.chosen, read)
        each = self.count / self.experts
        return [(each * number, size) for number, size in ((read - more, rows), (more, rows + 1)) if number]


@dataclass(frozen=True, kw_only=True)
class RateRequest:
    """What is asked of `rate_model`.

    Attributes:
        engine: its configuration.
        tokens: numbers of tokens that go through the model at once: 1 is decoding, a prompt's length prefill.
        fp4: share of blocks in FP4, of weights and activations.
        clock: in MHz.
        memory: what memory brings and takes, in GB/s; None: whatever the engine can.
        energy: a file that `fgmp energy` wrote, for pJ per block pair.
        memory_energy: pJ per byte of the streams.
        ignore: globs of linears that are not quantized.
    """

    engine: EngineConfig
    tokens: tuple[int, ...] = (1,)
    fp4: float = 0.7
    clock: float = 100.0
    memory: float | None = None
    energy: Path | None = None
    memory_energy: float = 0.0
    ignore: tuple[str, ...] = DEFAULT_IGNORE

    def __post_init__(self) -> None:
        if not 0 <= self.fp4 <= 1:
            raise InputError(f"fp4: {self.fp4}, expected a number from 0 to 1")
        for name in ("clock", "memory"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name}: {value}, expected more than 0")
        if not 0 <= self.memory_energy < float("inf"):
            raise InputError(f"memory_energy: {self.memory_energy}, expected at least 0")
        if wrong := [count for count in self.tokens if not 1 <= count < 1 << 24]:
            raise InputError(f"tokens: {wrong[0]}, expected 1 to {(1 << 24) - 1}")


def model_shapes(model: str | Path, ignore: Sequence[str] = DEFAULT_IGNORE) -> list[Shape]:
    """The linears of a causal language model that would be quantized, by size, from its config.json.

    `model` is a transformers folder, its config.json, or a name on a hub. Raises InputError where it is none.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    path = Path(model)
    folder = path.parent if path.name == "config.json" else path
    local = path.exists()
    if path.is_file() and path.name != "config.json":
        raise InputError(f"model {model}: a file, expected a folder with config.json, or that file")
    if not local and (path.is_absolute() or str(model).count("/") != 1 or str(model).startswith(".")):
        raise InputError(f"model {model}: not found, expected a folder with config.json, or such a file")
    try:
        # Code that comes with a model is never run.
        options = {"local_files_only": local, "trust_remote_code": False}
        config = transformers.AutoConfig.from_pretrained(folder if local else model, **options)
        with torch.device("meta"):
            network = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its parts raise on a broken configuration
        reason = first_line(error)
        if "trust_remote_code" in str(error):
            reason = "it comes with code of its own, which is not run"
        raise InputError(f"model {model}: no model can be made of its config.json ({reason})") from None
    prepare(network, ignore)
    chosen = _chosen(network)
    found = Counter(
        (linear.out_features, linear.in_features, *chosen.get(name, (1, 1)))
        for name, linear in target_linears(network, ignore).items()
    )
    return [Shape(n, k, count, experts, read) for (n, k, experts, read), count in found.items()]


def _chosen(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Of each expert's linear: how many experts its layer has, and how many of them a token reads."""
    config: Any = getattr(model, "config", None)
    names = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k")
    read = next((value for name in names if isinstance(value := getattr(config, name, None), int)), None)
    result = {}
    for name, module in model.named_modules():
        if isinstance(module, LinearExperts):
            experts = len(module.down_proj)
        elif isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == "experts":
            experts = len(module)
        else:
            continue
        for inner, linear in module.named_modules():
            if isinstance(linear, nn.Linear):
                result[f"{name}.{inner}"] = (experts, min(read or experts, experts))
    return result


def rate_model(shapes: Sequence[Shape], request: RateRequest) -> dict[str, Any]:
    """Cycles, bytes and, where asked for, energy of all linears in a row, at the FP4 share asked for and in all FP8.

    Activations come as values where the engine quantizes them itself; results leave as float32.
    """
    pj = None if request.energy is None else _energy_rows(request)
    rows = []
    for tokens in request.tokens:
        mixed, fp8 = (_pass(shapes, request, tokens, fp4, pj) for fp4 in (request.fp4, 0.0))
        row = {"tokens": tokens, "fgmp": mixed, "fp8": fp8, "speedup": fp8["cycles"] / mixed["cycles"]}
        if pj is not None:
            row["energy_saved"] = 1 - mixed["joules_per_token"] / fp8["joules_per_token"]
        rows.append(row)
    return {
        "schema": "fgmp-rate/1",
        "engine": {"lanes": request.engine.lanes, "rows": request.engine.rows, "slots": request.engine.slots,
                   "weight_streams": request.engine.weight_streams},
        "fp4": request.fp4,
        "clock_mhz": request.clock,
        "memory_gb_s": request.memory,
        "linears": sum(shape.count for shape in shapes),
        "weights": sum(shape.count * shape.outputs * shape.inputs for shape in shapes),
        "shapes": [vars(shape) for shape in shapes],
        "rows": rows,
    }  # fmt: skip


def _pass(
    shapes: Sequence[Shape], request: RateRequest, tokens: int, fp4: float, pj: dict[float, tuple[float, float]] | None
) -> dict[str, Any]:
    """All linears once, for so many tokens."""
    engine = request.engine
    memory = float("inf") if request.memory is None else request.memory * _GB / (request.clock * _MHZ)
    stream = min(16.0, memory / engine.weight_streams)
    cycles = moved = weights = energy = 0.0
    for shape in shapes:
        for calls, rows in shape.calls(tokens):
            load = GemmLoad(
                rows=rows,
                outputs=shape.outputs,
                columns=shape.inputs,
                weight_fp4=fp4,
                activation_fp4=fp4,
                raw=engine.raw_input != "none",
            )
            rate = gemm_rate(engine, load, stream_bytes=stream)
            total = rate.weight_bytes + rate.activation_bytes + rate.result_bytes
            cycles += calls * max(rate.cycles, total / memory)
            weights += calls * rate.weight_bytes
            moved += calls * total
            if pj is not None:
                pair, buffer = pj[fp4]
                # A step's weights are read once for all its rows: fewer rows share them than in a full tile.
                fewer = engine.rows * ceil_div(rows, engine.rows) / rows - 1
                pairs = rate.products * engine.lanes
                energy += calls * (pairs * (pair + buffer * fewer) + total * request.memory_energy) * 1e-12
    seconds = cycles / (request.clock * _MHZ)
    result = {
        "cycles": round(cycles),
        "cycles_per_token": cycles / tokens,
        "tokens_per_second": tokens / seconds,
        "weight_bytes": round(weights),
        "bytes_per_token": moved / tokens,
        "weight_gb_s": weights / seconds / _GB,
    }
    return result if pj is None else {**result, "joules_per_token": energy / tokens}


def _energy_rows(request: RateRequest) -> dict[float, tuple[float, float]]:
    """pJ per block pair and, of these, the weight buffer's, at the FP4 share asked for and in all FP8.

    Dynamic activations come first. Raises InputError for a table of another engine.
    """
    path = request.energy
    assert path is not None
    try:
        table = json.loads(path.read_text())
        rows = {
            (row["fp4_fraction"], row["activations"] == "dynamic"): (
                float(row["pj"]),
                float(row["parts_pj"]["weight_buffer"]),
            )
            for row in table["rows"]
        }
        measured = {name: table["engine"][name] for name in ("lanes", "rows", "slots")}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"energy table {path}: cannot be read, expected energy.json of fgmp energy") from None
    for name, found in measured.items():
        if found != (expected := getattr(request.engine, name)):
            raise InputError(f"energy table {path}: of an engine with {found} {name}, expected {expected}")
    result = {}
    for fp4 in (request.fp4, 0.0):
        row = rows.get((fp4, True)) or rows.get((fp4, False))
        if row is None:
            there = ", ".join(f"{share:g}" for share in sorted({share for share, _ in rows}))
            raise InputError(f"energy table {path}: no row at {fp4:g} FP4, expected one of {there}")
        result[fp4] = row
    return result
