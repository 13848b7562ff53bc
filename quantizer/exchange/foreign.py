"""The protocol of foreign formats: how a checkpoint that others quantized says so, and what its tensors stand for."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ...errors import InputError
from ...formats import BLOCK_SIZE, ceil_div
from ...golden.codec import decode_e2m1, unpack_nibbles

__all__ = ["Foreign", "checked_shape", "nibbles", "spread_scales"]


class Foreign(Protocol):
    """A format of quantized weights.

    Attributes:
        name: as its producer calls it.
        parts: what follows the name of a quantized linear in the names of the tensors that stand for its weight; the
            first is there for every such linear.
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


def spread_scales(scales: Tensor, shape: tuple[int, int], block: tuple[int, int]) -> Tensor:
    """Scales (ceil(N / n), ceil(K / k)) of blocks (n, k), float32, as a matrix of `shape` (N, K)."""
    wide = scales.float().repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return wide[: shape[0], : shape[1]]


def checked_shape(scales: Tensor, shape: tuple[int, int], block: tuple[int, int] = (1, BLOCK_SIZE)) -> None:
    """Raise InputError unless `scales` has one for each block of a matrix of `shape`."""
    expected = (ceil_div(shape[0], block[0]), ceil_div(shape[1], block[1]))
    if tuple(scales.shape) != expected:
        raise InputError(f"scales of shape {tuple(scales.shape)}, expected {expected} for a weight of {shape}")
