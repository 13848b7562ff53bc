"""The quantized layer, and how a model is made to use it.

`FGMPLinear` holds its weight packed, quantizes its input as the selector does, and multiplies in one of two ways:
exactly (every result is the hardware's, bit for bit) or fast (the same quantized values in the model's own dtype,
whose product rounds as that dtype does).
"""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import MixedTensor
from ..compiled import quantize_mixed
from ..formats import BLOCK_SIZE
from ..gemm import exact_gemm
from ..packing import Packed, packed_sizes, unpack
from ..selector import Selected, SiteRegisters, select
from .sites import Site
from .targets import TransposedLinear
from .thresholds import SitePlan

__all__ = ["FGMPLinear", "SiteQuantizer", "Variant", "apply", "install", "quantizers", "set_exact"]


class SiteQuantizer:
    """Quantizes one site's activations once for all linears that read it, and counts its blocks.

    `readers` is how many linears read the very same tensor; after so many uses it is let go.
    """

    def __init__(self, plan: SitePlan, readers: int = 1):
        self.plan = plan
        self.fp8_blocks = 0
        self.blocks = 0
        self.readers = readers
        self.owned = False
        self.compiled = False
        self._uses = 0
        self._last: Any = None

    @property
    def registers(self) -> SiteRegisters:
        """What software programs into this site's selector."""
        return self.plan.registers

    def select(self, x: Tensor) -> Selected:
        """Quantize (..., K)."""
        plan = self.plan
        static = None if plan.static_fp8 is None else plan.static_fp8.to(x.device)
        codes = None if plan.channel_codes is None else plan.channel_codes.to(x.device)
        x = x if x.dtype in (torch.float32, torch.bfloat16) else x.float()
        return select(x, plan.registers, static, codes, plan.four_over_six)

    def _tensor(self, rows: Tensor) -> MixedTensor:
        """The quantized rows (M, K)."""
        plan, registers = self.plan, self.registers
        shape = (rows.shape[0], rows.shape[1])
        simple = registers.mode == "dynamic" and plan.channel_codes is None and not plan.four_over_six
        if self.compiled and simple and shape[1] % BLOCK_SIZE == 0 and not rows.isnan().any():
            codes, scales, mask = quantize_mixed(rows.contiguous(), registers.exponent, registers.threshold.value)
            return MixedTensor(shape, registers.exponent, mask, scales, codes)
        return self.select(rows).tensor(shape, registers.exponent)

    def __call__(self, x: Tensor) -> Tensor:
        """Stored values (M, K), float32, of `x` (..., K)."""
        if self._last is None or self._last[0]() is not x or self._last[1] != _version(x):
            rows = x.reshape(-1, x.shape[-1])
            tensor = self._tensor(rows)
            self.blocks += tensor.mask.numel()
            self.fp8_blocks += int(tensor.mask.sum())
            stored = tensor.stored()
            self._last, self._uses = (weakref.ref(x), _version(x), stored), 0
        stored = self._last[2]
        self._uses += 1
        if self._uses >= self.readers:
            self.forget()
        return stored

    def forget(self) -> None:
        """Drop the activations of the last call."""
        self._last = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "SiteQuantizer":
        return memo.setdefault(id(self), SiteQuantizer(self.plan, self.readers))


