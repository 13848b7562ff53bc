"""Rounding of weights that makes up for its own errors ("GPTQ"; docs/numerics.md section 5)."""

import torch
from torch import Tensor

from ...formats import BLOCK_SIZE, MAX_BLOCK_SCALE_CODE, MAX_STORED, MIN_BLOCK_SCALE_CODE
from ...golden.blocks import Blocks
from ...golden.codec import decode_e4m3, encode_e2m1, encode_e4m3
from ...golden.compiled import round_columns
from ...golden.matrix import scale_codes

__all__ = ["compensated"]


def compensated(blocks: Tensor, fp8: Tensor, factor: Tensor, *, clip: bool, fast: bool = False) -> Blocks:
    """Round stored-unit `blocks` (N, B, 16), float32, to FP8 where `fp8` (N, B) is True, else to FP4, column by column.

    What a column loses is made up for in the columns behind it, by `factor` (of `calibrate.error_factor`). A block's
    FP4 scale is chosen when its turn comes: the one that costs least with what can still be made up for counted, or,
    without `clip`, amax / 6. `fast` compiles that choice; the result is the same.
    """
    values = blocks.permute(1, 2, 0).contiguous()  # (B, 16, N): a column lies in one piece
    flat = values.flatten(0, 1)
    scales = torch.empty_like(fp8, dtype=torch.uint8)
    legal = None
    if fast and clip and blocks.device.type == "cuda":
        from ...golden import fused  # needs Triton, which comes with torch for GPUs

        codes = torch.arange(MIN_BLOCK_SCALE_CODE, MAX_BLOCK_SCALE_CODE + 1, dtype=torch.uint8, device=blocks.device)
        legal = decode_e4m3(codes)
    pieces = factor.unflatten(1, (-1, BLOCK_SIZE)).unflatten(0, (-1, BLOCK_SIZE))  # (B, 16, B, 16)
    blocks_within = pieces.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()
    for index in range(len(values)):  # each depends on those before it
        here = slice(BLOCK_SIZE * index, BLOCK_SIZE * (index + 1))
        within = blocks_within[index]
        if legal is not None:
            scales[:, index], errors = fused.round_block_fused(values[index], within, fp8[:, index].contiguous(), legal)
        else:
            block = values[index].T.clamp(-MAX_STORED, MAX_STORED).contiguous()
            cost = within.diagonal().square().reciprocal().expand(block.shape) if clip else None
            scales[:, index] = scale_codes(block, cost, fast=fast)
            scale = decode_e4m3(scales[:, index].contiguous())
            values[index], errors = round_columns(values[index], within, scale, fp8[:, index], fast=fast)
        flat[here.stop :].addmm_(factor[here, here.stop :].T, errors, alpha=-1)
    rounded = values.permute(2, 0, 1).contiguous()
    codes = torch.where(fp8[..., None], encode_e4m3(rounded), encode_e2m1(rounded, decode_e4m3(scales)[..., None]))
    return Blocks(fp8, torch.where(fp8, 0, scales), codes)
