"""The activation selector: quantizes a block both ways, scores the difference, decides, and packs the result."""

from collections.abc import Sequence
from typing import NamedTuple

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..golden.formats import (
    BLOCK_SIZE,
    E2M1,
    E4M3,
    MODES,
    STORED_FRACTION_BITS,
    TENSOR_EXPONENT_LIMIT,
    THRESHOLD_EXPONENT_BITS,
    THRESHOLD_SIGNIFICAND_BITS,
)
from .config import SelectorConfig
from .decoder import decode_e2m1, decode_e4m3
from .dot import tree_sum
from .faults import NO_FAULTS, SELECTOR_FAULTS, Faults
from .fixed import Fixed, block_scale, e2m1_boundaries, encode_e4m3, to_fixed
from .pipeline import Pipeline, wire

__all__ = ["Selector", "selector_input", "selector_output"]

_CUTS = ("fixed", "quarters", "amax", "scale", "codes", "quantized", "squares", "score")
_CUTS_BY_DEPTH: dict[int, tuple[str, ...]] = {
    0: (),
    1: ("scale",),
    2: ("amax", "quantized"),
    3: ("amax", "scale", "quantized"),
    4: ("fixed", "amax", "scale", "quantized"),
    5: ("fixed", "amax", "scale", "codes", "squares"),
    6: ("fixed", "amax", "scale", "codes", "squares", "score"),
    7: ("fixed", "amax", "scale", "codes", "quantized", "squares", "score"),
    8: _CUTS,
}
_ERROR_BITS = 17
_KEPT_BITS = 3


def selector_input(config: SelectorConfig) -> data.StructLayout:
    """Layout of the input payload; `last` is passed through."""
    members = {"x": config.format.bits * BLOCK_SIZE, "static_fp8": 1, "last": 1}
    if config.channel_codes:
        members["channel_codes"] = 4 * BLOCK_SIZE
    return data.StructLayout(members)


def selector_output(config: SelectorConfig) -> data.StructLayout:
    """Layout of the output payload; `score` is the raw port."""
    return data.StructLayout(
        {"codes": 8 * BLOCK_SIZE, "scale": 8, "fp8": 1, "nan": 1, "last": 1, "score": config.score_bits}
    )


class _Leading(NamedTuple):
    """The three leading bits of a number, and how many bits follow them."""

    kept: Value
    low: Value


THRESHOLD = data.StructLayout({"significand": THRESHOLD_SIGNIFICAND_BITS, "exponent": THRESHOLD_EXPONENT_BITS})


