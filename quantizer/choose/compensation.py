"""Rounding of weights that makes up for its own errors ("GPTQ"; docs/numerics.md section 5)."""

import torch
from torch import Tensor

from ...formats import BLOCK_SIZE, MAX_STORED
from ...golden.blocks import Blocks
from ...golden.codec import decode_e2m1, decode_e4m3, encode_e2m1, encode_e4m3
from ...golden.matrix import scale_codes

__all__ = ["compensated"]


def compensated(blocks: Tensor, fp8: Tensor, factor: Tensor, *, clip: bool, fast: bool = False) -> Blocks:
    """Round stored-unit `blocks` (N, B, 16), float32, to FP8 where `fp8` (N, B) is True, else to FP4, column by column.

    What a column loses is made up for in the columns behind it, by `factor` (of `calibrate.error_factor`). A block's
    FP4 scale is chosen when its turn comes: the one that costs least with what can still be made up for counted, or,
    without `clip`, amax / 6. `fast` compiles that choice; the result is the same.
    """
    values = blocks.clone()
    flat = values.flatten(1)
    codes = torch.empty_like(blocks, dtype=torch.uint8)
    scales = torch.empty_like(fp8, dtype=torch.uint8)
    for index in range(blocks.shape[1]):  # each depends on those before it
        here = slice(BLOCK_SIZE * index, BLOCK_SIZE * (index + 1))
        block, within = values[:, index], factor[here, here]
        cost = within.diagonal().square().reciprocal().expand(block.shape) if clip else None
        scales[:, index] = scale_codes(block.clamp(-MAX_STORED, MAX_STORED).contiguous(), cost, fast=fast)
        scale, wide = decode_e4m3(scales[:, index]), fp8[:, index]
        errors = torch.empty_like(block)
        for j in range(BLOCK_SIZE):
            value = block[:, j].clamp(-MAX_STORED, MAX_STORED)
            code8, code4 = encode_e4m3(value), encode_e2m1(value, scale)
            codes[:, index, j] = torch.where(wide, code8, code4)
            rounded = torch.where(wide, decode_e4m3(code8), decode_e2m1(code4) * scale)
            errors[:, j] = (block[:, j] - rounded) / within[j, j]
            block[:, j + 1 :] -= torch.outer(errors[:, j], within[j, j + 1 :])
        flat[:, here.stop :] -= errors @ factor[here, here.stop :]
    return Blocks(fp8, torch.where(fp8, 0, scales), codes)
