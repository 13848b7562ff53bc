"""Blocks of 16 along K: scaling a tensor, quantizing its blocks to FP8 and FP4, and the tensor that mixes both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..formats import BLOCK_SIZE, E4M3, MAX_BLOCK_SCALE_CODE, MAX_STORED, MIN_BLOCK_SCALE_CODE, TENSOR_EXPONENT_LIMIT
from .codec import decode_e2m1, decode_e4m3, encode_e2m1, encode_e4m3, pack_nibbles

__all__ = [
    "Blocks",
    "MixedTensor",
    "block_scale_codes",
    "check_no_nan",
    "scale_to_stored",
    "stored_fp4",
    "tensor_exponent",
    "to_blocks",
]


@dataclass(frozen=True)
class Blocks:
    """Stored blocks of 16 elements in any arrangement (...), each FP4 or FP8; they may be illegal.

    Attributes:
        fp8: bool (...), the precision bit: True = FP8.
        scales: uint8 (...), E4M3 block scale codes; without meaning for FP8 blocks, where golden functions give 0.
        codes: uint8 (..., 16), E4M3 or E2M1 codes, one per byte.
    """

    fp8: Tensor
    scales: Tensor
    codes: Tensor

    @classmethod
    def merge(cls, fp8: Tensor, fp4: tuple[Tensor, Tensor], fp8_codes: Tensor) -> "Blocks":
        """Choose by `fp8` between FP4 blocks (`fp4` = element codes, scale codes) and FP8 element codes."""
        codes4, scales = fp4
        return Blocks(fp8, torch.where(fp8, 0, scales), torch.where(fp8[..., None], fp8_codes, codes4))

    @classmethod
    def concatenate(cls, parts: Sequence["Blocks"]) -> "Blocks":
        """Blocks one after the other along the first dimension."""
        return Blocks(*(torch.cat([getattr(part, name) for part in parts]) for name in ("fp8", "scales", "codes")))

    def __getitem__(self, index: Any) -> "Blocks":
        """The blocks at `index`, which is about the leading dimensions: never `...`, which would reach the elements."""
        return Blocks(self.fp8[index], self.scales[index], self.codes[index])

    def tensor(self, shape: tuple[int, int], exponent: int) -> "MixedTensor":
        """As a matrix of `shape` (N, K), if the blocks are arranged (N, B)."""
        return MixedTensor(self.fp8, self.scales, self.codes, shape=shape, exponent=exponent)

    def legal(self) -> Tensor:
        """bool (...): not an FP4 block with an illegal block scale."""
        return self.fp8 | (self.scales >= MIN_BLOCK_SCALE_CODE) & (self.scales <= MAX_BLOCK_SCALE_CODE)

    def values(self) -> Tensor:
        """Stored values, float64 (..., 16), in which products and their sums stay exact.

        NaN where an FP8 code is, and without meaning where not `legal`.
        """
        return self._decoded().double()

    def _decoded(self) -> Tensor:
        """Stored values, float32 (..., 16): each is exact, a product of two need not be."""
        fp4 = decode_e2m1(self.codes & 15) * decode_e4m3(self.scales)[..., None]
        return torch.where(self.fp8[..., None], decode_e4m3(self.codes), fp4)

    def payload(self) -> Tensor:
        """uint8 (..., 16): slots of 16 bytes, as in ports and buffers; FP4 blocks fill the first 8, the rest is 0."""
        fp4 = torch.nn.functional.pad(pack_nibbles(self.codes & 15), (0, BLOCK_SIZE // 2))
        return torch.where(self.fp8[..., None], self.codes, fp4)

    @property
    def fp8_share(self) -> float:
        """Share of the blocks that are FP8."""
        return self.fp8.double().mean().item()


@dataclass(frozen=True, kw_only=True)
class MixedTensor(Blocks):
    """A matrix in blocks (N, B), B = ceil(K / 16); codes beyond K are zero.

    Attributes:
        shape: (N, K).
        exponent: the tensor exponent.
    """

    shape: tuple[int, int]
    exponent: int

    def stored(self) -> Tensor:
        """Stored values, float32 (N, K) (exact: they have at most 19 significant bits)."""
        return self._decoded().flatten(-2)[:, : self.shape[1]]

    def dequantize(self) -> Tensor:
        """Real values, float32 (N, K)."""
        return self.stored() * 2.0**self.exponent


def check_no_nan(x: Tensor, name: str) -> None:
    """Raise InputError naming tensor and index of the first NaN in `x`."""
    nan = torch.isnan(x)
    if nan.any():
        index = tuple(nan.nonzero()[0].tolist())
        raise InputError(f"tensor {name}: NaN at index {index}, expected numbers")


def tensor_exponent(x: Tensor) -> int:
    """The tensor exponent of `x` (float32, bfloat16 or float16; infinities do not count)."""
    if not x.numel():
        return 0
    low, high = torch.aminmax(x.detach())  # no copy of what may be the largest tensor of a model
    amax = torch.maximum(-low, high).float()
    if torch.isinf(amax):
        magnitude = x.detach().abs().float()
        amax = torch.where(torch.isinf(magnitude), 0.0, magnitude).amax()
    if amax == 0:
        return 0
    # amax = mantissa * 2**exponent with mantissa in [0.5, 1), and 448 = 0.875 * 2**9.
    mantissa, exponent = torch.frexp(amax.double())
    result = int(exponent) - 9 + int(mantissa > MAX_STORED / 512)
    return min(max(result, -TENSOR_EXPONENT_LIMIT), TENSOR_EXPONENT_LIMIT)


def scale_to_stored(x: Tensor, exponent: int, name: str = "x") -> Tensor:
    """`x / 2**exponent`, saturated to [-448, 448], as float32.

    float32 can only round results below 2**-126 here, far below the smallest boundary that matters (2**-11).
    Raises InputError for NaN and for dtypes that float32 cannot represent exactly.
    """
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise InputError(f"tensor {name}: dtype {x.dtype}, expected float32, bfloat16 or float16")
    check_no_nan(x, name)
    return (x.float() * 2.0**-exponent).clamp(-MAX_STORED, MAX_STORED)


def to_blocks(x: Tensor) -> Tensor:
    """(..., K) to (..., ceil(K / 16), 16), padded with zeros."""
    padding = -x.shape[-1] % BLOCK_SIZE
    if padding:
        x = torch.nn.functional.pad(x, (0, padding))
    return x.unflatten(-1, (-1, BLOCK_SIZE))


def block_scale_codes(blocks: Tensor, largest: int = 6) -> Tensor:
    """uint8 block scale codes of float32 (..., 16) stored-unit blocks: amax / 6 to nearest E4M3, clamped to 1..105.

    The float32 quotient cannot create a tie: six times a midpoint is representable, and the neighbours of such an
    amax lie further from it than a quotient's rounding reaches. `largest` is the element magnitude that amax maps to,
    6, or 4 where a block may choose ("four over six").
    """
    codes = encode_e4m3(blocks.abs().amax(-1) / largest)
    return codes.clamp(MIN_BLOCK_SCALE_CODE, MAX_BLOCK_SCALE_CODE)


def stored_fp4(blocks: Tensor, scale_codes: Tensor) -> tuple[Tensor, Tensor]:
    """E2M1 codes (uint8) of (..., 16) blocks under their scale codes, and the stored values (float32) they give."""
    scales = decode_e4m3(scale_codes)[..., None]
    codes = encode_e2m1(blocks, scales)
    return codes, decode_e2m1(codes) * scales


assert E4M3.magnitude(MAX_BLOCK_SCALE_CODE) * 6 <= MAX_STORED < E4M3.magnitude(MAX_BLOCK_SCALE_CODE + 1) * 6
