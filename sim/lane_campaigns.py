"""Campaigns for the lane: every element pair, every block scale, extremes, errors, and random rows."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..formats import (
    BLOCK_SIZE,
    E4M3,
    FLOAT32,
    MAX_BLOCK_SCALE_CODE,
    ceil_div,
)
from ..golden.blocks import Blocks
from ..golden.lane import check_k, expected_rows
from ..golden.random_blocks import random_blocks, random_codes
from ..hdl.config import LaneConfig
from ..hdl.design import Design
from .campaign import Campaign, Group
from .payload import block_fields, pack_payloads
from .ties import full_scale_ties, nearly, row_of

__all__ = ["lane_campaigns", "pair_campaigns", "partial_sums_campaign", "rows_campaign"]

ONE = 0x38
"""The block scale 1.0."""

_FP4, _FP8 = False, True


def rows_campaign(
    design: Design,
    name: str,
    rows: Sequence[tuple[Blocks, Blocks, Tensor]],
    stalls: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
) -> Campaign:
    """A campaign of row sets; each set is (a, w, exponents) with blocks (R, B, 16) and is a group by exponent.

    A set's rows must share one exponent to stay one group; otherwise it is split where the exponent changes.
    """
    inputs, results, groups = [], [], []
    assert isinstance(design.config, LaneConfig)
    fp8_only = design.config.formats == "fp8"
    unused = np.random.default_rng(seed)
    for a, w, exponents in rows:
        if fp8_only:
            a, w = _all_fp8(a), _all_fp8(w)  # noqa: PLW2901
        expected = expected_rows(a, w, exponents, design.config.k_max)
        count, blocks = a.fp8.shape
        first, last = torch.zeros(count, blocks, dtype=torch.uint8), torch.zeros(count, blocks, dtype=torch.uint8)
        first[:, 0] = 1
        last[:, -1] = 1
        fields = {"first": first.flatten().numpy(), "last": last.flatten().numpy()}
        for operand, side in (("a", a), ("w", w)):
            flat = Blocks(side.fp8.flatten(), side.scales.flatten(), side.codes.flatten(0, 1))
            fields |= block_fields(flat, f"{operand}.", formats=design.config.formats, unused=unused)
        inputs.append(pack_payloads(design.port("i_payload"), fields))
        poisoned = expected.float32 == FLOAT32.nan_code
        results.append(
            pack_payloads(
                design.port("o_payload"),
                {
                    "raw": expected.raw.numpy(),
                    "float32": expected.float32.numpy(),
                    "bfloat16": expected.bfloat16.numpy(),
                    "poisoned": poisoned.numpy(),
                },
            )
        )
        values, lengths = torch.unique_consecutive(exponents, return_counts=True)
        start = 0
        for exponent, length in zip(values.tolist(), lengths.tolist(), strict=True):
            part = slice(start, start + length)
            flags = {flag: int(getattr(expected, flag)[part].any()) for flag in ("nan", "format_error", "overflow")}
            groups.append(Group({"exponent": exponent}, length * blocks, length, flags))
            start += length
    return Campaign(name, np.concatenate(inputs), np.concatenate(results), groups, stalls, seed)


def lane_campaigns(design: Design, *, count: int = 4000, seed: int = 1, k: int | None = None) -> list[Campaign]:
    """All campaigns but the element pairs; `count` random rows, of `k` values where given."""
    assert isinstance(design.config, LaneConfig)
    if k is not None:
        check_k(k, design.config.k_max)
    generator = torch.Generator().manual_seed(seed)
    full_scale = list(_full_scale(design.config))
    errors = [*list(_nan_rows(generator))[:12], *list(_illegal_scales(generator))[:12]]
    few = max(count // 4, 1)
    return [
        rows_campaign(design, "block scales, all 105 x 105", list(_legal_scales(generator))),
        rows_campaign(design, "block scales, every illegal code", list(_illegal_scales(generator))),
        rows_campaign(design, "directed extremes", list(_extremes(design.config))),
        rows_campaign(design, "rounding ties and exponents", list(_ties())),
        *([rows_campaign(design, "ties near full scale", full_scale)] if full_scale else []),
        rows_campaign(design, "NaN codes and recovery", list(_nan_rows(generator))),
        rows_campaign(design, "random rows", list(_random_rows(generator, count, k)), seed=seed),
        rows_campaign(design, "random rows, stalls", list(_random_rows(generator, few, k)), (0.3, 0.4), seed),
        rows_campaign(
            design, "random rows, source pauses", list(_random_rows(generator, few // 4 + 1, k)), (0.5, 0), seed
        ),
        rows_campaign(
            design, "random rows, sink pauses", list(_random_rows(generator, few // 4 + 1, k)), (0, 0.5), seed
        ),
        rows_campaign(design, "NaN and illegal scales, stalls", errors, (0.3, 0.4), seed),
        partial_sums_campaign(design, generator),
        _idle_campaign(design),
    ]


def pair_campaigns(design: Design, *, share: int = 1) -> list[Campaign]:
    """All element pairs of each precision mode, each pair in every one of the 16 positions.

    A block pair holds 16 different pairs; over a whole turn, every position meets every pair. Pairs with a NaN go by
    themselves, because they poison the rounded results of those beside them. With `share` > 1 only one in `share` block
    pairs is taken (then a pair meets fewer positions).
    """
    campaigns = []
    for a_fp8 in (_FP4, _FP8):
        for w_fp8 in (_FP4, _FP8):
            a_codes, w_codes = torch.arange(256 if a_fp8 else 16), torch.arange(256 if w_fp8 else 16)
            pairs = torch.cartesian_prod(a_codes, w_codes)
            nan = (pairs & 0x7F == E4M3.nan_code).any(-1)
            sets = []
            for kind in (pairs[~nan], pairs[nan]):
                if not len(kind):
                    continue
                # An odd stride beside a sixteenth of the turn: neighbours differ in both operands.
                offsets = torch.arange(BLOCK_SIZE) * (len(kind) // BLOCK_SIZE + 37)
                turn = kind[(torch.arange(0, len(kind), share)[:, None] + offsets) % len(kind)]
                a, w = _blocks(a_fp8, turn[:, None, :, 0]), _blocks(w_fp8, turn[:, None, :, 1])
                sets.append((a, w, _same(len(turn), 0)))
            name = f"element pairs {'FP8' if a_fp8 else 'FP4'} x {'FP8' if w_fp8 else 'FP4'}"
            campaigns.append(rows_campaign(design, name, sets))
    return campaigns


def partial_sums_campaign(design: Design, generator: torch.Generator) -> Campaign:
    """Rows in which every block pair is marked last: each partial sum comes out, poison included once it struck."""
    assert isinstance(design.config, LaneConfig)
    blocks = 6
    a, w = random_blocks((8, blocks), generator), random_blocks((8, blocks), generator)
    a.fp8[3, 2] = True
    a.codes[3, 2, 5] = 0x7F
    prefixes = [
        (
            a[row : row + 1, :n],
            w[row : row + 1, :n],
            _same(1, 2),
        )
        for row in range(8)
        for n in range(1, blocks + 1)
    ]
    # The prefixes say what must come out; what goes in is each row once, with every block pair marked.
    expected = rows_campaign(design, "partial sums", prefixes)
    whole = rows_campaign(design, "partial sums", [(a, w, _same(8, 2))])
    bit = design.port("i_payload").fields["last"][0]
    inputs = whole.inputs.copy()
    inputs[:, bit // 8] |= np.uint8(1 << bit % 8)
    group = Group({"exponent": 2}, len(inputs), len(expected.results), whole.groups[0].flags)
    return Campaign("partial sums", inputs, expected.results, [group])


def _idle_campaign(design: Design) -> Campaign:
    """What stays in an idle lane raises no flag: a sum at the accumulator's end, the exponent in the register.

    An exponent that is illegal while nothing is rounded, in an empty lane or in the middle of a row, is none.
    """
    assert isinstance(design.config, LaneConfig)
    # Whatever is added to one of these overflows it, or nearly so.
    full, other = nearly((1 << design.config.accumulator_bits - 1) - 1 >> 2)
    row = torch.full((1, 6, BLOCK_SIZE), ONE)
    sets = [(_blocks(_FP8, full[None]), _blocks(_FP8, other[None] ^ sign), _same(1, 0)) for sign in (0, 0x80)]
    whole = rows_campaign(design, "idle", [*sets, (_blocks(_FP8, row), _blocks(_FP8, row), _same(1, 1))])
    *groups, last = whole.groups
    for exponent, inputs, results in ((127, 0, 0), (-128, 2, 0), (95, 2, 0), (1, 2, 1)):
        groups.append(Group({"exponent": exponent}, inputs, results, last.flags))
    return replace(whole, groups=groups)


_Set = tuple[Blocks, Blocks, Tensor]


def _legal_scales(generator: torch.Generator) -> Iterator[_Set]:
    """All pairs of block scales in FP4 x FP4, and each scale with an FP8 partner on either side."""
    codes = torch.arange(1, MAX_BLOCK_SCALE_CODE + 1)
    pairs = torch.cartesian_prod(codes, codes)
    count = len(pairs)
    # Positive codes: no dot product is zero, so each shows its scales.
    a = _blocks(_FP4, random_codes((count, 1), generator, fp8=_FP4) % 7 + 1, pairs[:, :1])
    w = _blocks(_FP4, random_codes((count, 1), generator, fp8=_FP4) % 7 + 1, pairs[:, 1:])
    yield a, w, _same(count, 0)
    narrow = _blocks(_FP4, random_codes((105, 1), generator, fp8=_FP4), codes[:, None])
    wide = _blocks(_FP8, random_codes((105, 1), generator, fp8=_FP8))
    yield narrow, wide, _same(105, 3)
    yield wide, narrow, _same(105, -3)


def _illegal_scales(generator: torch.Generator) -> Iterator[_Set]:
    """Every illegal code on either side, as first, middle or last block, then a legal row; ignored where FP8."""
    illegal = [code for code in range(256) if not 1 <= code <= MAX_BLOCK_SCALE_CODE]
    for partner in (_FP4, _FP8):
        for index, code in enumerate(illegal):
            scales = torch.full((2, 3), ONE)
            scales[0, index % 3] = code
            bad = _blocks(_FP4, random_codes((2, 3), generator, fp8=_FP4), scales)
            good = _blocks(partner, random_codes((2, 3), generator, fp8=partner))
            yield bad, good, _same(2, 0)
            yield good, bad, _same(2, 1)
    ignored = _blocks(_FP8, random_codes((256, 1), generator, fp8=_FP8), torch.arange(256)[:, None])
    yield ignored, ignored, _same(256, 0)


def _extremes(config: LaneConfig) -> Iterator[_Set]:
    """The longest row of the largest products, its negative, exact cancellation, the smallest, and rows too long."""
    blocks = config.k_max // BLOCK_SIZE
    largest = torch.full((1, blocks, BLOCK_SIZE), 0x7E)
    negative = largest | 0x80
    alternating = torch.where(torch.arange(BLOCK_SIZE) % 2 == 0, 0x7E, 0xFE).expand(1, blocks, BLOCK_SIZE)
    smallest = torch.full((1, blocks, BLOCK_SIZE), 0x01)
    top4 = torch.full((1, blocks, BLOCK_SIZE), 0x7)
    for a, w in (
        (largest, largest),
        (largest, negative),
        (alternating, largest),
        (smallest, smallest),
        (smallest, negative),
    ):
        yield _blocks(_FP8, a), _blocks(_FP8, w), _same(1, 0)
    for scale in (1, MAX_BLOCK_SCALE_CODE):
        scales = torch.full((1, blocks), scale)
        yield _blocks(_FP4, top4, scales), _blocks(_FP4, top4, scales), _same(1, 94)
        yield _blocks(_FP4, top4 | 8, scales), _blocks(_FP8, largest), _same(1, -94)
        yield _blocks(_FP8, smallest), _blocks(_FP4, torch.ones_like(top4), scales), _same(1, -94)
    # Sixteen negative products that share an exponent, each exponent: what adds up their signs holds most.
    for exponent in range(16):
        code = torch.full((1, 1, BLOCK_SIZE), max(exponent << 3, 1))
        for other in (0x80, 0x81, 0x88, 0xBF, 0xF8):
            yield _blocks(_FP8, code), _blocks(_FP8, torch.full_like(code, other)), _same(1, 0)
        yield _blocks(_FP8, code), _blocks(_FP4, torch.full_like(code, 0xF)), _same(1, 0)
        yield _blocks(_FP4, torch.full_like(code, 0x9)), _blocks(_FP8, code), _same(1, 0)
    zero8, zero4 = torch.zeros(1, 3, BLOCK_SIZE, dtype=torch.int64), torch.full((1, 3, BLOCK_SIZE), 8)
    yield _blocks(_FP8, zero8 | 0x80), _blocks(_FP4, zero4), _same(1, 5)
    # Rows beyond k_max: the accumulator overflows, is flagged, wraps, and works again in the next row. The width
    # leaves less than a factor of two to spare.
    long = torch.full((1, 2 * blocks, BLOCK_SIZE), 0x7E)
    for sign in (0, 0x80):
        yield _blocks(_FP8, long), _blocks(_FP8, long | sign), _same(1, 0)
        yield _blocks(_FP8, largest), _blocks(_FP8, largest), _same(1, 0)


def _ties() -> Iterator[_Set]:
    """Sums at, just below and just above the ties of float32 and bfloat16, either sign, at extreme exponents.

    A sum is built from single units: element i contributes its own power of two.
    """
    sums = []
    for bits in (8, 24):  # significant bits of bfloat16 and float32
        for kept in ((1 << bits - 1) + 0, (1 << bits - 1) + 1, (1 << bits) - 2, (1 << bits) - 1):
            for below in (-1, 0, 1):
                sums.append((kept << 5) + (1 << 4) + below)
    # A bfloat16 tie that only bits below float32's precision break: rounding twice would lose them.
    sums += [(0x81 << 25) + (1 << 24) + 1, (0x80 << 25) + (1 << 24) + 1, (0x80 << 25) + (1 << 24) - 1]
    rows_a, rows_w = zip(*(row_of(value) for value in sums), strict=True)
    a, w = torch.stack(rows_a), torch.stack(rows_w)
    for exponent in (0, 1, 94, -94, 95, -95, 127, -128):
        yield _blocks(_FP8, a), _blocks(_FP8, w), _same(len(sums), exponent)
        yield _blocks(_FP8, a | (a > 0) * 0x80), _blocks(_FP8, w), _same(len(sums), exponent)


def _full_scale(config: LaneConfig) -> Iterator[_Set]:
    """Sums near full scale at ties and beside them, at several exponents."""
    operands = full_scale_ties(config.k_max)
    if operands is None:
        return
    a, w = operands
    for exponent in (0, 94, -94):
        yield a, w, _same(len(a.fp8), exponent)


def _nan_rows(generator: torch.Generator) -> Iterator[_Set]:
    """A NaN code in each position of either operand, as first, middle or last block; each followed by a clean row."""
    for side in (0, 1):
        for position in range(BLOCK_SIZE):
            operands = [random_codes((2, 3), generator, fp8=_FP8) for _ in range(2)]
            operands[side][0, position % 3, position] = 0x7F | (position % 2) << 7
            yield _blocks(_FP8, operands[0]), _blocks(_FP8, operands[1]), _same(2, 0)
    # 0x7F bytes in an FP4 block are two nibbles, not NaN.
    nibbles = torch.full((1, 1, BLOCK_SIZE), 0xF)
    yield _blocks(_FP4, nibbles), _blocks(_FP4, nibbles), _same(1, 0)
    # NaN together with an illegal scale: both flags.
    bad = _blocks(_FP4, nibbles, torch.tensor([[0]]))
    yield bad, _blocks(_FP8, torch.full((1, 1, BLOCK_SIZE), 0xFF)), _same(1, 0)


def _random_rows(generator: torch.Generator, count: int, k: int | None) -> Iterator[_Set]:
    """Rows of random blocks in random precisions, of 1 to 12 blocks (or `k` values), in runs that share an exponent."""
    left = count
    while left > 0:
        rows = min(left, 64)
        blocks = ceil_div(k, BLOCK_SIZE) if k else int(torch.randint(1, 13, (), generator=generator))
        exponent = int(torch.randint(-94, 95, (), generator=generator))
        yield random_blocks((rows, blocks), generator), random_blocks((rows, blocks), generator), _same(rows, exponent)
        left -= rows


def _all_fp8(blocks: Blocks) -> Blocks:
    """The same codes taken as E4M3."""
    return Blocks(torch.ones_like(blocks.fp8), blocks.scales, blocks.codes)


def _blocks(fp8: bool, codes: Tensor, scales: Tensor | None = None) -> Blocks:
    """Blocks of one precision from codes (R, B, 16) and scale codes (R, B), 1.0 by default."""
    shape = codes.shape[:2]
    scales = torch.full(shape, ONE) if scales is None else scales
    return Blocks(torch.full(shape, fp8), scales.to(torch.uint8), codes.to(torch.uint8))


def _same(rows: int, exponent: int) -> Tensor:
    return torch.full((rows,), exponent)
