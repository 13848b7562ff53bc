"""A quantized model back into a plain one."""

import torch
from torch import nn

from ..prepare.linears import restore
from ..prepare.registrations import registrations, replace_registered
from .layers import FGMPLinear

__all__ = ["dequantize"]


def dequantize(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Turn a quantized model back, in place, into the plain one with the values that its packed weights stand for.

    `dtype` defaults to the model's own.
    """
    if dtype is None:
        dtype = getattr(model, "dtype", torch.float32)
    held = registrations(model)
    for module in list(model.modules()):
        if isinstance(module, FGMPLinear):
            replace_registered(held, module, module.to_linear(dtype))
    restore(model)
    for attribute in ("fgmp_config", "fgmp_left_alone", "fgmp_sample", "hf_quantizer", "quantization_method"):
        if attribute in model.__dict__:
            delattr(model, attribute)
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None:
        del model.config.quantization_config
    if hasattr(model, "is_quantized"):
        model.is_quantized = False
    return model
