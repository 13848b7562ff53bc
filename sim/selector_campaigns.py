"""Campaigns for the selector: ties, boundaries of the block scale, thresholds, special values, random blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..formats import BLOCK_SIZE, E2M1, E4M3, MAX_BLOCK_SCALE_CODE, SELECTOR_MODES, TENSOR_EXPONENT_LIMIT
from ..golden.codec import pack_nibbles
from ..golden.selector import SiteSettings, Threshold, select
from ..hdl.config import SelectorConfig
from ..hdl.design import Design
from .campaign import Campaign, Group
from .payload import block_fields, pack_payloads

__all__ = ["BlockSet", "blocks_campaign", "selector_campaigns"]


ZERO_SETTINGS = SiteSettings(0)


@dataclass(frozen=True)
class BlockSet:
    """Blocks (n, 16), float32, quantized under one group of settings.

    The settings' `static_fp8` (n,) and `channel_codes` (n, 16) belong to single blocks here; they are drawn from `seed`
    where there are none. `exponent` overrides the settings' with any number that the register can hold, legal or not.
    """

    x: Tensor
    settings: SiteSettings = ZERO_SETTINGS
    seed: int = 0
    exponent: int | None = None


def blocks_campaign(
    design: Design, name: str, sets: list[BlockSet], stalls: tuple[float, float] = (0.0, 0.0), seed: int = 0
) -> Campaign:
    """A campaign of block sets, one group each."""
    config = design.config
    assert isinstance(config, SelectorConfig)
    inputs, results, groups = [], [], []
    for blocks in sets:
        x = blocks.x.to(getattr(torch, config.input_format))
        count = len(x)
        static, channel = _drawn(design, count, blocks.seed)
        settings = blocks.settings
        if settings.static_fp8 is not None:
            static = settings.static_fp8
        if channel is not None and settings.channel_codes is not None:
            channel = settings.channel_codes.long()
        exponent = settings.exponent if blocks.exponent is None else blocks.exponent
        legal = min(max(exponent, -TENSOR_EXPONENT_LIMIT), TENSOR_EXPONENT_LIMIT)
        # One row per block: the block dimension is the first, as `select` wants (..., K).
        each = {"static_fp8": static[:, None], "channel_codes": None if channel is None else channel[:, None]}
        selected = select(x, replace(settings, exponent=legal, **each))
        block = selected[:, 0]
        last = (torch.arange(count) % 3 == 2).numpy()
        raw = x.contiguous().view(torch.int16 if config.input_format == "bfloat16" else torch.int32)
        fields = {
            "x": raw.numpy().view(np.uint8).reshape(count, raw.itemsize * BLOCK_SIZE),
            "static_fp8": static.numpy(),
            "last": last,
        }
        if channel is not None:
            fields["channel_codes"] = pack_nibbles(channel).to(torch.uint8).numpy()
        inputs.append(pack_payloads(design.port("i_payload"), fields))
        expected = {
            **block_fields(block),
            "nan": selected.nan[:, 0].numpy(),
            "last": last,
            "score": selected.score[:, 0].long().numpy(),
        }
        results.append(pack_payloads(design.port("o_payload"), expected))
        registers = {
            "tensor_exponent": exponent,
            "threshold": settings.threshold.significand | settings.threshold.exponent << 8,
            "mode": SELECTOR_MODES.index(settings.mode),
        }
        if config.four_over_six:
            registers["four_over_six"] = int(settings.four_over_six)
        groups.append(
            Group(
                registers,
                count,
                count,
                {"nan": int(selected.nan.any()), "format_error": int(legal != exponent and count > 0)},
            )
        )
    return Campaign(name, np.concatenate(inputs), np.concatenate(results), groups, stalls, seed)


def _drawn(design: Design, count: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Static bits (count) and, where the selector has them, channel codes (count, 16)."""
    config = design.config
    assert isinstance(config, SelectorConfig)
    generator = torch.Generator().manual_seed(seed)
    static = torch.rand(count, generator=generator) < 0.5
    return static, torch.randint(0, 16, (count, BLOCK_SIZE), generator=generator) if config.channel_codes else None


