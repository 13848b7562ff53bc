"""The activities in which a unit's energy is measured: the benches' own campaigns, bit-parallel.

Every answer is compared with the golden model: a netlist that computes something else has no energy worth reporting.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import InputError
from ...formats import BLOCK_SIZE
from ...golden.blocks import Blocks
from ...golden.random_blocks import blocks_in_precisions
from ...golden.selector import SiteSettings, Threshold
from ...hdl.config import (
    AccumulatorConfig,
    ActivationDecoderConfig,
    DatapathConfig,
    DecoderConfig,
    DotConfig,
    EngineLaneConfig,
    LaneConfig,
    RowOrderConfig,
    SelectorConfig,
)
from ...hdl.design import Design, build
from ..campaign import Campaign
from ..lane_campaigns import rows_campaign
from ..selector_campaigns import BlockSet, blocks_campaign
from .around_lane import accumulator_stimulus, decoder_stimulus, row_order_stimulus
from .operand_bits import e4m3_parts
from .stimulus import Stimulus, integer_words, quiet_flags
from .weight_stationary import Tile, weight_stationary
from .words import ONES, Words, pack_bits

__all__ = ["PART_CONFIGS", "normal_blocks", "selector_stimulus", "shares_by_activity", "stimuli"]

PART_CONFIGS = (
    AccumulatorConfig,
    ActivationDecoderConfig,
    DecoderConfig,
    DotConfig,
    EngineLaneConfig,
    RowOrderConfig,
)
"""Units without streams, which have activities but no campaigns."""

_RESET_CYCLES = 2
_ROW_BLOCKS = 8
_SPREAD = 48.0
"""Standard deviation of random values, in stored units: a block's largest lies well below 448."""


def stimuli(design: Design, words: int = 8, cycles: int = 64, seed: int = 0) -> dict[str, Stimulus]:
    """The activities of a unit by name, for 64 x `words` streams. Raises InputError for a unit that has none."""
    config = design.config
    generator = torch.Generator().manual_seed(seed)
    if isinstance(config, DatapathConfig | DotConfig):
        return {
            name: _pairs(design, a, w, words, cycles, generator)
            for name, (a, w) in shares_by_activity(config.formats).items()
        }
    if isinstance(config, SelectorConfig):
        return {"random activations, about 70 % FP4": _selector(design, words, cycles, generator)}
    if isinstance(config, DecoderConfig):
        return {"random codes": _decoder(design, words, cycles, seed)}
    if isinstance(config, AccumulatorConfig | ActivationDecoderConfig | RowOrderConfig):
        return {"random mix, 70 % FP4": _around_lane(design, words, cycles, generator)}
    raise InputError(f"{design.name}: no stimulus for this unit, expected a part of the engine, not all of it")


def shares_by_activity(formats: str) -> dict[str, tuple[float, float]]:
    """Share of FP8 blocks among activations and weights, by activity."""
    if formats == "fp8":
        return {"FP8xFP8": (1.0, 1.0)}
    return {
        "FP4xFP4": (0.0, 0.0),
        "FP4xFP8": (0.0, 1.0),
        "FP8xFP4": (1.0, 0.0),
        "FP8xFP8": (1.0, 1.0),
        "random mix, 70 % FP4": (0.3, 0.3),
    }


def normal_blocks(shape: tuple[int, ...], fp8_share: float, generator: torch.Generator) -> Blocks:
    """Blocks (*shape, 16) of normally distributed values, quantized by the golden model; each is FP8 at random."""
    x = torch.randn(*shape, BLOCK_SIZE, generator=generator) * _SPREAD
    fp8 = torch.rand(*shape, generator=generator) < fp8_share
    return blocks_in_precisions(x.flatten(-2), fp8)


