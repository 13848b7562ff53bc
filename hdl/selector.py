"""The activation selector: quantizes a block both ways, scores the difference, decides, and packs the result."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from types import SimpleNamespace
from typing import Any, NamedTuple

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..formats import (
    BLOCK_SIZE,
    E4M3,
    SELECTOR_MODES,
    STORED_FRACTION_BITS,
    TENSOR_EXPONENT_LIMIT,
    THRESHOLD_EXPONENT_BITS,
    THRESHOLD_SIGNIFICAND_BITS,
)
from .config import SelectorConfig
from .decoder import decode_e4m3
from .faults import NO_FAULTS, SELECTOR_FAULTS, Faults
from .fixed import (
    Fixed,
    block_scale,
    count_passed,
    e2m1_boundaries,
    e2m1_values,
    encode_e4m3,
    larger_block_scale,
    scale_multiples,
    to_fixed,
)
from .hierarchy import add_part
from .operands import STORED_BLOCK
from .pipeline import Pipeline, sticky, wire
from .rows import Rows

__all__ = ["THRESHOLD", "Selector", "SelectorCore", "selector_input", "selector_output", "selector_settings"]

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
_LARGER = "larger_"
"""Begins the names of what belongs to the other scale of "four over six"."""

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


def selector_settings(*, four_over_six: bool) -> wiring.Signature:
    """A site's registers; they must not change while blocks are inside."""
    members = {"tensor_exponent": signed(8), "threshold": THRESHOLD, "mode": range(len(SELECTOR_MODES))}
    if four_over_six:
        members["four_over_six"] = 1
    return wiring.Signature({name: Out(shape) for name, shape in members.items()})


