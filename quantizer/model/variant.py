"""A quantized variant of a model, and how it takes the place of the model for a while."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...formats import BLOCK_SIZE, ceil_div
from ...golden.packing import Packed
from ..choose.joint import Expected
from ..prepare.channels import Channels
from ..prepare.registrations import registrations, replace_registered
from ..prepare.sites import Site
from .layers import FGMPLinear, quantized_layer
from .site import SiteQuantizer

__all__ = ["Variant", "apply"]


@dataclass(frozen=True)
class Variant:
    """One way to quantize a model: its packed weights and what each site does (None: activations stay as they are).

    `model` is the quantized model itself where there is one, otherwise the layers are put into the original, whose
    `channels` are then put in the order that they were quantized in. `expected` is what a choice by energy expects.
    """

    name: str
    weights: dict[str, Packed]
    quantizers: dict[str, SiteQuantizer] | None
    exact: bool = True
    modules: dict[str, FGMPLinear] = field(default_factory=dict)
    model: nn.Module | None = None
    channels: Channels | None = None
    permuted: bool = False
    expected: Expected | None = None

    @property
    def activation_fp4_share(self) -> float | None:
        """Share of the activation blocks quantized so far that were FP4."""
        if self.quantizers is None:
            return None
        sites = {id(q): q for q in self.quantizers.values()}.values()  # a site counts once, however many read it
        blocks = sum(q.blocks for q in sites)
        return 1 - sum(q.fp8_blocks for q in sites) / blocks if blocks else 0.0

    @property
    def weight_fp4_share(self) -> float:
        """Share of the weight blocks that are FP4."""
        blocks = sum(p.shape[0] * ceil_div(p.shape[1], BLOCK_SIZE) for p in self.weights.values())
        return sum(p.scales.numel() for p in self.weights.values()) / blocks


@contextmanager
def apply(model: nn.Module, sites: Sequence[Site], variant: Variant) -> Iterator[None]:
    """Replace the model's linears by those of `variant` inside the `with` block."""
    if variant.channels is not None:
        variant.channels.set(variant.permuted)
    originals: dict[str, nn.Module] = {}
    held = registrations(model)
    for site in sites:
        for name in site.linears:
            linear: Any = model.get_submodule(name)
            originals[name] = linear
            if name not in variant.modules:
                quantizer = None if variant.quantizers is None else variant.quantizers[site.name]
                variant.modules[name] = quantized_layer(linear, variant.weights[name], quantizer, variant.exact)
            replace_registered(held, linear, variant.modules[name])
    try:
        yield
    finally:
        for name, linear in originals.items():
            replace_registered(held, variant.modules[name], linear)
        for quantizer in (variant.quantizers or {}).values():
            quantizer.forget()