def _pairs(design: Design, a_fp8: float, w_fp8: float, words: int, cycles: int, generator: torch.Generator) -> Stimulus:
    config = design.config
    streams = 64 * words
    if isinstance(config, EngineLaneConfig):
        rows, blocks = 32, max(cycles // 32, 1)
        tile = _tile(streams, blocks, rows, (a_fp8, w_fp8), generator)
        text = f"random normal values, weights stationary for {rows} rows, which come by precision"
        return Stimulus(text, *weight_stationary(design, tile, tile.row_order("precision")))
    assert isinstance(config, LaneConfig | DotConfig)
    blocks = _ROW_BLOCKS if isinstance(config, LaneConfig) else 1
    rows = max(cycles // blocks, 1)
    a, w = (normal_blocks((streams * rows, blocks), share, generator) for share in (a_fp8, w_fp8))
    text = "random normal values, both operands new in every cycle"
    if isinstance(config, LaneConfig):
        campaign = rows_campaign(design, "", [(a, w, torch.zeros(streams * rows, dtype=torch.int64))])
        return _stream(design, campaign, text, words, {"exponent": 0}, blocks)
    # The same vectors as a lane's, whose raw result of a row of one block is the term.
    lane = build(LaneConfig(formats=config.formats), "lane")
    campaign = rows_campaign(lane, "", [(a, w, torch.zeros(streams * rows, dtype=torch.int64))])
    pairs, results = _bits(campaign.inputs, streams), _bits(campaign.results, streams)
    fields, outputs = lane.port("i_payload").fields, lane.port("o_payload").fields
    inputs = {}
    for operand in ("a", "w"):
        names = [n for n in fields if n.startswith(f"{operand}.")]
        start = min(fields[n][0] for n in names)
        inputs[operand] = pairs[:, start : start + design.port(operand).width]
    start = outputs["raw"][0]
    term = results[:, start : start + design.port("term").width]
    at = np.arange(config.latency, rows)
    expected = {"term": (at, term[: len(at)]), **quiet_flags(design, at, words)}
    return Stimulus(text, inputs, expected, rows, config.latency + 1)


def _around_lane(design: Design, words: int, cycles: int, generator: torch.Generator) -> Stimulus:
    config = design.config
    assert isinstance(config, AccumulatorConfig | ActivationDecoderConfig | RowOrderConfig)
    rows, fp8 = 32, False
    if isinstance(config, ActivationDecoderConfig):
        fp8 = config.formats == "fp8"
    else:
        rows = config.rows
    tile = _tile(64 * words, max(cycles // rows, 2), rows, (1.0, 1.0) if fp8 else (0.3, 0.3), generator)
    order = tile.row_order("ascending" if fp8 else "precision")
    if isinstance(config, ActivationDecoderConfig):
        return decoder_stimulus(design, tile, order)
    if isinstance(config, RowOrderConfig):
        return row_order_stimulus(design, tile, order, "precision")
    if config.lanes > 1 or config.storage == "memory":
        raise InputError(
            f"{design.name}: no stimulus for lanes={config.lanes} storage={config.storage}, expected 1 and banked"
        )
    return accumulator_stimulus(design, tile, order)


def _tile(streams: int, blocks: int, rows: int, fp8_shares: tuple[float, float], generator: torch.Generator) -> Tile:
    """Random normal values, from the first block of K."""
    a = normal_blocks((streams, blocks, rows), fp8_shares[0], generator)
    w = normal_blocks((streams, blocks), fp8_shares[1], generator)
    nothing = torch.zeros(streams, dtype=torch.bool)
    return Tile(a=a, w=w, sums=torch.zeros(streams, rows, dtype=torch.int64), first=~nothing, last=nothing)


def _selector(design: Design, words: int, cycles: int, generator: torch.Generator) -> Stimulus:
    x = torch.randn(64 * words, cycles, BLOCK_SIZE, generator=generator) * _SPREAD
    # Of normal values about 70 % of the blocks have less squared error than this.
    config = design.config
    assert isinstance(config, SelectorConfig)
    settings = SiteSettings(0, Threshold(195, 24), four_over_six=config.four_over_six)
    sets = [BlockSet(blocks, settings) for blocks in x]
    return selector_stimulus(design, sets, "random normal activations")


def selector_stimulus(design: Design, sets: Sequence[BlockSet], text: str) -> Stimulus:
    """One stream for each of `sets`, a multiple of 64, all of the same length, each under its own registers."""
    campaign = blocks_campaign(design, "", list(sets))
    registers = {name: np.array([g.registers[name] for g in campaign.groups]) for name in campaign.groups[0].registers}
    return _stream(design, campaign, text, len(sets) // 64, registers, 1)


def _stream(
    design: Design,
    campaign: Campaign,
    text: str,
    words: int,
    constants: Mapping[str, int | NDArray[np.int64]],
    blocks: int,
) -> Stimulus:
    """A campaign without stalls, its rows dealt out to the streams; each result takes `blocks` inputs."""
    streams = 64 * words
    payload, results = _bits(campaign.inputs, streams), _bits(campaign.results, streams)
    width, result_width = design.port("i_payload").width, design.port("o_payload").width
    latency = getattr(design.config, "latency", 0)
    count = len(payload) + latency + 1
    held = np.concatenate(
        [np.repeat(payload[:1], _RESET_CYCLES, axis=0), payload, np.repeat(payload[-1:], latency + 1, axis=0)]
    )[:, :width]
    total = count + _RESET_CYCLES
    valid = np.zeros((total, 1, words), dtype=np.uint64)
    valid[_RESET_CYCLES : _RESET_CYCLES + len(payload)] = ONES
    reset = np.zeros((total, 1, words), dtype=np.uint64)
    reset[:_RESET_CYCLES] = ONES
    inputs = {"rst": reset, "i_valid": valid, "i_payload": held, "o_ready": np.full((1, 1, words), ONES)}
    inputs |= {name: _constant(value, design.port(name).width, words) for name, value in constants.items()}
    inputs["clear_flags"] = _constant(0, 1, words)
    at = _RESET_CYCLES + np.arange(blocks - 1, len(payload), blocks) + latency
    expected = {
        "o_payload": (at, results[:, :result_width]),
        "o_valid": (at, np.full((len(at), 1, words), ONES)),
        **quiet_flags(design, at, words),
    }
    # The tail, which only empties the pipeline, is not counted.
    return Stimulus(text, inputs, expected, total, _RESET_CYCLES + latency + 1)


def _decoder(design: Design, words: int, cycles: int, seed: int) -> Stimulus:
    config = design.config
    assert isinstance(config, DecoderConfig)
    fmt = config.format
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << fmt.bits, (64 * words, cycles))
    small = codes & ((1 << fmt.bits - 1) - 1)
    # NaN codes come last and have the exponent of the largest number.
    if config.element == "E4M3":
        significands, shift = e4m3_parts()
    else:
        significands = (np.array(fmt.magnitudes) / fmt.magnitudes[1]).astype(np.int64)
        shift = np.zeros_like(significands)
    finite = np.minimum(small, fmt.max_finite_code)
    nan = (small != finite).astype(np.int64)
    fields = {"sign": codes >> fmt.bits - 1, "significand": significands[finite] * (1 - nan)}
    if config.element == "E4M3":
        fields |= {"shift": shift[finite], "nan": nan}
    expected = {name: (np.arange(cycles), integer_words(v, design.port(name).width)) for name, v in fields.items()}
    return Stimulus("random codes", {"code": integer_words(codes, fmt.bits)}, expected, cycles, 1)


def _bits(payloads: NDArray[np.uint8], streams: int) -> Words:
    """(n, bytes) payloads to (n / streams, bits, words): consecutive ones belong to one stream."""
    steps = len(payloads) // streams
    dealt = payloads[: steps * streams].reshape(streams, steps, -1)
    bits = np.unpackbits(dealt.transpose(1, 2, 0), axis=1, bitorder="little")
    return pack_bits(bits.astype(np.bool_))


def _constant(value: int | NDArray[np.int64], width: int, words: int) -> Words:
    """A value for all streams, or one for each, that holds throughout."""
    return integer_words(np.broadcast_to(np.reshape(value, (-1, 1)), (64 * words, 1)), width)