class Selector(wiring.Component):
    """docs/numerics.md section 4 in hardware.

    Ports: streams `i` and `o`; site registers `tensor_exponent`, `threshold` and `mode`, which must not change while
    blocks are inside; sticky flags `nan` and `format_error` (tensor exponent out of range), cleared by `clear_flags`.
    """

    def __init__(self, config: SelectorConfig, faults: bool = False):
        self.config = config
        members = {
            "i": In(stream.Signature(selector_input(config))),
            "o": Out(stream.Signature(selector_output(config))),
            "tensor_exponent": In(signed(8)),
            "threshold": In(THRESHOLD),
            "mode": In(range(len(MODES))),
            "clear_flags": In(1),
            "nan": Out(1),
            "format_error": Out(1),
        }
        if faults:
            members["fault_select"] = In(4)
        super().__init__(members)
        self._faults = Faults(SELECTOR_FAULTS, self.fault_select) if faults else NO_FAULTS

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, faults = self.config, self._faults
        advance = Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]
        pipeline = Pipeline(m, advance, _CUTS_BY_DEPTH[config.pipeline], self.i.valid)
        valid = pipeline.valid
        assert valid is not None
        last = pipeline.delayed(self.i.payload.last)
        static_fp8 = pipeline.delayed(self.i.payload.static_fp8)

        limit = TENSOR_EXPONENT_LIMIT
        low, high = self.tensor_exponent < -limit, self.tensor_exponent > limit
        exponent = Mux(low, -limit, Mux(high, limit, self.tensor_exponent))
        exponent = faults.pick("tensor exponent negated", exponent, -exponent)

        width = config.format.bits
        inputs = [self.i.payload.x.word_select(i, width) for i in range(BLOCK_SIZE)]
        fixed = [to_fixed(m, f"x{i}", config.format, x, exponent, faults) for i, x in enumerate(inputs)]
        values, nans = [value for value, _ in fixed], [nan for _, nan in fixed]
        signs = [x[-1] for x in inputs]
        channel = self.i.payload.channel_codes if config.channel_codes else C(0, 0)
        channel, signs, nans, values = pipeline.cut("fixed", channel, signs, nans, values)

        quarters = _maximum(m, [Cat(v.sticky, v.magnitude) for v in values], 4)
        channel, quarters, signs, nans, values = pipeline.cut("quarters", channel, quarters, signs, nans, values)

        (amax,) = _maximum(m, quarters, 1)
        channel, amax, signs, nans, values = pipeline.cut("amax", channel, amax, signs, nans, values)

        scale = block_scale(m, Fixed(amax[1:], amax[0]), faults)
        codes8 = [encode_e4m3(m, f"e4m3_{i}", v, faults) for i, v in enumerate(values)]
        cut = pipeline.cut("scale", channel, scale, signs, nans, codes8, values)
        channel, scale, signs, nans, codes8, values = cut

        boundaries = e2m1_boundaries(m, *_scale_parts(m, "scale", scale))
        codes4 = [wire(m, f"e2m1_{i}", _encode_e2m1(v, boundaries, faults)) for i, v in enumerate(values)]
        cut = pipeline.cut("codes", channel, scale, signs, nans, codes8, codes4)
        channel, scale, signs, nans, codes8, codes4 = cut

        parts = _scale_parts(m, "error_scale", scale)
        errors = [_error(m, i, codes4[i], codes8[i], *parts) for i in range(BLOCK_SIZE)]
        packed8 = [
            Mux(nan, E4M3.nan_codes.start, Cat(code, sign & faults.pick("negative zero emitted", code.any(), 1)))
            for code, sign, nan in zip(codes8, signs, nans, strict=True)
        ]
        packed4 = [Cat(code, sign & code.any()) for code, sign in zip(codes4, signs, strict=True)]
        result = [scale, Cat(nans).any(), Cat(packed8), Cat(packed4)]
        channel, *result, errors = pipeline.cut("quantized", channel, *result, errors)

        leading = [_three_bits(m, f"leading_{i}", e, faults) for i, e in enumerate(errors)]
        channel, *result, leading = pipeline.cut("squares", channel, *result, leading)

        squares = [
            wire(m, f"square_{i}", ((kept * kept) << Cat(C(0, 1), low))[: 2 * _ERROR_BITS])
            for i, (kept, low) in enumerate(leading)
        ]
        if config.channel_codes:
            squares = [q << channel.word_select(i, 4) for i, q in enumerate(squares)]
        total = tree_sum(squares)[: config.score_bits]
        scale, block_nan, packed8, packed4, score = pipeline.cut("score", *result, total)
        dynamic = self._above_threshold(m, score)
        # The modes are dynamic, static, all FP4, all FP8: bit 1 says "the same for all blocks".
        chosen = Mux(self.mode[1], self.mode[0], Mux(self.mode[0], static_fp8, dynamic))
        fp8 = chosen | faults.pick("NaN block left in FP4", block_nan, 0)
        with m.If(advance):
            m.d.sync += self.o.valid.eq(valid)
        with m.If(advance & valid):
            m.d.sync += [
                self.o.payload.codes.eq(Mux(fp8, packed8, packed4)),
                self.o.payload.scale.eq(Mux(fp8, 0, scale)),
                self.o.payload.fp8.eq(fp8),
                self.o.payload.nan.eq(block_nan),
                self.o.payload.last.eq(last),
                self.o.payload.score.eq(score),
            ]
        taken = valid & advance
        for flag, event in ((self.nan, taken & block_nan), (self.format_error, taken & (low | high))):
            m.d.sync += flag.eq(event | (flag & ~self.clear_flags))
        return m

    def _above_threshold(self, m: Module, score: Signal) -> Value:
        """score > threshold; a threshold beyond the score's width is never exceeded."""
        threshold = wire(m, "threshold_units", self.threshold.significand << self.threshold.exponent)
        kept, beyond = threshold[: len(score)], threshold[len(score) :]
        above = self._faults.pick("score equal to threshold is FP8", score > kept, score >= kept)
        return ~beyond.any() & above


def _maximum(m: Module, values: Sequence[Value], count: int) -> Sequence[Value]:
    """The maxima of as many groups of `values`."""
    while len(values) > count:
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [wire(m, f"max_{len(values)}_{i}", Mux(x > y, x, y)) for i, (x, y) in enumerate(pairs)]
    return values


def _encode_e2m1(value: Fixed, boundaries: list[Value], faults: Faults) -> Value:
    """The E2M1 magnitude code (3 bits): how many boundaries lie below, where a tie goes to the even code."""
    count: Value | int = 0
    for code, boundary in enumerate(boundaries):
        if code % 2:
            count = count + value.at_least(boundary)
        else:
            count = count + faults.pick("E2M1 tie rounds up", value.above(boundary), value.at_least(boundary))
    return Value.cast(count)[: E2M1.bits - 1]


def _scale_parts(m: Module, name: str, scale: Value) -> tuple[Value, Value]:
    """A block scale's significand and shift (unit 2**-9)."""
    decoded = decode_e4m3(Cat(scale, C(0, 1)))
    return wire(m, f"{name}_significand", decoded.significand), wire(m, f"{name}_shift", decoded.shift)


def _error(m: Module, index: int, code4: Value, code8: Value, significand: Value, shift: Value) -> Value:
    """|Q4 - Q8| in units of 2**-10 (17 bits)."""
    q4 = wire(m, f"q4_{index}", (decode_e2m1(Cat(code4, C(0, 1))).significand * significand) << shift)
    wide = decode_e4m3(Cat(code8, C(0, 1)))
    q8 = wire(m, f"q8_{index}", (wide.significand << wide.shift) << (STORED_FRACTION_BITS - 9))
    return Mux(q4 > q8, q4 - q8, q8 - q4)[:_ERROR_BITS]


def _three_bits(m: Module, name: str, error: Value, faults: Faults) -> _Leading:
    kept = Signal(_KEPT_BITS, name=f"{name}_kept")
    low = Signal(range(_ERROR_BITS - _KEPT_BITS + 1), name=f"{name}_low")
    m.d.comb += kept.eq(error[:_KEPT_BITS])
    for position in range(1, _ERROR_BITS - _KEPT_BITS + 1):
        with m.If(error[position + _KEPT_BITS - 1 :].any()):
            m.d.comb += [kept.eq(error[position : position + _KEPT_BITS]), low.eq(position)]
    return _Leading(faults.pick("error cut to two bits", kept, kept & ~1), low)
