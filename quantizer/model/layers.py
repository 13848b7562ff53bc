"""The quantized layer, and how a model is made to use it.

`FGMPLinear` holds its weight packed, quantizes its input as the selector does, and multiplies in one of two ways:
exactly (every result is the hardware's, bit for bit) or fast (the same quantized values in the model's own dtype,
whose product rounds as that dtype does).
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...formats import BLOCK_SIZE, SELECTOR_MODES, ceil_div
from ...golden.gemm import exact_gemm
from ...golden.packing import Packed, packed_sizes, unpack
from ...golden.selector import Threshold
from ..prepare.linears import TransposedLinear
from ..prepare.registrations import Registrations, registrations, replace_registered
from .packed_weight import PackedWeight
from .site import SiteQuantizer

__all__ = ["REGISTERS", "FGMPLinear", "install", "quantized_layer", "set_exact"]

REGISTERS = "registers"
"""Names of a layer's exponents, threshold and mode in state dictionaries; folders have them in their manifest."""

_PACKED = ("weight", "weight_mask", "weight_scale")


class FGMPLinear(nn.Linear):
    """A linear layer with a packed weight (docs/packed-format.md) and quantized input.

    The product is exact and rounded once where `exact` is true, else in the input's dtype; the bias is added in the
    result's dtype. `quantizer` is None where activations are not quantized (then `exact` has no meaning).

    It is an `nn.Linear` to whoever asks: `weight` reads as the values that the packed bytes stand for, in the dtype of
    the layer that it replaced. Gradients pass the quantizer of activations straight through (its derivative is taken
    as 1); packed weights have none. State dictionaries hold the payload as `weight`, the mask and scales beside it, and
    the exponents, threshold and mode as `registers`.

    Attributes:
        payload: uint8; with `weight_mask` and `weight_scale` the three byte tensors of the packed weight.
        keep_decoded: keep the decoded weight after the first call (4 or 8 bytes an element) instead of decoding again.
    """

    weight_mask: Tensor
    weight_scale: Tensor
    dtype_like: Tensor

    def __init__(
        self,
        packed: Packed,
        bias: Tensor | None,
        quantizer: SiteQuantizer | None,
        *,
        exact: bool = True,
        dtype: torch.dtype = torch.float32,
    ):
        nn.Module.__init__(self)  # nn.Linear would allocate a weight
        self.out_features, self.in_features = packed.shape
        self.weight_exponent = packed.exponent
        self._buffers["weight"] = packed.payload
        self.register_buffer("weight_mask", packed.mask)
        self.register_buffer("weight_scale", packed.scales)
        # Follows `.to(dtype)` as the float weight would.
        self.register_buffer("dtype_like", torch.empty(0, dtype=dtype), persistent=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        self.quantizer = quantizer
        self.exact = exact
        self.keep_decoded = True
        self.transposed = False
        self.loading = False
        self._decoded: tuple[object, Tensor] | None = None
        if quantizer is not None and not quantizer.owned:
            # The first layer of a site carries its tensors, so that they are saved and loaded with it.
            quantizer.owned = True
            self.register_buffer("input_static_fp8", quantizer.settings.static_fp8)
            self.register_buffer("input_channel_codes", quantizer.settings.channel_codes)

    @classmethod
    def skeleton(
        cls, linear: nn.Linear, exponent: int, fp4_blocks: int, quantizer: SiteQuantizer | None
    ) -> "FGMPLinear":
        """A layer of the right sizes on the meta device, to be filled from a checkpoint; `loading` until then."""
        shape = (linear.out_features, linear.in_features)
        mask, scale, payload = packed_sizes(shape, fp4_blocks)
        with torch.device("meta"):
            packed = Packed(shape, exponent, *(torch.empty(s, dtype=torch.uint8) for s in (mask, scale, payload)))
        bias = None if linear.bias is None else linear.bias.data
        layer = cls(packed, bias, quantizer, exact=False, dtype=linear.weight.dtype)
        layer.transposed = isinstance(linear, TransposedLinear)
        layer.loading = True
        return layer

    def take_site_tensors(self) -> None:
        """After loading: let the site use the pattern and channel codes that this layer carries for it."""
        self.loading = False
        self.dtype_like = torch.empty(0, dtype=self.dtype_like.dtype, device=self.payload.device)
        if self.quantizer is not None and "input_static_fp8" in self._buffers:
            tensors = {"static_fp8": self.input_static_fp8, "channel_codes": self.input_channel_codes}
            self.quantizer.settings = replace(self.quantizer.settings, **tensors)

    @property
    def payload(self) -> Tensor:
        """uint8 (bytes,): the element codes."""
        payload = self._buffers["weight"]
        assert payload is not None
        return payload

    @property
    def weight(self) -> Tensor:
        """(N, K): reads as the dequantized weight; cannot be written."""
        return PackedWeight(self, self.dtype_like.dtype)

    @property
    def packed(self) -> Packed:
        """The packed weight, on the CPU."""
        shape = (self.out_features, self.in_features)
        parts = (self.weight_mask.cpu(), self.weight_scale.cpu(), self.payload.cpu())
        return Packed(shape, self.weight_exponent, *parts)

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Real weight values (N, K). bfloat16 holds all of them exactly, as long as they are normal numbers."""
        return (unpack(self.packed).dequantize()).to(dtype).to(self.payload.device)

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
        quantizer = self.quantizer
        if quantizer is None:
            return nn.functional.linear(x, self.decoded(x.dtype), self.bias)
        with torch.no_grad():
            stored = quantizer(x)
        if not self.exact:
            values = (stored * 2.0**quantizer.settings.exponent).to(x.dtype).view(x.shape)
            return nn.functional.linear(_straight_through(x, values), self.decoded(x.dtype), self.bias)
        exponent = self.weight_exponent + quantizer.settings.exponent
        result = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
        autocast = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
        y = exact_gemm(stored, self._values(None), exponent, result).view(*x.shape[:-1], self.out_features).to(dtype)
        if torch.is_grad_enabled() and x.requires_grad:
            y = _straight_through(nn.functional.linear(x, self.decoded(x.dtype)), y)
        return y if self.bias is None else y + self.bias

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """Real values (N, K) in `dtype`, kept for the next call where `keep_decoded` is true."""
        return self._values(dtype)

    def _values(self, dtype: torch.dtype | None) -> Tensor:
        """Real values in `dtype`, or, for None, stored values in float64."""
        parts = (self.weight_mask, self.weight_scale, self.payload)
        mark = (dtype, self.weight_exponent, *((id(p), p.device, 0 if p.is_inference() else p._version) for p in parts))
        if self._decoded is not None and self._decoded[0] == mark:
            values = self._decoded[1]
        else:
            tensor = unpack(Packed((self.out_features, self.in_features), self.weight_exponent, *parts))
            values = (tensor.stored() if dtype is None else tensor.dequantize()).to(dtype or torch.float64)
        self._decoded = (mark, values) if self.keep_decoded else None
        return values

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoded": None}  # a copy decodes again

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.loading:  # a folder's manifest holds them
            destination[f"{prefix}{REGISTERS}"] = self._registers()

    def _load_from_state_dict(
        self, state: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
    ) -> None:
        """Take the weight and the registers of another quantized layer, or nothing of it: what does not fit is said."""
        given = {name: state[prefix + name] for name in _PACKED if prefix + name in state}
        registers = state.get(f"{prefix}{REGISTERS}")
        taken = {k: v for k, v in state.items() if k != f"{prefix}{REGISTERS}"}
        if given and not self.loading:
            try:
                self._check_given(given, registers)
            except InputError as error:
                errors.append(f"{prefix.rstrip('.')}: {error}")
                return
            sized = (*_PACKED, "input_static_fp8", "input_channel_codes")
            for name in sized:  # sizes follow from the masks, and a site may have other tensors
                new = taken.get(prefix + name)
                if name in self._buffers and (new is not None or name not in _PACKED):
                    self._buffers[name] = None if new is None else torch.empty_like(new, device=self.payload.device)
        elif strict and not self.loading:
            missing.append(f"{prefix}{REGISTERS}")
        loading, self.loading = self.loading, True
        super()._load_from_state_dict(taken, prefix, metadata, strict, missing, unexpected, errors)
        self.loading = loading
        if given and registers is not None:
            self._set_registers(registers)

    def _check_given(self, given: dict[str, Tensor], registers: Tensor | None) -> None:
        if registers is None or len(given) < len(_PACKED) or any(t.dtype != torch.uint8 for t in given.values()):
            raise InputError("weight of another kind, expected that of a quantized linear, with its registers")
        if bool(registers[1]) != (self.quantizer is not None):
            raise InputError("registers of a layer whose input is quantized otherwise, expected the same in both")
        parts = (given["weight_mask"], given["weight_scale"], given["weight"])
        unpack(Packed((self.out_features, self.in_features), int(registers[0]), *parts), "weight")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and not self.loading:
            raise TypeError("weight of a quantized linear: cannot be set, expected to be read only")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name == "weight":
            raise TypeError("weight of a quantized linear: cannot be deleted, expected to be read only")
        super().__delattr__(name)

    def _registers(self) -> Tensor:
        """int64 (7,): weight exponent; whether the input is quantized, its exponent, threshold, mode, four over six."""
        if self.quantizer is None:
            return torch.tensor([self.weight_exponent, 0, 0, 0, 0, 0, 0])
        settings = self.quantizer.settings
        threshold, mode = settings.threshold, SELECTOR_MODES.index(settings.mode)
        values = [settings.exponent, threshold.significand, threshold.exponent, mode, int(settings.four_over_six)]
        return torch.tensor([self.weight_exponent, 1, *values])

    def _set_registers(self, values: Tensor) -> None:
        weight, _, exponent, significand, shift, mode, four_over_six = values.tolist()
        self.weight_exponent = weight
        if self.quantizer is None:
            return
        self.quantizer.settings = replace(
            self.quantizer.settings,
            exponent=exponent,
            threshold=Threshold(significand, shift),
            mode=SELECTOR_MODES[mode],
            four_over_six=bool(four_over_six),
        )
        self.take_site_tensors()

    @property
    def fp4_blocks(self) -> int:
        """How many of the weight's blocks are FP4."""
        return self.weight_scale.numel()

    @property
    def blocks(self) -> int:
        """How many blocks the weight has."""
        return self.out_features * ceil_div(self.in_features, BLOCK_SIZE)


class _StraightThrough(torch.autograd.Function):
    """`values` forward; backward as if they were `x`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor) -> Tensor:
        """Gives `values`."""
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient as it is."""
        return gradient, None


def _straight_through(x: Tensor, values: Tensor) -> Tensor:
    through: Tensor = _StraightThrough.apply(x, values) if torch.is_grad_enabled() and x.requires_grad else values
    return through


def install(
    model: nn.Module,
    name: str,
    packed: Packed,
    quantizer: SiteQuantizer | None,
    *,
    exact: bool,
    held: Registrations | None = None,
) -> FGMPLinear:
    """Replace the linear `name`, wherever it stands, by its quantized layer; `held` are `registrations(model)`."""
    linear: Any = model.get_submodule(name)
    layer = quantized_layer(linear, packed, quantizer, exact)
    replace_registered(registrations(model) if held is None else held, linear, layer)
    return layer


def set_exact(model: nn.Module, exact: bool, *, compiled: bool = False) -> None:
    """Let every quantized layer of `model` compute exactly as the hardware does, or fast in the model's dtype.

    `compiled` quantizes activations by compiled kernels: the same bits, sooner, after the first call took its time.
    """
    for module in model.modules():
        if isinstance(module, FGMPLinear):
            module.exact = exact
            if module.quantizer is not None:
                module.quantizer.compiled = compiled


def quantized_layer(linear: nn.Linear, packed: Packed, quantizer: SiteQuantizer | None, exact: bool) -> FGMPLinear:
    """The quantized layer that takes the place of `linear`: its bias, dtype and device."""
    bias = None if linear.bias is None else linear.bias.data
    layer = FGMPLinear(packed, bias, quantizer, exact=exact, dtype=linear.weight.dtype)
    layer.transposed = isinstance(linear, TransposedLinear)
    return layer.to(linear.weight.device)