class SelectorCore(wiring.Component):
    """Quantizes blocks of 16 values as docs/numerics.md section 4 has it, `pipeline` + 1 cycles from `x` to `block`.

    Everything moves while `advance` is high. Values that the engine does not look at exist only where `monitored`.

    Attributes:
        advance: move all stages.
        valid: a block stands at the inputs.
        x: its values, in the input format.
        static_fp8: its precision in mode "static".
        channel_codes: the power of two that each channel counts, where the selector is built with them.
        settings: the site's registers (`selector_settings`); a tensor exponent beyond the legal ones counts as the
            nearest legal one.
        running: there is a block at the inputs, inside, or at the outputs. Otherwise no register changes, so that the
            clock can rest.
        valid_out: a block stands at the outputs.
        block: the quantized block.
        nan_taken: a block that holds a NaN is on its way into the output register.
        taken: any block is (monitored).
        nan: the block at the outputs holds a NaN (monitored).
        score: the score of that block (monitored).
    """

    def __init__(self, config: SelectorConfig, *, monitored: bool = False, faults: Faults = NO_FAULTS):
        self._config = config
        self._which = ("", _LARGER) if config.four_over_six else ("",)
        self._monitored = monitored
        self._faults = faults
        members = {
            "advance": In(1),
            "valid": In(1),
            "x": In(config.format.bits * BLOCK_SIZE),
            "static_fp8": In(1),
            **({"channel_codes": In(4 * BLOCK_SIZE)} if config.channel_codes else {}),
            "settings": In(selector_settings(four_over_six=config.four_over_six)),
            "running": Out(1),
            "valid_out": Out(1),
            "block": Out(STORED_BLOCK),
            "nan_taken": Out(1),
        }
        if monitored:
            members |= {"taken": Out(1), "nan": Out(1), "score": Out(config.score_bits)}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, faults = self._config, self._faults
        pipeline = Pipeline(m, self.advance, _CUTS_BY_DEPTH[config.pipeline], self.valid)
        static_fp8 = pipeline.delayed("static_fp8", self.static_fp8)

        inputs = [self.x.word_select(i, config.format.bits) for i in range(BLOCK_SIZE)]
        fixed = [to_fixed(m, f"x{i}", config.format, x, self._exponent(), faults) for i, x in enumerate(inputs)]
        s = pipeline.step(
            "fixed",
            channel=self.channel_codes if config.channel_codes else C(0, 0),
            signs=[x[-1] for x in inputs],
            nans=[nan for _, nan in fixed],
            values=[value for value, _ in fixed],
        )
        s = pipeline.step("quarters", s, quarters=_maximum(m, [Cat(v.sticky, v.magnitude) for v in s.values], 4))
        s = pipeline.step("amax", s, amax=_maximum(m, s.quarters, 1)[0])
        # What depends on a block scale is there for each scale that the block may have, named after it.
        s = pipeline.step(
            "scale",
            s,
            codes8=[encode_e4m3(m, f"e4m3_{i}", v, faults) for i, v in enumerate(s.values)],
            **self._scales(m, Fixed(s.amax[1:], s.amax[0])),
        )
        multiples = {which: scale_multiples(m, which, getattr(s, f"{which}scale")) for which in self._which}
        s = pipeline.step(
            "codes",
            s,
            **self._each("codes4", lambda which: self._codes4(m, which, s.values, multiples[which])),
            **self._each("once", lambda which: multiples[which][1]),
            **self._each("thrice", lambda which: multiples[which][3]),
        )
        q8 = [wire(m, f"q8_{i}", _decoded8(code)) for i, code in enumerate(s.codes8)]
        s = pipeline.step(
            "quantized",
            s,
            packed8=self._packed8(s.codes8, s.signs, s.nans),
            block_nan=Cat(s.nans).any(),
            **self._each("errors", lambda which: _errors(m, which, s, q8)),
            **self._each("packed4", lambda which: _packed4(getattr(s, f"{which}codes4"), s.signs)),
        )
        s = pipeline.step("squares", s, **self._each("leading", lambda which: self._leading(m, which, s)))
        s = pipeline.step("score", s, **self._each("score", lambda which: self._score(m, which, s)))
        self._choose(m, s, static_fp8, pipeline.valid)
        m.d.comb += self.running.eq(self.valid | pipeline.busy | self.valid_out)
        return m

    def _exponent(self) -> Value:
        """The tensor exponent, clamped to the legal ones."""
        exponent, limit = self.settings.tensor_exponent, TENSOR_EXPONENT_LIMIT
        clamped = Mux(exponent < -limit, -limit, Mux(exponent > limit, limit, exponent))
        return self._faults.pick("tensor exponent negated", clamped, -clamped)

    def _each(self, name: str, value: Callable[[str], Any]) -> dict[str, Any]:
        """Fields of a step called `name`, for each scale that a block may have."""
        return {f"{which}{name}": value(which) for which in self._which}

    def _scales(self, m: Module, amax: Fixed) -> dict[str, Value]:
        """The scales that a block may have."""
        makers = {"": block_scale, _LARGER: larger_block_scale}
        return self._each("scale", lambda which: makers[which](m, amax, self._faults))

    def _codes4(self, m: Module, which: str, values: list[Fixed], multiples: Mapping[int, Value]) -> list[Value]:
        """The E2M1 magnitude codes under a scale."""
        boundaries = e2m1_boundaries(multiples)
        return [_encode_e2m1(m, f"{which}e2m1_{i}", v, boundaries, self._faults) for i, v in enumerate(values)]

    def _leading(self, m: Module, which: str, s: SimpleNamespace) -> list[_Leading]:
        errors = getattr(s, f"{which}errors")
        return [_three_bits(m, f"{which}leading_{i}", error, self._faults) for i, error in enumerate(errors)]

    def _packed8(self, codes: list[Value], signs: list[Value], nans: list[Value]) -> Value:
        """The elements of an FP8 block. Zeros are +0."""
        elements = []
        for code, sign, nan in zip(codes, signs, nans, strict=True):
            negative = sign & self._faults.pick("negative zero emitted", code.any(), 1)
            elements.append(Mux(nan, E4M3.nan_code, Cat(code, negative)))
        return Cat(elements)

    def _score(self, m: Module, which: str, s: SimpleNamespace) -> Value:
        """The sum of the errors' squares, each of three significant bits."""
        rows = Rows(m, f"{which}sum", self._config.score_bits)
        for i, (kept, low) in enumerate(getattr(s, f"{which}leading")):
            square = wire(m, f"{which}square_{i}", ((kept * kept) << Cat(C(0, 1), low))[: 2 * _ERROR_BITS])
            if self._config.channel_codes:
                square = wire(m, f"{which}weighted_{i}", square << s.channel.word_select(i, 4))
            rows.add(square)
        return rows.join(*rows.two())

    def _choose(self, m: Module, s: SimpleNamespace, static_fp8: Value, valid: Value | None) -> None:
        """The decision, and the output register."""
        mode = self.settings.mode
        best = self._best(m, s)
        # The modes are dynamic, static, all FP4, all FP8: bit 1 says "the same for all blocks".
        chosen = Mux(mode[1], mode[0], Mux(mode[0], static_fp8, best.above))
        fp8 = wire(m, "fp8", chosen | self._faults.pick("NaN block left in FP4", s.block_nan, 0))
        assert valid is not None
        taken = wire(m, "moving", valid & self.advance)
        m.d.comb += self.nan_taken.eq(taken & s.block_nan)
        with m.If(self.advance):
            m.d.sync += self.valid_out.eq(valid)
        with m.If(taken):
            m.d.sync += [
                self.block.codes.eq(Mux(fp8, s.packed8, best.packed4)),
                self.block.scale.eq(Mux(fp8, 0, best.scale)),
                self.block.fp8.eq(fp8),
            ]
        if self._monitored:
            m.d.comb += self.taken.eq(taken)
            with m.If(taken):
                m.d.sync += [self.nan.eq(s.block_nan), self.score.eq(best.score)]

    def _best(self, m: Module, s: SimpleNamespace) -> SimpleNamespace:
        """All that belongs to the scale of the lower score; of equal ones to the smaller scale."""
        register = self.settings.threshold
        threshold = wire(m, "threshold_units", register.significand << register.exponent)
        names = ("scale", "packed4", "score")
        found = [{name: getattr(s, f"{which}{name}") for name in names} for which in self._which]
        for fields in found:
            fields["above"] = self._above(fields["score"], threshold)  # beside the choice, not behind it
        if len(found) == 1:
            return SimpleNamespace(**found[0])
        first, second = found
        lower = self._faults.pick(
            "equal score takes the larger scale", second["score"] < first["score"], second["score"] <= first["score"]
        )
        larger = wire(m, "takes_larger", self.settings.four_over_six & lower)
        return SimpleNamespace(**{name: Mux(larger, second[name], first[name]) for name in first})

    def _above(self, score: Value, threshold: Value) -> Value:
        """score > threshold; a threshold beyond the score's width is never exceeded."""
        kept, beyond = threshold[: len(score)], threshold[len(score) :]
        above = self._faults.pick("score equal to threshold is FP8", score > kept, score >= kept)
        return ~beyond.any() & above


