"""The activation selector's recipe (docs/numerics.md section 4), vectorized; what the RTL must equal."""

from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor

from ..errors import InputError
from ..formats import (
    E4M3,
    MAX_STORED,
    SELECTOR_MODES,
    TENSOR_EXPONENT_LIMIT,
    THRESHOLD_EXPONENT_BITS,
    THRESHOLD_SIGNIFICAND_BITS,
)
from .blocks import Blocks, block_scale_codes, stored_fp4, to_blocks
from .codec import decode_e4m3, encode_e4m3

__all__ = ["Selected", "SiteSettings", "Threshold", "impact_scores", "select"]

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
class SiteSettings:
    """Everything that decides how one site's activations are quantized.

    Attributes:
        exponent: tensor exponent.
        threshold: of mode "dynamic".
        mode: one of `SELECTOR_MODES`.
        static_fp8: bool that broadcasts to the blocks (usually (B,)), True = FP8: the pattern of mode "static".
        channel_codes: integers 0 to 15, (B, 16): element i of the score counts 2**code times. Only selectors that are
            built with channel codes have them.
        four_over_six: whether a block may take the scale amax / 4 where that scores lower. Only selectors that are
            built with it can.

    Raises InputError for a mode or an exponent that the registers cannot hold.
    """

    exponent: int
    threshold: Threshold = Threshold(0, 0)
    mode: str = "dynamic"
    _: KW_ONLY
    static_fp8: Tensor | None = None
    channel_codes: Tensor | None = None
    four_over_six: bool = False

    def __post_init__(self) -> None:
        if self.mode not in SELECTOR_MODES:
            raise InputError(f"selector mode: {self.mode!r}, expected one of {', '.join(SELECTOR_MODES)}")
        if abs(self.exponent) > TENSOR_EXPONENT_LIMIT:
            raise InputError(f"tensor exponent: {self.exponent}, expected -47 to 47")

    def to(self, device: torch.device) -> "SiteSettings":
        """The same with its tensors on `device`."""
        static, codes = self.static_fp8, self.channel_codes
        return replace(
            self,
            static_fp8=None if static is None else static.to(device),
            channel_codes=None if codes is None else codes.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class Selected(Blocks):
    """The selector's output for blocks (..., B).

    Attributes:
        score: float64 integers (..., B), in units of 2**-20.
        nan: bool (..., B): the block holds a NaN.
    """

    score: Tensor
    nan: Tensor


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


def select(x: Tensor, settings: SiteSettings) -> Selected:
    """Quantize (..., K) float32 or bfloat16 activations as the hardware selector does.

    NaN elements follow the hardware rule and raise nothing. Raises InputError for other dtypes, and for mode "static"
    without a pattern.
    """
    if x.dtype not in (torch.float32, torch.bfloat16):
        raise InputError(f"selector input dtype: {x.dtype}, expected float32 or bfloat16")
    v = to_blocks(x.float() * 2.0**-settings.exponent)
    nan = torch.isnan(v)
    v = torch.where(nan, 0.0, v).clamp(-MAX_STORED, MAX_STORED)
    codes8 = encode_e4m3(v)
    scales = block_scale_codes(v)
    codes4, q4 = stored_fp4(v, scales)
    q8 = decode_e4m3(codes8)
    score = impact_scores(q4, q8, settings.channel_codes)
    if settings.four_over_six:
        larger = block_scale_codes(v, 4)
        larger_codes4, larger_q4 = stored_fp4(v, larger)
        larger_score = impact_scores(larger_q4, q8, settings.channel_codes)
        better = larger_score < score
        scales, score = torch.where(better, larger, scales), torch.where(better, larger_score, score)
        codes4 = torch.where(better[..., None], larger_codes4, codes4)
    if settings.mode == "dynamic":
        fp8 = score > float(settings.threshold.value)
    elif settings.mode == "static":
        if settings.static_fp8 is None:
            raise InputError("selector mode static: no static_fp8 pattern given, expected one bit per block")
        fp8 = settings.static_fp8.expand(score.shape)
    else:
        fp8 = torch.full_like(score, settings.mode == "all_fp8", dtype=torch.bool)
    block_nan = nan.any(-1)
    fp8 = fp8 | block_nan
    blocks = Blocks.merge(fp8, (codes4, scales), torch.where(nan, E4M3.nan_code, codes8))
    return Selected(blocks.fp8, blocks.scales, blocks.codes, score=score, nan=block_nan)
