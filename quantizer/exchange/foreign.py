"""The protocol of foreign formats: how a checkpoint that others quantized says so, and what its tensors stand for."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ...errors import InputError
from ...formats import BLOCK_SIZE, ceil_div
from ...golden.codec import decode_e2m1, unpack_nibbles

__all__ = ["Foreign", "nibbles", "nvfp4", "scaled"]


class Foreign(Protocol):
    """A format of quantized weights.

    Attributes:
        name: as its producer calls it.
        parts: what follows the name of a quantized linear in the names of the tensors that stand for its weight.
        dropped: names of tensors that end so are of no use to a plain model: scales of activations and caches.
        refused: with tensors that are called so, weights mean something else than `decode` says.
    """

    name: str
    parts: Sequence[str]
    dropped: Sequence[str]
    refused: Sequence[str]

    def recognizes(self, settings: Mapping[str, Any]) -> bool:
        """Whether a checkpoint's quantization settings are of this format. Raises InputError for a kind of it that is
        not known."""
        ...

    def is_linear(self, tensors: Mapping[str, str]) -> bool:
        """Whether safetensors' types of the parts, by part, are those of a quantized weight."""
        ...

    def decode(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        """The weight (N, K), float32, that the parts stand for. Raises InputError if they do not fit together."""
        ...


def nibbles(packed: Tensor) -> Tensor:
    """The E2M1 values, float32 (N, K), of uint8 (N, K / 2): the element with the even index is the low nibble."""
    return decode_e2m1(unpack_nibbles(packed)).float()


def nvfp4(packed: Tensor, scales: Tensor) -> Tensor:
    """uint8 (N, K / 2) nibbles times scales (N, K / 16) of blocks of 16, float32 (N, K).

    Raises InputError for scales of another shape.
    """
    values = nibbles(packed)
    return values * _spread(scales, (values.shape[0], values.shape[1]), (1, BLOCK_SIZE))


def scaled(weight: Tensor, scale: Tensor, block: tuple[int, int] | None) -> Tensor:
    """E4M3 codes (N, K) times their scales, float32: one for all, one for each row, (N) or (N, 1), or one for each
    `block`.

    Raises InputError for scales of another shape; which it is, their shape alone says.
    """
    values, scale = weight.float(), scale.float()
    shape = (values.shape[0], values.shape[1])
    if scale.numel() == 1:
        return values * scale.reshape(())
    if tuple(scale.shape) in ((shape[0],), (shape[0], 1)):
        return values * scale.reshape(-1, 1)
    if block is None:
        raise InputError(f"FP8 scales of shape {tuple(scale.shape)}, expected one, or one for each row of {shape}")
    return values * _spread(scale, shape, block)


def _spread(scales: Tensor, shape: tuple[int, int], block: tuple[int, int]) -> Tensor:
    """Scales of blocks (n, k), one each, as a matrix of `shape` (N, K)."""
    expected = (ceil_div(shape[0], block[0]), ceil_div(shape[1], block[1]))
    if tuple(scales.shape) != expected:
        raise InputError(f"scales of shape {tuple(scales.shape)}, expected {expected} for a weight of {shape}")
    wide = scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return wide[: shape[0], : shape[1]]
