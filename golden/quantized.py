"""Runs a model with quantized linears: every number in them is what the hardware computes, bit for bit."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import MixedTensor
from .gemm import exact_gemm
from .models import Site
from .selector import Selected, SiteRegisters, select

__all__ = ["QuantizedLinear", "SiteQuantizer", "Variant", "apply"]


class SiteQuantizer:
    """Quantizes one site's activations once for all linears that read it, and counts its blocks."""

    def __init__(self, registers: SiteRegisters, random_fp4: float | None = None, seed: int = 0):
        """With `random_fp4` the choice is not the selector's but random, leaving that fraction of blocks in FP4."""
        self.registers = registers
        self.fp8_blocks = 0
        self.blocks = 0
        self._random_fp4 = random_fp4
        self._generator = torch.Generator().manual_seed(seed)
        self._last: tuple[Tensor, Tensor] | None = None

    def select(self, x: Tensor) -> Selected:
        """Quantize (..., K)."""
        if self._random_fp4 is None:
            return select(x, self.registers)
        shape = (*x.shape[:-1], -(-x.shape[-1] // 16))
        pattern = torch.rand(shape, generator=self._generator) >= self._random_fp4
        return select(x, SiteRegisters(self.registers.exponent, self.registers.threshold, "static"), pattern)

    def __call__(self, x: Tensor) -> Tensor:
        """Stored values (M, K), float64, of `x` (..., K)."""
        if self._last is None or self._last[0] is not x:
            rows = x.reshape(-1, x.shape[-1])
            selected = self.select(rows)
            self.blocks += selected.mask.numel()
            self.fp8_blocks += int(selected.mask.sum())
            tensor = selected.tensor((len(rows), rows.shape[1]), self.registers.exponent)
            self._last = (x, tensor.stored().double())
        return self._last[1]

    def forget(self) -> None:
        """Drop the activations of the last call."""
        self._last = None


class QuantizedLinear(nn.Module):
    """A linear layer whose product is exact and rounded once to float32; the bias is added in float32."""

    def __init__(self, weight: MixedTensor, bias: Tensor | None, site: SiteQuantizer):
        super().__init__()
        self.stored = weight.stored().double()
        self.weight_exponent = weight.exponent
        self.bias = bias
        self.site = site

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N), float32."""
        exponent = self.weight_exponent + self.site.registers.exponent
        y = exact_gemm(self.site(x), self.stored, exponent).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True)
class Variant:
    """One way to quantize a model: its weights and what each site does."""

    name: str
    weights: dict[str, MixedTensor]
    quantizers: dict[str, SiteQuantizer]
    modules: dict[str, QuantizedLinear] = field(default_factory=dict)

    @property
    def activation_fp4_share(self) -> float:
        """Share of the activation blocks quantized so far that were FP4."""
        blocks = sum(q.blocks for q in self.quantizers.values())
        return 1 - sum(q.fp8_blocks for q in self.quantizers.values()) / blocks if blocks else 0.0

    @property
    def weight_fp4_share(self) -> float:
        """Share of the weight blocks that are FP4."""
        return 1 - sum(int(t.mask.sum()) for t in self.weights.values()) / sum(
            t.mask.numel() for t in self.weights.values()
        )


@contextmanager
def apply(model: Any, sites: list[Site], variant: Variant) -> Iterator[None]:
    """Replace the model's linears by those of `variant` inside the `with` block."""
    originals: dict[str, nn.Linear] = {}
    for site in sites:
        for name in site.linears:
            originals[name] = model.get_submodule(name)
            if name not in variant.modules:
                quantizer = variant.quantizers[site.name]
                variant.modules[name] = QuantizedLinear(variant.weights[name], originals[name].bias, quantizer)
            model.set_submodule(name, variant.modules[name])
    try:
        yield
    finally:
        for name, linear in originals.items():
            model.set_submodule(name, linear)
        for quantizer in variant.quantizers.values():
            quantizer.forget()
