"""A quantized language model whose linears run on the simulated engine, each result held against the golden model."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...formats import BLOCK_SIZE, PRECISION_MODES, ceil_div
from ...golden.packing import unpack
from ...golden.precision_modes import count_precision_modes
from ...golden.selector import SiteSettings
from ...hdl.config import EngineConfig, preset
from ...hdl.design import build_preset
from ...quantizer.model.default_text import read_corpus
from ...quantizer.model.language_model import is_quantized, load_model
from ...quantizer.model.layers import FGMPLinear, set_exact
from ...quantizer.model.manifest import read_manifest
from ...quantizer.model.text import read_text
from ..runner import CACHE, check_tools
from ..tally import Tally, totals
from .driver import EngineDriver, Result, check_gemm
from .gemm import Gemm
from .random_gemms import uniform_gemm
from .verilated import VerilatedEngine, build_library

__all__ = ["LayerTally", "ModelRun", "Phase", "run_model"]


@dataclass
class LayerTally:
    """One linear's work on the engine, over all its calls.

    `precision_modes` counts block pairs by the formats of activation and weight, `bytes` what its streams carried.
    """

    name: str
    shape: tuple[int, int]
    _: KW_ONLY
    calls: int = 0
    rows: int = 0
    cycles: int = 0
    products: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0
    tally: Tally = field(default_factory=Tally)
    precision_modes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PRECISION_MODES, 0))

    def add(self, gemm: Gemm, result: Result, golden: Tensor) -> None:
        """Count one GEMM, and how many of its results differ from the golden ones in any bit."""
        assert isinstance(result.value, Tensor)
        bits = torch.int32 if golden.dtype == torch.float32 else torch.int16
        same = (result.value.view(bits) == golden.view(bits)) | (result.value.isnan() & golden.isnan())
        self.calls += 1
        self.rows += gemm.rows
        self.tally.add(golden.numel(), int((~same).sum()))
        self.cycles += result.counters["cycles"]
        self.products += result.counters["products"]
        self.weight_bytes += result.weight_bytes
        self.activation_bytes += result.activation_bytes
        for mode, count in count_precision_modes(gemm.quantized(), unpack(gemm.weight)).items():
            self.precision_modes[mode] += count

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with shares of the precision modes."""
        pairs = max(sum(self.precision_modes.values()), 1)
        return {
            **{k: v for k, v in vars(self).items() if k not in ("tally", "precision_modes")},
            **totals([self.tally]),
            "utilization": self.products / max(self.cycles, 1),
            "precision_modes": {mode: count / pairs for mode, count in self.precision_modes.items()},
        }


@dataclass(kw_only=True)
class Phase:
    """All linears' work in one kind of pass: prefill (many tokens at once) or decode (one).

    Attributes:
        name: of the kind.
        passes, tokens: how often the model ran, and on how many tokens.
        cycles, weight_beats, weight_bytes, bytes: on the engine; `bytes` of all streams.
        fp8_cycles, fp8_bytes: the same work with weights and activations all in FP8.
    """

    name: str
    passes: int = 0
    tokens: int = 0
    cycles: int = 0
    weight_beats: int = 0
    weight_bytes: int = 0
    bytes: int = 0
    fp8_cycles: int = 0
    fp8_bytes: int = 0

    def add(self, result: Result, fp8: Result) -> None:
        """Count one GEMM, and what it is in all FP8."""
        self.cycles += result.counters["cycles"]
        self.weight_beats += result.counters["weight_beats"]
        self.weight_bytes += result.weight_bytes
        self.bytes += _moved(result)
        self.fp8_cycles += fp8.counters["cycles"]
        self.fp8_bytes += _moved(fp8)

    def as_dict(self, clock: float) -> dict[str, Any]:
        """Plain values; `clock` in MHz."""
        tokens = max(self.tokens, 1)
        return {
            **vars(self),
            "cycles_over_weight_beats": self.cycles / max(self.weight_beats, 1),
            "cycles_per_token": self.cycles / tokens,
            "bytes_per_token": self.bytes / tokens,
            "tokens_per_second": clock * 1e6 * self.tokens / max(self.cycles, 1),
            "fp8_cycles_per_token": self.fp8_cycles / tokens,
            "fp8_bytes_per_token": self.fp8_bytes / tokens,
            "fp8_tokens_per_second": clock * 1e6 * self.tokens / max(self.fp8_cycles, 1),
            "speedup": self.fp8_cycles / max(self.cycles, 1),
        }