class FGMPLinear(nn.Module):
    """A linear layer with a packed weight (docs/packed-format.md) and quantized input.

    The product is exact and rounded once where `exact` is true, else in the input's dtype; the bias is added in the
    result's dtype. `site` is None where activations are not quantized (then `exact` has no meaning).

    Attributes:
        weight: uint8 payload; with `weight_mask` and `weight_scale` the three byte tensors of the packed weight.
        keep_decoded: keep the decoded weight after the first call (4 or 8 bytes an element) instead of decoding again.
    """

    weight: Tensor
    weight_mask: Tensor
    weight_scale: Tensor

    def __init__(self, packed: Packed, bias: Tensor | None, site: SiteQuantizer | None, *, exact: bool = True):
        super().__init__()
        self.out_features, self.in_features = packed.shape
        self.weight_exponent = packed.exponent
        self.register_buffer("weight", packed.payload)
        self.register_buffer("weight_mask", packed.mask)
        self.register_buffer("weight_scale", packed.scale)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.site = site
        self.exact = exact
        self.keep_decoded = True
        self.transposed = False
        self._decoded: Tensor | None = None
        if site is not None and not site.owned:
            # The first layer of a site carries its tensors, so that they are saved and loaded with it.
            site.owned = True
            self.register_buffer("input_static_fp8", site.plan.static_fp8)
            self.register_buffer("input_channel_codes", site.plan.channel_codes)

    @classmethod
    def skeleton(cls, linear: nn.Linear, exponent: int, fp4_blocks: int, site: SiteQuantizer | None) -> "FGMPLinear":
        """A layer of the right sizes on the meta device, to be filled from a checkpoint."""
        shape = (linear.out_features, linear.in_features)
        mask, scale, payload = packed_sizes(shape, fp4_blocks)
        with torch.device("meta"):
            packed = Packed(shape, exponent, *(torch.empty(s, dtype=torch.uint8) for s in (mask, scale, payload)))
        layer = cls(packed, None if linear.bias is None else linear.bias.data, site, exact=False)
        layer.transposed = isinstance(linear, TransposedLinear)
        return layer

    def take_site_tensors(self) -> None:
        """After loading: let the site use the pattern and channel codes that this layer carries for it."""
        if self.site is not None and hasattr(self, "input_static_fp8"):
            tensors = {"static_fp8": self.input_static_fp8, "channel_codes": self.input_channel_codes}
            self.site.plan = replace(self.site.plan, **tensors)

    @property
    def packed(self) -> Packed:
        """The packed weight, on the CPU."""
        shape = (self.out_features, self.in_features)
        parts = (self.weight_mask.cpu(), self.weight_scale.cpu(), self.weight.cpu())
        return Packed(shape, self.weight_exponent, *parts)

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Real weight values (N, K). bfloat16 holds all of them exactly, as long as they are normal numbers."""
        return (unpack(self.packed).dequantize()).to(dtype).to(self.weight.device)

    def to_linear(self, dtype: torch.dtype = torch.float32) -> nn.Linear:
        """A plain linear with the dequantized weight."""
        kind = TransposedLinear if self.transposed else nn.Linear
        linear = kind(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.dequantized(dtype))
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.data.to(dtype))
        return linear

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N), in the dtype of `x`."""
        site = self.site
        if site is None:
            return nn.functional.linear(x, self._weight(x.dtype), self.bias)
        stored = site(x)
        if not self.exact:
            values = (stored * 2.0**site.registers.exponent).to(x.dtype).view(x.shape)
            return nn.functional.linear(values, self._weight(x.dtype), self.bias)
        exponent = self.weight_exponent + site.registers.exponent
        result = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
        y = exact_gemm(stored, self._weight(None), exponent, result).view(*x.shape[:-1], -1).to(x.dtype)
        return y if self.bias is None else y + self.bias

    def _weight(self, dtype: torch.dtype | None) -> Tensor:
        """Real values in `dtype`, or, for None, stored values in float64."""
        wanted = torch.float64 if dtype is None else dtype
        kept = self._decoded
        if kept is None or kept.dtype != wanted or kept.device != self.weight.device:
            tensor = unpack(self.packed)
            values = tensor.stored() if dtype is None else tensor.dequantize()
            kept = values.to(wanted).to(self.weight.device)
        self._decoded = kept if self.keep_decoded else None
        return kept

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"bits={8 * self.weight.numel() / (self.in_features * self.out_features):.2f}, exact={self.exact}"
        )

    @property
    def fp4_blocks(self) -> int:
        """How many of the weight's blocks are FP4."""
        return self.weight_scale.numel()

    @property
    def blocks(self) -> int:
        """How many blocks the weight has."""
        return self.out_features * -(-self.in_features // BLOCK_SIZE)


@dataclass(frozen=True)
class Variant:
    """One way to quantize a model: its packed weights and what each site does (None: activations stay as they are).

    `model` is the quantized model itself where there is one, otherwise the layers are put into the original.
    """

    name: str
    weights: dict[str, Packed]
    quantizers: dict[str, SiteQuantizer] | None
    exact: bool = True
    modules: dict[str, FGMPLinear] = field(default_factory=dict)
    model: nn.Module | None = None

    @property
    def activation_fp4_share(self) -> float | None:
        """Share of the activation blocks quantized so far that were FP4."""
        if self.quantizers is None:
            return None
        blocks = sum(q.blocks for q in self.quantizers.values())
        return 1 - sum(q.fp8_blocks for q in self.quantizers.values()) / blocks if blocks else 0.0

    @property
    def weight_fp4_share(self) -> float:
        """Share of the weight blocks that are FP4."""
        blocks = sum(p.shape[0] * -(-p.shape[1] // BLOCK_SIZE) for p in self.weights.values())
        return sum(p.scale.numel() for p in self.weights.values()) / blocks


def _version(x: Tensor) -> int:
    """Changes when `x` is written to; under inference mode tensors have none."""
    return 0 if x.is_inference() else x._version


def quantizers(sites: Sequence[Site], plans: Mapping[str, SitePlan]) -> dict[str, SiteQuantizer]:
    """A quantizer for every site."""
    return {s.name: SiteQuantizer(plans[s.name], len(s.linears) if len(s.watched) == 1 else 1) for s in sites}


def install(model: nn.Module, name: str, packed: Packed, site: SiteQuantizer | None, *, exact: bool) -> FGMPLinear:
    """Replace the linear `name` of `model` by its quantized layer."""
    linear: Any = model.get_submodule(name)
    layer = _layer(linear, packed, site, exact)
    model.set_submodule(name, layer)
    return layer


def set_exact(model: nn.Module, exact: bool, *, compiled: bool = False) -> None:
    """Let every quantized layer of `model` compute exactly as the hardware does, or fast in the model's dtype.

    `compiled` quantizes activations by compiled kernels: the same bits, sooner, after the first call took its time.
    """
    for module in model.modules():
        if isinstance(module, FGMPLinear):
            module.exact = exact
            if module.site is not None:
                module.site.compiled = compiled


@contextmanager
def apply(model: nn.Module, sites: Sequence[Site], variant: Variant) -> Iterator[None]:
    """Replace the model's linears by those of `variant` inside the `with` block."""
    originals: dict[str, nn.Module] = {}
    for site in sites:
        for name in site.linears:
            linear: Any = model.get_submodule(name)
            originals[name] = linear
            if name not in variant.modules:
                quantizer = None if variant.quantizers is None else variant.quantizers[site.name]
                variant.modules[name] = _layer(linear, variant.weights[name], quantizer, variant.exact)
            model.set_submodule(name, variant.modules[name])
    try:
        yield
    finally:
        for name, linear in originals.items():
            model.set_submodule(name, linear)
        for quantizer in (variant.quantizers or {}).values():
            quantizer.forget()


def _layer(linear: nn.Linear, packed: Packed, site: SiteQuantizer | None, exact: bool) -> FGMPLinear:
    layer = FGMPLinear(packed, None if linear.bias is None else linear.bias.data, site, exact=exact)
    layer.transposed = isinstance(linear, TransposedLinear)
    return layer.to(linear.weight.device)