def selector_campaigns(design: Design, *, count: int = 4000, seed: int = 1) -> list[Campaign]:
    """All campaigns; `count` random blocks a mode."""
    generator = torch.Generator().manual_seed(seed)
    few = max(count // 4, 1)
    middle = Threshold(200, 16)
    corners = {
        "E2M1 ties under every block scale": _e2m1_ties(),
        "E4M3 ties": _e4m3_ties(),
        "amax at every boundary of the block scale": _scale_boundaries(),
    }
    campaigns = [
        blocks_campaign(design, name, [BlockSet(x, SiteSettings(0, middle, mode)) for mode in ("all_fp4", "all_fp8")])
        for name, x in corners.items()
    ]
    config = design.config
    assert isinstance(config, SelectorConfig)
    if config.four_over_six:
        sets = list(_four_over_six_sets(design, generator, count, [*corners.values()]))
        campaigns.append(blocks_campaign(design, "four over six", sets))
    return [
        *campaigns,
        blocks_campaign(design, "scores at the threshold", list(_threshold_sets(design, generator))),
        blocks_campaign(design, "NaN, infinity, zero, subnormal, saturation", list(_special_sets(design))),
        blocks_campaign(design, "every tensor exponent", list(_exponent_sets(generator))),
        blocks_campaign(design, "random heavy-tailed", list(_random_sets(generator, count, seed)), seed=seed),
        *(
            blocks_campaign(
                design, f"random heavy-tailed, {name}", list(_random_sets(generator, few, own)), pauses, seed
            )
            for name, own, pauses in (
                ("stalls", seed + 1, (0.3, 0.4)),
                ("source pauses", seed + 2, (0.5, 0.0)),
                ("sink pauses", seed + 3, (0.0, 0.5)),
            )
        ),
    ]


def _four_over_six_sets(
    design: Design, generator: torch.Generator, count: int, corners: Sequence[Tensor]
) -> Iterator[BlockSet]:
    """Blocks for which either scale scores lower, blocks that both represent exactly, special values, all corners."""
    exact = torch.zeros(8, BLOCK_SIZE)
    exact[:, 0] = 6 * 2.0 ** torch.arange(-3, 5)
    exact[1:, 1] = exact[1:, 0] / 2
    # The two scales' codes differ in few of many blocks: more of them than elsewhere.
    size = torch.randn(4 * count, 1, generator=generator) * 4
    x = torch.randn(4 * count, BLOCK_SIZE, generator=generator) ** 3 * 2**size
    # From 288 on the larger scale is 72, the largest; from 420 on both are.
    large = torch.linspace(-448, 448, 16 * 32).view(32, BLOCK_SIZE)[:, torch.randperm(BLOCK_SIZE, generator=generator)]
    special = x[:64].clone()
    places = special.view(-1)[:: BLOCK_SIZE + 3]
    places.copy_(torch.tensor([float("nan"), float("inf"), -0.0, 1e-42]).repeat(len(places))[: len(places)])
    for values in (exact, x, large, special, _scale_boundaries(4), *corners):
        _, channel = _drawn(design, len(values), 0)
        settings = SiteSettings(1, channel_codes=None if channel is None else channel[:, None], four_over_six=True)
        threshold = Threshold.nearest(select(values, settings).score.median().item())
        for mode in ("all_fp4", "dynamic"):
            yield BlockSet(values, SiteSettings(1, threshold, mode, four_over_six=True))
        yield BlockSet(values, SiteSettings(1, threshold))


def _neighbours(values: Tensor) -> Tensor:
    """Each value with the float32 just below and just above, and the bfloat16 ones, either sign."""
    bits = values.float().view(torch.int32)
    near = [bits + step for step in (-0x10000, -1, 0, 1, 0x10000)]
    both = torch.stack(near, -1).flatten().clamp(min=0).view(torch.float32)
    return torch.cat((both, -both))


def _in_blocks(values: Tensor, anchor: Tensor) -> Tensor:
    """Rows of 15 values each with `anchor` as the sixteenth, which fixes amax."""
    padding = -len(values) % (BLOCK_SIZE - 1)
    rows = torch.cat((values, values.new_zeros(padding))).view(-1, BLOCK_SIZE - 1)
    return torch.cat((rows, anchor.expand(len(rows), 1)), 1)


def _e2m1_ties() -> Tensor:
    """For every block scale: all seven boundaries and their neighbours, in a block whose amax gives that scale."""
    middles = torch.tensor([(a + b) / 2 for a, b in zip(E2M1.magnitudes, E2M1.magnitudes[1:], strict=False)])
    rows = []
    for code in range(1, MAX_BLOCK_SCALE_CODE + 1):
        scale = E4M3.magnitude(code)
        rows.append(_in_blocks(_neighbours(middles * scale), torch.tensor(6 * scale)))
    return torch.cat(rows)


def _e4m3_ties() -> Tensor:
    """All midpoints of E4M3 and their neighbours, among blocks whose amax is 448."""
    values = torch.tensor(E4M3.magnitudes)
    return _in_blocks(_neighbours((values[1:] + values[:-1]) / 2), torch.tensor(448.0))


def _scale_boundaries(largest: int = 6) -> Tensor:
    """amax at `largest` times every midpoint between block scales (and its neighbours), smaller elements beside it."""
    values = torch.tensor([E4M3.magnitude(code) for code in range(MAX_BLOCK_SCALE_CODE + 2)])
    amax = _neighbours(largest * (values[1:] + values[:-1]) / 2)
    ramp = torch.linspace(0.03, 0.97, BLOCK_SIZE - 1)
    return torch.cat((amax[:, None] * ramp, amax[:, None]), 1)


def _threshold_sets(design: Design, generator: torch.Generator) -> Iterator[BlockSet]:
    """Thresholds equal to the score of some of the blocks, just below and just above, zero, and out of reach."""
    config = design.config
    assert isinstance(config, SelectorConfig)
    # One element of the block is off both grids: the score is one square of three bits, which a register can hold.
    offsets = torch.tensor([2.0**-9 * (8 + m) * 2.0**e for e in range(-2, 12) for m in range(8)])
    x = torch.zeros(len(offsets), BLOCK_SIZE)
    x[:, 0] = 6 * 2.0 ** torch.randint(0, 4, (len(offsets),), generator=generator)
    x[:, 5] = offsets
    # And the largest score: 365 is 352 in FP8 and, under the scale 72, 432 in FP4.
    x = torch.cat((x, torch.tensor([432.0] + [365.0] * (BLOCK_SIZE - 1))[None]))
    _, channel = _drawn(design, len(x), 0)
    settings = SiteSettings(0, channel_codes=None if channel is None else channel[:, None])
    plain = select(x.to(getattr(torch, config.input_format)), settings)
    for score in sorted({int(s) for s in plain.score.flatten().tolist()}):
        exponent = max(score.bit_length() - 8, 0)
        for step in (-1, 0, 1):
            significand = (score >> exponent) + step
            if 0 <= significand < 256:
                yield BlockSet(x, SiteSettings(0, Threshold(significand, exponent)))
    # Out of reach by a single bit, whichever.
    reach = max(int(plain.score.max()).bit_length() - 1, 0)
    beyond = [Threshold(1, exponent) for exponent in range(reach, 64)]
    beyond += [Threshold(1 << bit, 63) for bit in range(1, 8)]
    for threshold in (Threshold(0, 0), Threshold(0, 63), Threshold(255, 63), Threshold(255, 45), *beyond):
        yield BlockSet(x, SiteSettings(0, threshold))


def _special_sets(design: Design) -> Iterator[BlockSet]:
    """Special values in each position, alone and together, in all modes."""
    inf, nan = float("inf"), float("nan")
    config = design.config
    assert isinstance(config, SelectorConfig)
    tiny = 2.0**-149 if config.input_format == "float32" else 2.0**-133  # the smallest subnormal
    base = torch.linspace(-3, 5, BLOCK_SIZE)
    rows = [torch.zeros(BLOCK_SIZE), -torch.zeros(BLOCK_SIZE), torch.full((BLOCK_SIZE,), nan)]
    rows += [
        torch.full((BLOCK_SIZE,), v) for v in (inf, -inf, tiny, -tiny, 448.0, 449.0, -480.0, 3e38, 2.0**-9, 2.0**-11)
    ]
    for position in range(BLOCK_SIZE):
        for value in (nan, -nan, inf, -inf, tiny, -0.0, 3e38, 447.9, 448.0, 464.0):
            row = base.clone()
            row[position] = value
            rows.append(row)
    x = torch.stack(rows)
    # NaNs with other payloads and signs, which arithmetic does not make.
    if config.input_format == "bfloat16":
        odd = torch.tensor([0x7F81, -1, 0x7FFF, -0x40, 0x7FC1], dtype=torch.int16).view(torch.bfloat16)
    else:
        odd = torch.tensor([0x7F800001, -1, 0x7FFFFFFF, -0x400000, 0x7F810000], dtype=torch.int32).view(torch.float32)
    others = base.to(odd.dtype).repeat(len(odd), 1)
    others[:, 7] = odd
    for mode in SELECTOR_MODES:
        yield BlockSet(x, SiteSettings(0, Threshold(128, 20), mode), seed=1)
        yield BlockSet(x, SiteSettings(-2, Threshold(128, 20), mode), seed=2)
    yield BlockSet(others)
    for clean in (x[:1], x[3:5]):
        yield BlockSet(clean)


def _exponent_sets(generator: torch.Generator) -> Iterator[BlockSet]:
    """Every legal tensor exponent and those beyond, with values in its range; float32's smallest and largest too."""
    limit = TENSOR_EXPONENT_LIMIT
    for exponent in (*range(-limit, limit + 1), -limit - 1, limit + 1, -128, 127):
        legal = min(max(exponent, -limit), limit)
        x = torch.randn(8, BLOCK_SIZE, generator=generator) * 2.0 ** (legal + 5)
        x[7] *= 2.0**4
        x[6, ::2] = 2.0**-149
        yield BlockSet(x, SiteSettings(0, Threshold(200, 14)), exponent=exponent)
        if legal != exponent:  # in an empty selector it is no error
            yield BlockSet(x[:0], exponent=exponent)


def _random_sets(generator: torch.Generator, count: int, seed: int) -> Iterator[BlockSet]:
    """Heavy-tailed blocks over the whole range of magnitudes, in every mode, some with special values."""
    for index, mode in enumerate(SELECTOR_MODES):
        size = torch.randn(count, 1, generator=generator) * 4
        x = torch.randn(count, BLOCK_SIZE, generator=generator) ** 3 * 2**size
        for _ in range(count // 50):
            row, column = (int(torch.randint(0, n, (), generator=generator)) for n in (count, BLOCK_SIZE))
            x[row, column] = (float("nan"), float("inf"), -0.0, 1e-42)[row % 4]
        scores = select(x, SiteSettings(0)).score.flatten()
        threshold = Threshold.nearest(scores.median().item())
        yield BlockSet(x, SiteSettings(0, threshold, mode), seed=seed * 10 + index)
        yield BlockSet(x[: max(count // 4, 1)], SiteSettings(3, threshold, mode), seed=index)
