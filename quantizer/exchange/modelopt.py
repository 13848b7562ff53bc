"""Checkpoints of NVIDIA ModelOpt (TensorRT Model Optimizer, unified Hugging Face checkpoints): NVFP4, FP8 weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...errors import InputError
from .foreign import nvfp4, scaled

__all__ = ["ModelOpt"]

_KNOWN = ("FP8", "NVFP4", "NVFP4_AWQ", "MIXED_PRECISION")


class ModelOpt:
    """NVFP4 weights have a block scale and a second scale of the whole tensor, FP8 weights one scale."""

    name = "modelopt"
    parts: Sequence[str] = ("weight_scale", "weight", "weight_scale_2")
    dropped: Sequence[str] = (
        "input_scale", "k_scale", "v_scale", "q_scale", "kv_scale", "output_scale", "kv_cache_scaling_factor",
    )  # fmt: skip
    refused: Sequence[str] = ("pre_quant_scale",)

    def recognizes(self, settings: Mapping[str, Any]) -> bool:
        """By its method, as in config.json, or its producer, as in hf_quant_config.json."""
        producer = settings.get("producer")
        named = producer.get("name") if isinstance(producer, dict) else None
        if named != self.name and not str(settings.get("quant_method")).startswith(self.name):
            return False
        algorithm = settings.get("quant_algo") or (settings.get("quantization") or {}).get("quant_algo")
        if algorithm not in _KNOWN:
            raise InputError(f"quant_algo {algorithm!r} of ModelOpt, expected one of {', '.join(_KNOWN)}")
        if algorithm == "NVFP4_AWQ":
            raise InputError("quant_algo 'NVFP4_AWQ' of ModelOpt: scales of input channels, expected weights without")
        return True

    def is_linear(self, tensors: Mapping[str, str]) -> bool:
        """A scale, and nibbles or E4M3 codes."""
        return "weight_scale" in tensors and tensors.get("weight") in ("U8", "F8_E4M3")

    def decode(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        """Element times block scale times second scale, or element times scale."""
        scale, weight = tensors["weight_scale"].float(), tensors["weight"]
        if weight.element_size() == 1 and not weight.is_floating_point():
            if "weight_scale_2" not in tensors:
                raise InputError("no weight_scale_2, expected one beside the block scales")
            return nvfp4(weight, scale * tensors["weight_scale_2"].float().reshape(()))
        return scaled(weight, scale, None)
