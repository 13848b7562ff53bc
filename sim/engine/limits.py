"""Scenarios at the limits that the register map states: the largest sizes, exponents at their ends, full-scale sums."""

import torch
from torch import Tensor

from ...formats import BLOCK_SIZE, TENSOR_EXPONENT_LIMIT, ceil_div
from ...golden.blocks import Blocks, MixedTensor
from ...golden.packing import pack
from ...golden.selector import SiteSettings, Threshold
from ..ties import full_scale_ties
from .checks import Bench
from .gemm import Gemm
from .random_gemms import random_gemm, random_mixed

__all__ = ["limits"]

_LARGEST_N = 65_535
_WIDE_M = (1 << 16) + 3


def limits(bench: Bench) -> None:
    """Every size and exponent at the ends of what is legal."""
    _sizes(bench)
    _exponents(bench)
    _full_scale(bench)


def _sizes(bench: Bench) -> None:
    config, chance = bench.config, bench.chance
    for outputs in (4095, 4096, 4097, 1 << 15, _LARGEST_N):  # also that of the highest bit alone
        bench.gemm("wide", random_gemm((2, outputs, 1), chance, config, kind=(False, "float32")))
    if config.packed_output:
        for outputs in {config.n_max - 1, config.n_max} & set(range(1, _LARGEST_N + 1)):
            bench.gemm("widest packed", random_gemm((2, outputs, 1), chance, config, kind=(False, "packed")))
    if config.lanes <= 16:  # larger ones simulate slowly
        bench.gemm("tall", random_gemm((_WIDE_M, 1, 1), chance, config, kind=(False, "float32")))
    for raw in (False, True) if config.raw_input != "none" else (False,):
        for columns in {config.k_max - 15, config.k_max}:
            bench.gemm("longest", random_gemm((3, 3, columns), chance, config, kind=(raw, "float32")))


def _exponents(bench: Bench) -> None:
    """Of both operands, of raw activations and of packed results, at either end and one before it."""
    config, chance = bench.config, bench.chance
    generator = torch.Generator().manual_seed(chance.randrange(1 << 30))
    columns, outputs = min(40, config.k_max), min(40, config.n_max)
    ends = [sign * (TENSOR_EXPONENT_LIMIT - less) for sign in (-1, 1) for less in (0, 1)]
    for own in ends:
        for other in ends:
            weight = _with_exponent(random_mixed(5, columns, 0.5, generator), own)
            for output in ("float32", "bfloat16"):
                gemm = Gemm(
                    pack(weight), _with_exponent(random_mixed(3, columns, 0.5, generator), other), output=output
                )
                bench.gemm("exponents", gemm)
    for exponent in ends:
        if config.raw_input != "none":
            x = torch.randn(3, columns, generator=generator) * 2.0**exponent
            gemm = Gemm(
                pack(random_mixed(5, columns, 0.5, generator)),
                x.to(getattr(torch, config.raw_input)),
                settings=_settings(bench, exponent, columns, generator),
            )
            bench.gemm("exponent of raw input", gemm)
        if config.packed_output:
            gemm = Gemm(
                pack(_with_exponent(random_mixed(outputs, columns, 0.5, generator), exponent)),
                _with_exponent(random_mixed(3, columns, 0.5, generator), 0),
                output="packed",
                output_settings=_settings(bench, exponent, outputs, generator),
            )
            bench.gemm("exponent of packed output", gemm)


def _full_scale(bench: Bench) -> None:
    """Rows of the longest K whose sums are nearly the largest there are, at ties."""
    operands = full_scale_ties(bench.config.k_max)
    if operands is None:
        return
    a, w = (side.tensor((len(side.fp8), bench.config.k_max), 0) for side in operands)
    for output in ("float32", "bfloat16"):
        bench.gemm("full scale", Gemm(pack(w), a, output=output))


def _settings(bench: Bench, exponent: int, channels: int, generator: torch.Generator) -> SiteSettings:
    codes: Tensor | None = None
    if bench.config.channel_codes:
        shape = ceil_div(channels, BLOCK_SIZE), BLOCK_SIZE
        codes = torch.randint(0, 16, shape, generator=generator, dtype=torch.uint8)
    return SiteSettings(
        exponent, Threshold(200, 14), channel_codes=codes, four_over_six=bench.config.four_over_six and exponent > 0
    )


def _with_exponent(tensor: MixedTensor, exponent: int) -> MixedTensor:
    blocks = Blocks(tensor.fp8, tensor.scales, tensor.codes)
    return blocks.tensor((tensor.shape[0], tensor.shape[1]), exponent)
