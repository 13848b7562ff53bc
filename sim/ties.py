"""The longest rows there may be, whose sums lie at a rounding tie, or one unit beside it, near full scale."""

import torch
from torch import Tensor

from ..formats import ACCUMULATOR_FRACTION_BITS, BLOCK_SIZE
from ..golden.blocks import Blocks

__all__ = ["full_scale_ties", "nearly", "power_code", "row_of"]

_LARGEST, _POWER = 0x7E, 0x78  # 448 and 256
_LARGEST_PRODUCT = 49 << 30
"""448 * 448, in units of 2**-18."""
_SCALE = 0x38


def full_scale_ties(k_max: int) -> tuple[Blocks, Blocks] | None:
    """Operands (R, B, 16), all FP8: row r of one times row r of the other is near a tie of float32 or bfloat16.

    All blocks but the last hold products of one size; the last one brings the tie, and the unit that breaks it. None
    for rows of one block.
    """
    blocks = k_max // BLOCK_SIZE
    room = BLOCK_SIZE * (blocks - 1)
    if not room:
        return None
    cases = [(_LARGEST, room, _LARGEST_PRODUCT, False)]
    power = 1 << (room.bit_length() - 1)
    cases.append((_POWER, power, 1 << 34, False))
    if power + (power >> 8) > room:
        power >>= 1
    if power >= 1 << 8:
        cases.append((_POWER, power + (power >> 8), 1 << 34, True))  # a tie of bfloat16 as it is
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for code, count, product, tied in cases:
        top = (count * product).bit_length() - 1
        for odd in (0, 1):
            for beside in (-1, 0, 1):
                a = torch.zeros(blocks * BLOCK_SIZE, dtype=torch.int64)
                w = torch.zeros_like(a)
                a[:count] = w[:count] = code
                tail = 0 if tied else (1 << top - 24) + (odd << top - 23)
                for side, part in zip((a, w), row_of(tail), strict=True):
                    side[-BLOCK_SIZE:] = part.flatten()[:BLOCK_SIZE]
                if beside:
                    a[-1], w[-1] = 1 | (beside < 0) << 7, 1
                sides[0].append(a.view(blocks, BLOCK_SIZE))
                sides[1].append(w.view(blocks, BLOCK_SIZE))
    a, w = (torch.stack(side).to(torch.uint8) for side in sides)
    a = torch.cat((a, torch.where(a > 0, a ^ 0x80, a)))
    return _fp8(a), _fp8(torch.cat((w, w)))


def nearly(value: int) -> tuple[Tensor, Tensor]:
    """Codes (B, 16) of two FP8 rows whose dot product is `value` units of 2**-18, with as few blocks as that takes."""
    count, rest = divmod(value, _LARGEST_PRODUCT)
    powers, rest = divmod(rest, 1 << 34)
    codes = torch.tensor([_LARGEST] * count + [_POWER] * powers)
    blocks = torch.nn.functional.pad(codes, (0, -len(codes) % BLOCK_SIZE)).view(-1, BLOCK_SIZE)
    a, w = row_of(rest)
    return torch.cat((blocks, a)), torch.cat((blocks, w))


def row_of(value: int) -> tuple[Tensor, Tensor]:
    """Codes (4, 16) of two FP8 rows whose dot product is `value` units of 2**-18, from its set bits."""
    a, w = torch.zeros(64, dtype=torch.int64), torch.zeros(64, dtype=torch.int64)
    for place, bit in enumerate(b for b in range(value.bit_length()) if value >> b & 1):
        # 2**-9 * 2**i, as subnormal or normal code: 2**i in subnormal steps.
        low, high = min(bit, 17), bit - min(bit, 17)
        a[place], w[place] = power_code(low), power_code(high)
    return a.view(4, 16), w.view(4, 16)


def power_code(i: int) -> int:
    """E4M3 code of 2**(i - 9), i from 0 to 17."""
    return 1 << i if i < 3 else (i - 2) << 3


def _fp8(codes: Tensor) -> Blocks:
    shape = codes.shape[:2]
    return Blocks(torch.ones(shape, dtype=torch.bool), torch.full(shape, _SCALE, dtype=torch.uint8), codes)


assert ACCUMULATOR_FRACTION_BITS == 20  # `row_of` counts in units of 2**-18, four accumulator units
