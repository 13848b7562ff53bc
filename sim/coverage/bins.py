"""Functional coverage: what happened, counted in named bins. A bin that stays empty is a test that is missing."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ...formats import (
    E4M3,
    MAX_BLOCK_SCALE_CODE,
    MIN_BLOCK_SCALE_CODE,
    PRECISION_MODES,
    SELECTOR_MODES,
    TENSOR_EXPONENT_LIMIT,
)
from ...hdl.config import EngineConfig, LaneConfig, SelectorConfig
from ...hdl.design import Design, Port
from ...hdl.engine.config import TILE_BLOCKS
from ..campaign import Campaign
from ..engine.gemm import Gemm

__all__ = ["Bins", "engine_bins", "lane_bins", "selector_bins"]

Bins = dict[str, dict[str, int]]
"""Counts by group and bin; those of 0 are holes."""

_FLOAT32_BITS, _BFLOAT16_BITS = 24, 8
_ROUNDED = ("exact", "below the tie", "tie to even, down", "tie to even, up", "above the tie")
_STALLS = ("none", "source", "sink", "both")


def _counted(names: Iterable[str], seen: Counter[str]) -> dict[str, int]:
    """Counts of all `names`; what was seen and has no name is a defect of these bins."""
    names = list(names)
    assert set(seen) <= set(names), sorted(set(seen) - set(names))
    return {name: seen[name] for name in names}


def _tally(seen: Counter[str], tests: Mapping[str, np.ndarray], prefix: str = "") -> None:
    """Count where each of `tests` is true; what happened nowhere is not named."""
    seen.update({f"{prefix}{name}": count for name, where in tests.items() if (count := int(where.sum()))})


def _field(port: Port, payloads: np.ndarray, name: str) -> np.ndarray:
    """A field of many payloads: int64 (n,), or uint8 (n, bytes) where it is wider."""
    offset, width = port.fields[name]
    bits = np.unpackbits(payloads, axis=1, bitorder="little")[:, offset : offset + width]
    packed = np.packbits(bits, axis=1, bitorder="little")
    if width > 63:
        return packed
    return np.pad(packed, ((0, 0), (0, 8 - packed.shape[1]))).view("<i8")[:, 0]


def _stalls(campaigns: Sequence[Campaign]) -> dict[str, int]:
    seen = Counter(_STALLS[(c.stalls[0] > 0) + 2 * (c.stalls[1] > 0)] for c in campaigns)
    return _counted(_STALLS, seen)


# Lane


def lane_bins(design: Design, campaigns: Sequence[Campaign]) -> Bins:
    """Of a lane's campaigns: modes and their transitions, codes, sums, rounding, exponents, stalls."""
    config = design.config
    assert isinstance(config, LaneConfig)
    into, out = design.port("i_payload"), design.port("o_payload")
    mixed = config.formats == "mixed"
    modes: Counter[str] = Counter()
    turns: Counter[str] = Counter()
    scales: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    places: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    rounded: dict[str, Counter[str]] = {"float32": Counter(), "bfloat16": Counter()}
    exponents: Counter[str] = Counter()
    names = list(PRECISION_MODES)
    for campaign in campaigns:
        data = campaign.inputs
        fp8 = {side: _field(into, data, f"{side}.fp8") if mixed else np.ones(len(data), np.int64) for side in "aw"}
        mode = np.array(names)[2 * fp8["a"] + fp8["w"]]
        modes.update(mode.tolist())
        turns.update(f"{a} to {b}" for a, b in zip(mode[:-1].tolist(), mode[1:].tolist(), strict=True))
        for side, kind in (("a", "activation"), ("w", "weight")):
            _elements(elements, kind, _field(into, data, f"{side}.codes"), fp8[side].astype(bool))
            if mixed:
                _scales(scales, kind, _field(into, data, f"{side}.scale")[fp8[side] == 0])
        first, last = _field(into, data, "first"), _field(into, data, "last")
        places.update(np.array(["middle", "last", "first", "only"])[2 * first + last].tolist())
        poisoned = _field(out, campaign.results, "poisoned").astype(bool)
        raw = _signed(_field(out, campaign.results, "raw"), out.fields["raw"][1])
        _sums(sums, raw, poisoned, out.fields["raw"][1])
        for name, bits in (("float32", _FLOAT32_BITS), ("bfloat16", _BFLOAT16_BITS)):
            rounded[name].update(_rounding(np.abs(raw[~poisoned]), bits))
        exponents.update(_exponent(group.registers["exponent"]) for group in campaign.groups)
    codes = ("smallest", "largest", "legal", "0", "above the largest", "sign bit", "NaN")
    found = {
        "precision mode": _counted(names if mixed else ["FP8xFP8"], modes),
        "change of precision mode": _counted((f"{a} to {b}" for a in names for b in names), turns)
        if mixed
        else _counted(["FP8xFP8 to FP8xFP8"], turns),
        "block scale": _counted(
            [f"{kind}: {code}" for kind in ("activation", "weight") for code in codes],
            scales,
        ),
        "element": _counted(_element_names(mixed), elements),
        "place in the row": _counted(("first", "middle", "last", "only"), places),
        "sum": _counted(("zero", "positive", "negative", "full scale", "poisoned"), sums),
        "exponent": _counted(_EXPONENTS, exponents),
        "stalls": _stalls(campaigns),
    }
    if not mixed:
        del found["block scale"]
    return found | {f"rounding to {name}": _counted(_ROUNDED, seen) for name, seen in rounded.items()}


