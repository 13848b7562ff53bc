"""The activation selector's recipe (docs/numerics.md section 4), vectorized; what the RTL must equal."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .blocks import MixedTensor, block_scale_codes, stored_fp4, to_blocks
from .codec import NAN_E4M3, decode_e4m3, encode_e4m3
from .formats import (
    MAX_STORED,
    MODES,
    TENSOR_EXPONENT_LIMIT,
    THRESHOLD_EXPONENT_BITS,
    THRESHOLD_SIGNIFICAND_BITS,
)

__all__ = ["Selected", "SiteRegisters", "Threshold", "impact_scores", "select"]

# Keeps sign, exponent and two mantissa bits of a float32: its three most significant bits.
_THREE_BITS = -(1 << 21)


@dataclass(frozen=True)
class Threshold:
    """The selector's threshold register: `significand * 2**exponent` in units of 2**-20 of stored values squared."""

    significand: int
    exponent: int

    def __post_init__(self) -> None:
        for name, bits in (("significand", THRESHOLD_SIGNIFICAND_BITS), ("exponent", THRESHOLD_EXPONENT_BITS)):
            value = getattr(self, name)
            if not 0 <= value < 1 << bits:
                raise InputError(f"threshold {name}: {value}, expected 0 to {(1 << bits) - 1}")

    @property
    def value(self) -> int:
        """The threshold as an integer."""
        return self.significand << self.exponent

    @classmethod
    def nearest(cls, value: float) -> "Threshold":
        """The register nearest to a real `value` in its own units, rounding the significand half to even."""
        largest = (1 << THRESHOLD_SIGNIFICAND_BITS) - 1
        if not value >= 0:
            raise InputError(f"threshold: {value}, expected a number of at least 0")
        for exponent in range(1 << THRESHOLD_EXPONENT_BITS):
            # Beyond 2**100 every value is above the largest register.
            significand = round(min(value, 2.0**100) / 2.0**exponent)
            if significand <= largest:
                return cls(significand, exponent)
        return cls(largest, (1 << THRESHOLD_EXPONENT_BITS) - 1)


@dataclass(frozen=True)
class SiteRegisters:
    """What software programs for one site: tensor exponent, threshold, mode (one of `MODES`)."""

    exponent: int
    threshold: Threshold
    mode: str = "dynamic"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"selector mode: {self.mode!r}, expected one of {', '.join(MODES)}")
        if abs(self.exponent) > TENSOR_EXPONENT_LIMIT:
            raise InputError(f"tensor exponent: {self.exponent}, expected -47 to 47")


@dataclass(frozen=True)
class Selected:
    """The selector's output for (..., B) blocks: a mask (True = FP8), scales, element codes, scores, NaN marks."""

    mask: Tensor
    scales: Tensor
    codes: Tensor
    score: Tensor
    nan: Tensor

    def tensor(self, shape: tuple[int, int], exponent: int) -> MixedTensor:
        """As a mixed tensor of `shape` (the blocks must be (N, B))."""
        return MixedTensor(shape, exponent, self.mask, self.scales, self.codes)


def impact_scores(q4: Tensor, q8: Tensor, channel_codes: Tensor | None = None) -> Tensor:
    """The selector's score: float64 integers in units of 2**-20, from stored values (..., 16), float32.

    `channel_codes` are integers 0..15 that broadcast to `q4`: element i counts 2**code times.
    """
    error = (q4 - q8).abs() * 2.0**10
    kept = (error.view(torch.int32) & _THREE_BITS).view(torch.float32)
    squares = (kept * kept).double()
    if channel_codes is not None:
        squares = squares * (1 << channel_codes.long()).double()
    return squares.sum(-1)


def select(
    x: Tensor,
    registers: SiteRegisters,
    static_fp8: Tensor | None = None,
    channel_codes: Tensor | None = None,
    four_over_six: bool = False,
) -> Selected:
    """Quantize (..., K) float32 or bfloat16 activations as the hardware selector does.

    `static_fp8` (bool, broadcasts to the blocks) is used in mode "static"; `channel_codes` (integers 0..15, (B, 16))
    only where the selector is built with them. `four_over_six` gives each block the scale amax / 4 instead of amax / 6
    where that scores lower; the RTL does not have it. NaN elements follow the hardware rule and raise nothing.
    """
    if x.dtype not in (torch.float32, torch.bfloat16):
        raise InputError(f"selector input dtype: {x.dtype}, expected float32 or bfloat16")
    blocks = to_blocks(x.float() * 2.0**-registers.exponent)
    nan = torch.isnan(blocks)
    v = torch.where(nan, 0.0, blocks).clamp(-MAX_STORED, MAX_STORED)
    codes8 = encode_e4m3(v)
    scales = block_scale_codes(v)
    codes4, q4 = stored_fp4(v, scales)
    q8 = decode_e4m3(codes8)
    score = impact_scores(q4, q8, channel_codes)
    if four_over_six:
        wider = block_scale_codes(v, 4)
        wider_codes4, wider_q4 = stored_fp4(v, wider)
        wider_score = impact_scores(wider_q4, q8, channel_codes)
        better = wider_score < score
        scales, score = torch.where(better, wider, scales), torch.where(better, wider_score, score)
        codes4 = torch.where(better[..., None], wider_codes4, codes4)
    if registers.mode == "dynamic":
        mask = score > float(registers.threshold.value)
    elif registers.mode == "static":
        if static_fp8 is None:
            raise InputError("selector mode static: no static_fp8 pattern given, expected one bit per block")
        mask = static_fp8.expand(score.shape)
    else:
        mask = torch.full_like(score, registers.mode == "all_fp8", dtype=torch.bool)
    block_nan = nan.any(-1)
    mask = mask | block_nan
    codes = torch.where(mask[..., None], torch.where(nan, NAN_E4M3, codes8), codes4)
    return Selected(mask, torch.where(mask, 0, scales), codes, score, block_nan)