def _moved(result: Result) -> int:
    return result.weight_bytes + result.activation_bytes + len(result.data)


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """The result of `run_model`. Perplexities are over `tokens` - 1 predictions; `generated` is greedy.

    `phases` are prefill and, where tokens were generated, decode; `clock`, in MHz, is for their tokens per second.
    `expected` are shares of the precision modes, where the choice of the model's blocks said any.
    """

    tokens: int
    perplexity: float
    golden_perplexity: float
    generated: str
    golden_generated: str
    layers: list[LayerTally]
    phases: list[Phase]
    clock: float
    cycles: int
    seconds: float
    expected: dict[str, float] | None = None

    @property
    def precision_modes(self) -> dict[str, float]:
        """Share of all block pairs by precision mode."""
        counts = {mode: sum(layer.precision_modes[mode] for layer in self.layers) for mode in PRECISION_MODES}
        return {mode: count / max(sum(counts.values()), 1) for mode, count in counts.items()}

    @property
    def differences(self) -> int:
        """Results that differ, and perplexity or text if they do."""
        return (
            totals(layer.tally for layer in self.layers)["differences"]
            + (self.perplexity != self.golden_perplexity)
            + (self.generated != self.golden_generated)
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for machines."""
        return {
            "schema": "fgmp-simulate-model/1",
            **{k: v for k, v in vars(self).items() if k not in ("layers", "phases")},
            **totals(layer.tally for layer in self.layers),
            "differences": self.differences,
            "precision_modes": self.precision_modes,
            "cycles_per_second": self.cycles / self.seconds,
            "phases": [phase.as_dict(self.clock) for phase in self.phases],
            "layers": [layer.as_dict() for layer in self.layers],
        }


def run_model(
    folder: Path,
    *,
    tokens: int = 32,
    generate: int = 8,
    text: str | None = None,
    engine: str = "engine",
    clock: float = 100.0,
    cache: Path = CACHE,
    announce: Callable[[int], None] | None = None,
    on_layer: Callable[[str], None] | None = None,
) -> ModelRun:
    """Run `tokens` tokens of text, then `generate` more of its own, through a folder that `fgmp quantize` wrote.

    All linears that are quantized run on the engine, activations going in as float32 through its selector; everything
    else is torch. Every result is compared with the golden model's, bit for bit, and the model goes on with the RTL's.
    Each GEMM is run once more in all FP8, for its cycles alone. `clock` in MHz is what tokens per second are told for.
    `announce` is told how many linears will be run, `on_layer` the name of each that is done.
    """
    check_tools("verilator")
    if not folder.is_dir():
        raise InputError(f"model folder {folder}: not found, expected a folder that fgmp quantize wrote")
    if not is_quantized(folder):
        raise InputError(f"model folder {folder}: is not quantized, expected a folder that fgmp quantize wrote")
    config = preset(engine)
    if not isinstance(config, EngineConfig):
        raise InputError(f"preset: {engine!r}, expected an engine")
    for name, value, least in (("tokens", tokens, 2), ("generate", generate, 0)):
        if value < least:
            raise InputError(f"{name}: {value}, expected at least {least}")
    if not 0 < clock < float("inf"):
        raise InputError(f"clock: {clock}, expected more than 0")
    language_model = load_model(folder, quantized=True)
    language_model.check_window(tokens + generate)
    model = language_model.model
    set_exact(model, True)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, FGMPLinear)}
    ids = language_model.tokens(read_corpus().held_out[:20_000] if text is None else read_text(text, "text"))[:tokens]
    if len(ids) < tokens:
        raise InputError(f"text: {len(ids)} tokens, expected at least {tokens}")
    tallies = {name: LayerTally(name, (la.out_features, la.in_features)) for name, la in layers.items()}
    for name, layer in layers.items():
        _check_layer(name, layer, config)
    if announce:
        announce(len(layers) * (1 + generate))
    with torch.no_grad():
        golden = _perplexity(model, ids)
        golden_text = _generate(language_model, ids, generate)
        simulated = VerilatedEngine(build_library(build_preset(engine), cache=cache))
        driver = EngineDriver(simulated, config)
        begin, cycles = time.perf_counter(), simulated.cycles
        phases = [Phase(name="prefill"), Phase(name="decode")]
        with _on_engine(model, layers, tallies, phases, driver, on_layer or (lambda name: None)):
            perplexity = _perplexity(model, ids)
            generated = _generate(language_model, ids, generate)
        seconds = time.perf_counter() - begin
    return ModelRun(
        tokens=tokens,
        perplexity=perplexity,
        golden_perplexity=golden,
        generated=generated,
        golden_generated=golden_text,
        layers=list(tallies.values()),
        phases=[phase for phase in phases if phase.passes],
        clock=clock,
        cycles=simulated.cycles - cycles,
        seconds=seconds,
        expected=(read_manifest(folder).get("expected") or {}).get("pairs"),
    )


def _check_layer(name: str, layer: FGMPLinear, config: EngineConfig) -> None:
    if layer.quantizer is None:
        raise InputError(f"linear {name}: its activations are not quantized, expected a model quantized with them")
    if layer.in_features > config.k_max:
        raise InputError(f"linear {name}: K is {layer.in_features}, expected at most {config.k_max} in this engine")


def _perplexity(model: Any, ids: Tensor) -> float:
    logits = model(input_ids=ids[None]).logits[0, :-1].double()
    return float(nn.functional.cross_entropy(logits, ids[1:]).exp())


def _generate(language_model: Any, ids: Tensor, count: int) -> str:
    if not count:
        return ""
    out = language_model.model.generate(ids[None], max_new_tokens=count, min_new_tokens=count, do_sample=False)
    return language_model.tokenizer.decode(out[0, len(ids) :])


@contextmanager
def _on_engine(
    model: nn.Module,
    layers: dict[str, FGMPLinear],
    tallies: dict[str, LayerTally],
    phases: list[Phase],
    driver: EngineDriver,
    done: Callable[[str], None],
) -> Iterator[None]:
    """Let the layers' results come from the engine inside the `with` block; the last of `phases` is for one token."""
    running = phases[0]
    in_fp8: dict[tuple[int, int, int, str, bool], Result] = {}

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal running
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        running = phases[-1 if ids.shape[-1] == 1 else 0]
        running.passes += 1
        running.tokens += ids.numel()

    def fp8(gemm: Gemm) -> Result:
        key = (gemm.rows, gemm.outputs, gemm.columns, gemm.output, gemm.raw)
        if key not in in_fp8:
            in_fp8[key] = driver.run(_in_fp8(gemm))
        return in_fp8[key]

    def replaced(name: str, layer: FGMPLinear) -> Callable[[Tensor], Tensor]:
        tally = tallies[name]

        def forward(x: Tensor) -> Tensor:
            gemm = _gemm(layer, x.reshape(-1, x.shape[-1]), driver.config)
            result = driver.run(gemm)
            tally.add(gemm, result, gemm.expected())
            running.add(result, fp8(gemm))
            done(name)
            assert isinstance(result.value, Tensor)
            y = result.value.view(*x.shape[:-1], -1).to(x.dtype)
            return y if layer.bias is None else y + layer.bias

        return forward

    hook = model.register_forward_pre_hook(begin, with_kwargs=True)
    for name, layer in layers.items():
        layer.forward = replaced(name, layer)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        hook.remove()
        for layer in layers.values():
            del layer.forward  # the class's own again


def _in_fp8(gemm: Gemm) -> Gemm:
    """A GEMM of the same size and kinds of input and output, all of whose blocks are FP8."""
    plain = uniform_gemm(gemm.rows, gemm.outputs, gemm.columns, 0.0, seed=0)
    if gemm.raw:
        assert gemm.settings is not None
        settings = SiteSettings(gemm.settings.exponent, mode="all_fp8", channel_codes=gemm.settings.channel_codes)
        return Gemm(plain.weight, gemm.activations, settings=settings, output=gemm.output)
    return Gemm(plain.weight, plain.activations, output=gemm.output)


def _gemm(layer: FGMPLinear, x: Tensor, config: EngineConfig) -> Gemm:
    """One call of a layer. What the engine's selector cannot do, the golden one does, and its blocks are sent."""
    assert layer.quantizer is not None
    settings = layer.quantizer.settings
    output = "bfloat16" if x.dtype == torch.bfloat16 else "float32"
    in_hardware = config.raw_input == "float32" and (config.four_over_six or not settings.four_over_six)
    if in_hardware and (settings.channel_codes is None or config.channel_codes):
        if config.channel_codes and settings.channel_codes is None:
            codes = torch.zeros(ceil_div(x.shape[1], BLOCK_SIZE), BLOCK_SIZE, dtype=torch.uint8)
            settings = replace(settings, channel_codes=codes)
        gemm = Gemm(layer.packed, x.float(), settings=settings, output=output)
    else:
        gemm = Gemm(layer.packed, layer.quantizer.tensor(x), output=output)
    check_gemm(gemm, config)
    return gemm