def _element_names(mixed: bool) -> list[str]:
    kinds = ["FP8: NaN", "FP8: largest", "FP8: subnormal", "FP8: zero", "FP8: -0", "FP8: normal"]
    kinds += ["FP4: 0.5", "FP4: largest", "FP4: zero", "FP4: -0", "FP4: normal"] if mixed else []
    return [f"{side}, {kind}" for side in ("activation", "weight") for kind in kinds]


def _elements(seen: Counter[str], side: str, codes: np.ndarray, fp8: np.ndarray) -> None:
    eight = codes[fp8].ravel()
    magnitude = eight & 0x7F
    tests = {
        "NaN": magnitude == 0x7F,
        "largest": magnitude == 0x7E,
        "subnormal": (magnitude > 0) & (magnitude < 8),
        "zero": eight == 0,
        "-0": eight == 0x80,
        "normal": (magnitude >= 8) & (magnitude < 0x7E),
    }
    narrow = codes[~fp8][:, : codes.shape[1] // 2]
    four = np.stack((narrow & 15, narrow >> 4)).ravel()
    small = four & 7
    fours = {
        "0.5": small == 1, "largest": small == 7, "zero": four == 0, "-0": four == 8,
        "normal": (small > 1) & (small < 7),
    }  # fmt: skip
    _tally(seen, tests, f"{side}, FP8: ")
    _tally(seen, fours, f"{side}, FP4: ")


def _scales(seen: Counter[str], side: str, scales: np.ndarray) -> None:
    magnitude = scales & 0x7F
    nan = magnitude == E4M3.nan_code
    tests = {
        "NaN": nan,
        "sign bit": (scales > 0x7F) & ~nan,
        "above the largest": (scales > MAX_BLOCK_SCALE_CODE) & (scales < 0x7F),
        "0": scales == 0,
        "smallest": scales == MIN_BLOCK_SCALE_CODE,
        "largest": scales == MAX_BLOCK_SCALE_CODE,
        "legal": (scales > MIN_BLOCK_SCALE_CODE) & (scales < MAX_BLOCK_SCALE_CODE),
    }
    _tally(seen, tests, f"{side}: ")


def _signed(raw: np.ndarray, width: int) -> np.ndarray:
    return raw - ((raw >> (width - 1)) << width)


def _sums(seen: Counter[str], raw: np.ndarray, poisoned: np.ndarray, width: int) -> None:
    good = raw[~poisoned]
    tests = {
        "zero": good == 0,
        "positive": good > 0,
        "negative": good < 0,
        "full scale": np.abs(good) >= 1 << (width - 2),
        "poisoned": poisoned[poisoned],
    }
    _tally(seen, tests)


def _rounding(magnitude: np.ndarray, kept: int) -> Counter[str]:
    """How sums of a magnitude round to `kept` significand bits, nearest even."""
    length = np.frexp(magnitude.astype(np.float64))[1]
    # float64 may round a long sum up to the next power of two.
    length -= (magnitude >> np.maximum(length - 1, 0) == 0) & (magnitude > 0)
    dropped = np.maximum(length - kept, 0)
    rest = magnitude & ((np.int64(1) << dropped) - 1)
    half = np.where(dropped > 0, np.int64(1) << np.maximum(dropped - 1, 0), 0)
    odd = magnitude >> dropped & 1
    kinds = np.select(
        [rest == 0, rest < half, (rest == half) & (odd == 0), (rest == half) & (odd == 1)], [0, 1, 2, 3], default=4
    )
    return Counter(np.array(_ROUNDED)[kinds].tolist())


_EXPONENTS = ("smallest", "largest", "zero", "positive", "negative", "beyond the limits")


def _exponent(value: int, limit: int = 2 * TENSOR_EXPONENT_LIMIT) -> str:
    value = (value & 0xFF) - ((value & 0x80) << 1)
    if abs(value) > limit:
        return "beyond the limits"
    if abs(value) == limit:
        return "largest" if value > 0 else "smallest"
    return "zero" if value == 0 else "positive" if value > 0 else "negative"


# Selector


def selector_bins(design: Design, campaigns: Sequence[Campaign]) -> Bins:
    """Of a selector's campaigns: values, decisions by mode, scores against thresholds, block scales, exponents."""
    config = design.config
    assert isinstance(config, SelectorConfig)
    into, out = design.port("i_payload"), design.port("o_payload")
    values: Counter[str] = Counter()
    decisions: Counter[str] = Counter()
    against: Counter[str] = Counter()
    scales: Counter[str] = Counter()
    exponents: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    for campaign in campaigns:
        _values(values, _field(into, campaign.inputs, "x"), config.input_format)
        results = campaign.results
        fp8, nan = _field(out, results, "fp8"), _field(out, results, "nan").astype(bool)
        scale, score = _field(out, results, "scale"), _field(out, results, "score")
        scales.update(np.array(["smallest", "largest", "between"])[
            np.select([scale == MIN_BLOCK_SCALE_CODE, scale == MAX_BLOCK_SCALE_CODE], [0, 1], default=2)
        ][fp8 == 0].tolist())  # fmt: skip
        begin = 0
        for group in campaign.groups:
            part = slice(begin, begin + group.results)
            begin += group.results
            registers = group.registers
            mode = SELECTOR_MODES[registers["mode"]]
            modes[mode] += group.results
            decisions.update(f"{mode}: {'FP8' if bit else 'FP4'}" for bit in fp8[part][~nan[part]].tolist())
            exponents[_exponent(registers["tensor_exponent"], TENSOR_EXPONENT_LIMIT)] += 1
            if mode == "dynamic":
                threshold = (registers["threshold"] & 0xFF) << (registers["threshold"] >> 8)
                apart = score[part][~nan[part]].astype(object) - threshold
                against.update(_apart(int(d)) for d in apart)
                against["score 0"] += int((score[part] == 0).sum())
        decisions["a NaN in the block: FP8"] += int(nan.sum())
    both = [f"{mode}: {kind}" for mode in ("dynamic", "static") for kind in ("FP4", "FP8")]
    return {
        "value": _counted(("NaN", "infinity", "largest exponent", "subnormal", "zero", "-0", "normal"), values),
        "mode": _counted(SELECTOR_MODES, modes),
        "decision": _counted([*both, "all_fp4: FP4", "all_fp8: FP8", "a NaN in the block: FP8"], decisions),
        "score against threshold": _counted(
            ("equal", "one step above", "one step below", "above", "below", "score 0"), against
        ),
        "block scale": _counted(("smallest", "largest", "between"), scales),
        "tensor exponent": _counted(_EXPONENTS, exponents),
        "stalls": _stalls(campaigns),
    }


def _apart(distance: int) -> str:
    named = {0: "equal", 1: "one step above", -1: "one step below"}
    return named.get(distance, "above" if distance > 0 else "below")


def _values(seen: Counter[str], raw: np.ndarray, kind: str) -> None:
    bits = raw.copy().view("<u2").astype(np.uint32) << 16 if kind == "bfloat16" else raw.copy().view("<u4")
    magnitude = bits & 0x7FFFFFFF
    infinite = magnitude == 0x7F800000
    tests = {
        "NaN": magnitude > 0x7F800000,
        "infinity": infinite,
        "largest exponent": (magnitude >= 0x7F000000) & (magnitude < 0x7F800000),
        "subnormal": (magnitude > 0) & (magnitude < 0x00800000),
        "zero": bits == 0,
        "-0": bits == 0x80000000,
        "normal": (magnitude >= 0x00800000) & (magnitude < 0x7F000000),
    }
    _tally(seen, tests)


# Engine


def engine_bins(config: EngineConfig, gemms: Sequence[Gemm], events: Counter[str], stalls: Counter[str]) -> Bins:
    """Of the GEMMs that an engine ran, the events that it raised, and the streams that paused."""
    sizes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    turns: Counter[str] = Counter()
    for gemm in gemms:
        sizes[f"M {_tile(gemm.rows, config.rows)}"] += 1
        sizes[f"N {_tile(gemm.outputs, config.lanes)}"] += 1
        blocks = -(-gemm.columns // 16)
        sizes[f"K {_tile(blocks, TILE_BLOCKS)}"] += 1
        sizes["K not whole blocks" if gemm.columns % 16 else "K whole blocks"] += 1
        within = (blocks - 1) % TILE_BLOCKS + 1
        sizes[f"last K tile of {within} blocks"] += 1
        sizes["K beyond the buffer" if gemm.columns > config.resident_k else "K in the buffer"] += 1
        source = config.raw_input if gemm.raw else "packed"
        kinds[f"{source} to {gemm.output}"] += 1
        if gemm.relu:
            kinds["ReLU"] += 1
        for side, settings in (("input", gemm.settings), ("output", gemm.output_settings)):
            if settings is not None:
                turns[f"{side}: {settings.mode}"] += 1
    sources = ["packed", *([] if config.raw_input == "none" else [config.raw_input])]
    outputs = ["float32", "bfloat16", *(["packed"] if config.packed_output else [])]
    tiles = ("of one", "less than a tile", "one tile", "a tile and one", "several tiles")
    names = [f"{size} {tile}" for size in "MNK" for tile in tiles]
    names += ["K whole blocks", "K not whole blocks", "K in the buffer", "K beyond the buffer"]
    names += [f"last K tile of {blocks} blocks" for blocks in range(1, TILE_BLOCKS + 1)]
    if config.k_max <= config.resident_k:
        names.remove("K beyond the buffer")
    sides = [*(["input"] if config.input_selector else []), *(["output"] if config.output_selector else [])]
    found = {
        "size": _counted(names, sizes),
        "kind": _counted([*(f"{a} to {b}" for a in sources for b in outputs), "ReLU"], kinds),
        "event": dict(events),
        "paused stream": _counted((*config.operand_streams, "results"), stalls),
    }
    if sides:
        found["selector mode"] = _counted([f"{side}: {mode}" for side in sides for mode in SELECTOR_MODES], turns)
    return found


def _tile(size: int, tile: int) -> str:
    if size == 1:
        return "of one"
    if size < tile:
        return "less than a tile"
    return "one tile" if size == tile else "a tile and one" if size == tile + 1 else "several tiles"
