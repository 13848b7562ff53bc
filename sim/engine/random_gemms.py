"""GEMMs with random operands, for benches and the regression."""

import itertools
import random
from collections.abc import Iterator

import torch
from torch import Tensor

from ...formats import BLOCK_SIZE, SELECTOR_MODES, TENSOR_EXPONENT_LIMIT, ceil_div
from ...golden.blocks import MixedTensor, tensor_exponent
from ...golden.packing import pack
from ...golden.random_blocks import blocks_in_precisions
from ...golden.selector import SiteSettings, Threshold
from ...hdl.config import EngineConfig
from ...hdl.engine.config import K_TILE
from .gemm import Gemm

__all__ = ["corner_sizes", "random_gemm", "random_mixed", "random_settings", "uniform_gemm"]


def random_mixed(rows: int, columns: int, fp4_fraction: float, generator: torch.Generator) -> MixedTensor:
    """Heavy-tailed values whose blocks are FP4 with the given probability."""
    x = torch.randn(rows, columns, generator=generator) * torch.randn(rows, 1, generator=generator).exp()
    exponent = tensor_exponent(x)
    shape = (rows, ceil_div(columns, BLOCK_SIZE))
    fp8 = torch.rand(shape, generator=generator, dtype=torch.float64) >= fp4_fraction
    return blocks_in_precisions(x, fp8, exponent).tensor((rows, columns), exponent)


def random_settings(x: Tensor, chance: random.Random, config: EngineConfig, generator: torch.Generator) -> SiteSettings:
    """Any registers for a selector that is to quantize `x` (rows, channels)."""
    blocks = ceil_div(x.shape[1], BLOCK_SIZE)
    exponent = min(max(tensor_exponent(x) + chance.randrange(-1, 2), -TENSOR_EXPONENT_LIMIT), TENSOR_EXPONENT_LIMIT)
    threshold = Threshold(chance.randrange(256), chance.randrange(8, 24))
    mode = chance.choice(("dynamic", "dynamic", *SELECTOR_MODES))
    static = torch.rand(blocks, generator=generator) >= 0.5
    codes = torch.randint(0, 16, (blocks, BLOCK_SIZE), generator=generator, dtype=torch.uint8)
    return SiteSettings(
        exponent,
        threshold,
        mode,
        static_fp8=static,
        channel_codes=codes if config.channel_codes else None,
        four_over_six=config.four_over_six and chance.random() < 0.5,
    )


def random_gemm(
    sizes: tuple[int, int, int], chance: random.Random, config: EngineConfig, *, kind: tuple[bool, str] | None = None
) -> Gemm:
    """A GEMM of sizes (M, N, K) with random operands, formats and registers; `kind` fixes (raw input, output).

    With packed results N is at most what the engine takes.
    """
    rows, outputs, columns = sizes
    generator = torch.Generator().manual_seed(chance.randrange(1 << 30))
    outs = ("float32", "bfloat16", *(("packed",) if config.packed_output else ()))
    raw, output = kind or (config.raw_input != "none" and chance.random() < 0.5, chance.choice(outs))
    outputs = min(outputs, config.n_max) if output == "packed" else outputs
    weight = pack(random_mixed(outputs, columns, chance.choice((0, 0.5, 0.7, 1)), generator))
    relu = chance.random() < 0.3
    settings = None
    activations: MixedTensor | Tensor
    if raw:
        spread = torch.randn(1, columns, generator=generator).mul(2).exp()
        activations = (torch.randn(rows, columns, generator=generator) * spread).to(getattr(torch, config.raw_input))
        settings = random_settings(activations.float(), chance, config, generator)
    else:
        activations = random_mixed(rows, columns, chance.choice((0, 0.5, 0.7, 1)), generator)
    if output != "packed":
        return Gemm(weight, activations, settings=settings, output=output, relu=relu)
    plain = Gemm(weight, activations, settings=settings, relu=relu).expected()
    return Gemm(
        weight,
        activations,
        settings=settings,
        output=output,
        output_settings=random_settings(plain, chance, config, generator),
        relu=relu,
    )


def uniform_gemm(rows: int, outputs: int, columns: int, fp4_fraction: float, seed: int) -> Gemm:
    """Packed in, float32 out, one FP4 fraction for both operands: the GEMM that performance is stated for."""
    generator = torch.Generator().manual_seed(seed)
    weight = random_mixed(outputs, columns, fp4_fraction, generator)
    return Gemm(pack(weight), random_mixed(rows, columns, fp4_fraction, generator))


def corner_sizes(config: EngineConfig) -> Iterator[tuple[int, int, int]]:
    """(M, N, K) from one to two tiles plus one, at and around every edge."""
    edges = [{1, t - 1, t, t + 1, 2 * t - 1, 2 * t, 2 * t + 1} for t in (config.rows, config.lanes)]
    columns = {1, BLOCK_SIZE, BLOCK_SIZE + 1, K_TILE - 1, K_TILE, K_TILE + 1, 2 * K_TILE, 2 * K_TILE + 1}
    yield from itertools.product(*map(sorted, edges), sorted(k for k in columns if k <= config.k_max))
