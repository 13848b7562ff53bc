"""Blocks of 16 along K: scaling a tensor, quantizing its blocks to FP8 and FP4, and the tensor that mixes both."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .codec import decode_e2m1, decode_e4m3, encode_e2m1, encode_e4m3
from .formats import BLOCK_SIZE, E4M3, MAX_BLOCK_SCALE_CODE, MAX_STORED, MIN_BLOCK_SCALE_CODE, TENSOR_EXPONENT_LIMIT

__all__ = [
    "MixedTensor",
    "block_scale_codes",
    "check_no_nan",
    "scale_to_stored",
    "stored_fp4",
    "tensor_exponent",
    "to_blocks",
]


@dataclass(frozen=True)
class MixedTensor:
    """A matrix whose blocks are each FP4 or FP8 (B = ceil(K / 16) blocks a row).

    Attributes:
        shape: (N, K).
        exponent: the tensor exponent.
        mask: bool (N, B), True = FP8.
        scales: uint8 (N, B), E4M3 block scale codes; 0 for FP8 blocks.
        codes: uint8 (N, B, 16), E4M3 or E2M1 codes, one per byte; zero beyond K.
    """

    shape: tuple[int, int]
    exponent: int
    mask: Tensor
    scales: Tensor
    codes: Tensor

    @classmethod
    def merge(
        cls,
        shape: tuple[int, int],
        exponent: int,
        mask: Tensor,
        fp4: tuple[Tensor, Tensor],
        fp8_codes: Tensor,
    ) -> "MixedTensor":
        """Choose by `mask` between FP4 blocks (`fp4` = element codes, scale codes) and FP8 element codes."""
        codes4, scales = fp4
        codes = torch.where(mask[..., None], fp8_codes, codes4)
        return cls(shape, exponent, mask, torch.where(mask, 0, scales), codes)

    def stored(self) -> Tensor:
        """Stored values, float32 (N, K) (exact: they have at most 19 significant bits)."""
        fp4 = decode_e2m1(self.codes & 15) * decode_e4m3(self.scales)[..., None]
        values = torch.where(self.mask[..., None], decode_e4m3(self.codes), fp4)
        return values.flatten(-2)[:, : self.shape[1]]

    def dequantize(self) -> Tensor:
        """Real values, float32 (N, K)."""
        return self.stored() * 2.0**self.exponent

    @property
    def fp8_share(self) -> float:
        """Share of the blocks that are FP8."""
        return self.mask.double().mean().item()


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
