"""Random blocks for benches, vectors and tests: from random codes, or from values in random precisions."""

import torch
from torch import Tensor

from ..formats import BLOCK_SIZE, E2M1, E4M3, MAX_BLOCK_SCALE_CODE
from .blocks import Blocks
from .selector import SiteSettings, select

__all__ = ["blocks_in_precisions", "random_blocks", "random_codes"]


def random_codes(shape: tuple[int, ...], generator: torch.Generator, *, fp8: bool) -> Tensor:
    """Element codes without NaN, int64 (*shape, 16), every one as likely as another."""
    codes = torch.randint(0, 1 << (E4M3 if fp8 else E2M1).bits, (*shape, BLOCK_SIZE), generator=generator)
    return torch.where(codes & 0x7F == E4M3.nan_code, codes - 1, codes) if fp8 else codes


def random_blocks(
    shape: tuple[int, ...], generator: torch.Generator, *, illegal: float = 0.0, nan: float = 0.0
) -> Blocks:
    """Blocks (*shape) of random codes, each FP8 at random.

    A share `illegal` of the scales is any code, legal or not; a share `nan` of the codes may be NaN.
    """
    fp8 = torch.rand(shape, generator=generator) < 0.5
    scales = torch.randint(1, MAX_BLOCK_SCALE_CODE + 1, shape, generator=generator, dtype=torch.uint8)
    wide, narrow = (random_codes(shape, generator, fp8=kind) for kind in (True, False))
    codes = torch.where(fp8[..., None], wide, narrow).to(torch.uint8)
    if illegal:
        any_code = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        scales = torch.where(torch.rand(shape, generator=generator) < illegal, any_code, scales)
    if nan:
        struck = torch.rand((*shape, BLOCK_SIZE), generator=generator) < nan
        codes = torch.where(struck & fp8[..., None], codes | E4M3.nan_code, codes)
    return Blocks(fp8, scales, codes)


def blocks_in_precisions(x: Tensor, fp8: Tensor, exponent: int = 0) -> Blocks:
    """Values (..., K) quantized, each block in the precision that `fp8` (..., B) gives it; scales are amax / 6."""
    narrow, wide = (select(x, SiteSettings(exponent, mode=mode)) for mode in ("all_fp4", "all_fp8"))
    return Blocks.merge(fp8, (narrow.codes, narrow.scales), wide.codes)