class Selector(wiring.Component):
    """The activation selector as a unit of its own: a stream of blocks in, quantized blocks out.

    Attributes:
        i: blocks of 16 values; `last` is passed through.
        o: quantized blocks; `score` shows what was compared with the threshold.
        tensor_exponent, threshold, mode: the site's registers; they must not change while blocks are inside.
        four_over_six: also a site register, where built in.
        clear_flags: clears the flags; an event in the same cycle wins.
        nan: sticky: a block held a NaN.
        format_error: sticky: the tensor exponent was out of range.
        fault_select: plants a fault, for benches that prove what they see.
    """

    def __init__(self, config: SelectorConfig, faults: bool = False):
        self.config = config
        settings = selector_settings(four_over_six=config.four_over_six).members
        members = {
            "i": In(stream.Signature(selector_input(config))),
            "o": Out(stream.Signature(selector_output(config))),
            **{name: In(member.shape) for name, member in settings.items()},
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
        core = SelectorCore(self.config, monitored=True, faults=self._faults)
        add_part(m, platform, "core", core, clock_enable=core.running)
        advance = wire(m, "advance", ~self.o.valid | self.o.ready)
        i, o = self.i.payload, self.o.payload
        m.d.comb += [
            self.i.ready.eq(advance),
            core.advance.eq(advance),
            core.valid.eq(self.i.valid),
            core.x.eq(i.x),
            core.static_fp8.eq(i.static_fp8),
            *(getattr(core.settings, name).eq(getattr(self, name)) for name in core.settings.signature.members),
            self.o.valid.eq(core.valid_out),
            o.codes.eq(core.block.codes),
            o.scale.eq(core.block.scale),
            o.fp8.eq(core.block.fp8),
            o.nan.eq(core.nan),
            o.score.eq(core.score),
        ]
        if self.config.channel_codes:
            m.d.comb += core.channel_codes.eq(i.channel_codes)
        last = Pipeline(m, advance, range(self.config.pipeline)).delayed("last", i.last)
        with m.If(core.taken):
            m.d.sync += o.last.eq(last)
        limit = TENSOR_EXPONENT_LIMIT
        illegal = (self.tensor_exponent < -limit) | (self.tensor_exponent > limit)
        for flag, event in ((self.nan, core.nan_taken), (self.format_error, core.taken & illegal)):
            sticky(m, flag, event, self.clear_flags)
        return m


def _maximum(m: Module, values: Sequence[Value], count: int) -> Sequence[Value]:
    """The maxima of as many groups of `values`."""
    while len(values) > count:
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [wire(m, f"max_{len(values)}_{i}", Mux(x > y, x, y)) for i, (x, y) in enumerate(pairs)]
    return values


def _encode_e2m1(m: Module, name: str, value: Fixed, boundaries: list[Value], faults: Faults) -> Value:
    """The E2M1 magnitude code (3 bits): how many boundaries lie below, where a tie goes to the even code."""
    flags = [
        value.at_least(boundary)
        if code % 2
        else faults.pick("E2M1 tie rounds up", value.above(boundary), value.at_least(boundary))
        for code, boundary in enumerate(boundaries)
    ]
    return count_passed(m, name, flags)


def _decoded8(code: Value) -> Value:
    """The magnitude of an E4M3 magnitude code, in units of 2**-10."""
    wide = decode_e4m3(Cat(code, C(0, 1)))
    return (wide.significand << wide.shift) << (STORED_FRACTION_BITS - 9)


def _packed4(codes: list[Value], signs: list[Value]) -> Value:
    """The elements of an FP4 block. Zeros are +0."""
    return Cat(Cat(code, sign & code.any()) for code, sign in zip(codes, signs, strict=True))


def _errors(m: Module, which: str, s: SimpleNamespace, q8: list[Value]) -> list[Value]:
    """|Q4 - Q8| of all elements under a scale, in units of 2**-10 (17 bits)."""
    values = e2m1_values({1: getattr(s, f"{which}once"), 3: getattr(s, f"{which}thrice")})
    errors = []
    for index, (code4, wide) in enumerate(zip(getattr(s, f"{which}codes4"), q8, strict=True)):
        chosen = [value & (code4 == code).replicate(len(value)) for code, value in enumerate(values, 1)]
        q4 = wire(m, f"{which}q4_{index}", reduce(or_, chosen))
        errors.append(Mux(q4 > wide, q4 - wide, wide - q4)[:_ERROR_BITS])
    return errors


def _three_bits(m: Module, name: str, error: Value, faults: Faults) -> _Leading:
    kept = Signal(_KEPT_BITS, name=f"{name}_kept")
    low = Signal(range(_ERROR_BITS - _KEPT_BITS + 1), name=f"{name}_low")
    m.d.comb += kept.eq(error[:_KEPT_BITS])
    for position in range(1, _ERROR_BITS - _KEPT_BITS + 1):
        with m.If(error[position + _KEPT_BITS - 1 :].any()):
            m.d.comb += [kept.eq(error[position : position + _KEPT_BITS]), low.eq(position)]
    return _Leading(faults.pick("error cut to two bits", kept, kept & ~1), low)
