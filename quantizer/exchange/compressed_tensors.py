"""compressed-tensors, the format of llm-compressor and vLLM: NVFP4 and FP8 weights.

What its tensors stand for is what the library `compressed-tensors` decompresses them to (tests compare both).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...errors import InputError
from .foreign import nvfp4, scaled

__all__ = ["CompressedTensors"]

_KNOWN = ("nvfp4-pack-quantized", "float-quantized", "mixed-precision", "dense", "naive-quantized")


class CompressedTensors:
    """Weights in groups of a recipe, each packed in its own way."""

    name = "compressed-tensors"
    parts: Sequence[str] = ("weight_scale", "weight_packed", "weight", "weight_global_scale")
    dropped: Sequence[str] = (
        "input_scale", "input_global_scale", "output_scale", "weight_shape", "weight_zero_point", "k_scale", "v_scale",
        "q_scale",
    )  # fmt: skip
    refused: Sequence[str] = ("weight_g_idx",)

    def recognizes(self, settings: Mapping[str, Any]) -> bool:
        """By its method; kinds with integers or other block sizes are refused."""
        if settings.get("quant_method") != self.name:
            return False
        groups = settings.get("config_groups") or {}
        kinds = {settings.get("format"), *(group.get("format") for group in groups.values())} - {None}
        if strange := sorted(map(str, kinds - set(_KNOWN))):
            raise InputError(f"format {strange[0]!r} of compressed-tensors, expected one of {', '.join(_KNOWN)}")
        for group in groups.values():
            weights = group.get("weights") or {}
            if weights and (weights.get("type") != "float" or weights.get("num_bits") not in (4, 8)):
                raise InputError(
                    f"weights of {weights.get('num_bits')} bits, {weights.get('type')}, expected FP4 or FP8"
                )
            if weights.get("symmetric") is False:
                raise InputError("weights with zero points, expected symmetric ones")
        if settings.get("transform_config"):
            raise InputError("transform_config: weights that are half of a transform, expected weights by themselves")
        sparsity = (settings.get("sparsity_config") or {}).get("format", "dense")
        if sparsity != "dense":
            raise InputError(f"sparsity {sparsity!r}, expected dense weights")
        return True

    def is_linear(self, tensors: Mapping[str, str]) -> bool:
        """A scale, and either packed nibbles or E4M3 codes."""
        return "weight_scale" in tensors and (
            tensors.get("weight_packed") == "U8" or tensors.get("weight") == "F8_E4M3"
        )

    def decode(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        """NVFP4: element times block scale over global scale. FP8: element times scale, of the whole weight, of a row,
        or of a block."""
        scale = tensors["weight_scale"].float()
        if "weight_packed" in tensors:
            if "weight_global_scale" not in tensors:
                raise InputError("no weight_global_scale, expected one beside the block scales")
            scale = scale / tensors["weight_global_scale"].float().reshape(())
            return nvfp4(tensors["weight_packed"], scale)
        return scaled(tensors["weight"], scale, _block(settings))


def _block(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    for group in (settings.get("config_groups") or {}).values():
        size = (group.get("weights") or {}).get("block_structure")
        if isinstance(size, list | tuple) and len(size) == 2:
            return int(size[0]), int(size[1])
    return None
