"""The `weight` of a quantized linear: the values that its packed bytes stand for."""

import weakref
from typing import Any

import torch
from torch import Tensor

__all__ = ["PackedWeight"]

_READ_ONLY = (
    "weight of a quantized linear: {} would write to it, expected a read (dequantize the model first, or keep adapters "
    "apart from it)"
)


class PackedWeight(Tensor):
    """A read-only tensor (N, K) of a quantized linear's real values, in the dtype that the linear had.

    Shape, dtype and device are known at once; values are decoded when an operation asks for them. Model code that reads
    `linear.weight` therefore computes what it would with the dequantized layer. Operations that would write raise
    TypeError: what they wrote would be lost.
    """

    _layer: Any

    @staticmethod
    def __new__(cls, layer: Any, dtype: torch.dtype) -> "PackedWeight":
        """A view of `layer`, which must have `payload`, `out_features`, `in_features` and `decoded(dtype)`."""
        shape = (layer.out_features, layer.in_features)
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=dtype, device=layer.payload.device, requires_grad=False
        )
        made._layer = weakref.ref(layer)
        made._is_hf_initialized = True  # transformers leaves it alone after loading
        return made

    def decode(self) -> Tensor:
        """The values as a plain tensor."""
        layer = self._layer()
        if layer is None:
            raise RuntimeError("weight of a quantized linear: its layer is gone, expected a model that is alive")
        return layer.decoded(self.dtype)

    def __repr__(self, **_: Any) -> str:
        return f"PackedWeight(shape={tuple(self.shape)}, dtype={self.dtype}, device='{self.device}')"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.decode().__reduce_ex__(protocol)

    def __deepcopy__(self, _: Any) -> Tensor:
        return self.decode().clone()

    def __setitem__(self, *_: Any) -> None:
        raise TypeError(_READ_ONLY.format("assignment to its elements"))

    def numpy(self, *, force: bool = False) -> Any:
        """A copy, as of the plain tensor."""
        return self.decode().clone().numpy(force=force)

    def tolist(self) -> Any:
        """As of the plain tensor."""
        return self.decode().tolist()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Its being there tells torch's fused layers that this is no plain weight that they may read in C++.
        if getattr(func, "__name__", "") == "__set__" and isinstance(args[0], PackedWeight):
            raise TypeError(_READ_ONLY.format("setting an attribute"))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is torch.ops.aten.detach.default:
            layer = args[0]._layer()
            return args[0].decode() if layer is None else PackedWeight(layer, args[0].dtype)
        written = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | (kwargs or {})
        if any(isinstance(named.get(name), PackedWeight) for name in written):
            raise TypeError(_READ_ONLY.format(func))
        # What shares memory with the decoded values must not lead to those that the layer keeps.
        shares = any(r.alias_info is not None for r in func._schema.returns)
        plain = torch.utils._pytree.tree_map_only(
            PackedWeight, lambda w: w.decode().clone() if shares else w.decode(), (args, kwargs or {})
        )
        return func(*plain[0], **plain[1])
