"""Checkpoints whose method is "fp8": E4M3 in square blocks, as DeepSeek-V3 has them, or with one scale, as AutoFP8."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...errors import InputError
from .foreign import scaled

__all__ = ["FineGrainedFP8"]


class FineGrainedFP8:
    """A weight is E4M3 codes times scales, as a rule of blocks of 128 x 128 elements."""

    name = "fp8"
    parts: Sequence[str] = ("weight_scale_inv", "weight_scale", "weight")
    dropped: Sequence[str] = ("activation_scale", "input_scale", "k_scale", "v_scale", "kv_scale")
    refused: Sequence[str] = ()

    def recognizes(self, settings: Mapping[str, Any]) -> bool:
        """By its method."""
        return settings.get("quant_method") == self.name

    def is_linear(self, tensors: Mapping[str, str]) -> bool:
        """E4M3 codes with scales."""
        return len(tensors) == 2 and tensors.get("weight") == "F8_E4M3"

    def decode(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        """Element times scale, of its block, its row, or of the whole weight."""
        size = settings.get("weight_block_size") or (128, 128)
        if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(s, int) and s > 0 for s in size):
            raise InputError(f"weight_block_size {size!r}, expected two whole numbers")
        scale = tensors["weight_scale_inv" if "weight_scale_inv" in tensors else "weight_scale"]
        return scaled(tensors["weight"], scale, (size[0], size[1]))
