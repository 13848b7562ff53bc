"""Checkpoints whose weights are E4M3 in square blocks, as DeepSeek-V3 publishes them ("fp8" in transformers)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...errors import InputError
from .foreign import checked_shape, spread_scales

__all__ = ["FineGrainedFP8"]


class FineGrainedFP8:
    """A weight is E4M3 codes times the scales of its blocks, of 128 x 128 elements as a rule."""

    name = "fp8"
    parts: Sequence[str] = ("weight_scale_inv", "weight")
    dropped: Sequence[str] = ("activation_scale", "input_scale")
    refused: Sequence[str] = ()

    def recognizes(self, settings: Mapping[str, Any]) -> bool:
        """By its method."""
        return settings.get("quant_method") == self.name

    def is_linear(self, tensors: Mapping[str, str]) -> bool:
        """E4M3 codes with scales."""
        return "weight_scale_inv" in tensors and tensors.get("weight") == "F8_E4M3"

    def decode(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        """Element times the scale of its block."""
        values, scale = tensors["weight"].float(), tensors["weight_scale_inv"].float()
        shape = (values.shape[0], values.shape[1])
        if scale.numel() == 1:
            return values * scale.reshape(())
        size = settings.get("weight_block_size") or (128, 128)
        if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(s, int) and s > 0 for s in size):
            raise InputError(f"weight_block_size {size!r}, expected two whole numbers")
        block = (size[0], size[1])
        checked_shape(scale, shape, block)
        return values * spread_scales(scale, shape, block)
