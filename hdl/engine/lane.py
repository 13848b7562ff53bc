"""A lane of the engine: holds a weight block while activation blocks stream past, adds each term to its row's sum."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..dot import DotProduct
from ..hierarchy import add_part
from ..operands import DecodedActivations, decode_weights, stored_block
from ..unit_config import EngineLaneConfig

__all__ = ["EngineLane"]


class EngineLane(wiring.Component):
    """One output channel: holds a weight block while activations stream past, `pipeline` + 1 cycles from `a` to `sum`.

    The block is held decoded. The upper half of an FP4 block is not registered, so that it does not toggle.

    Attributes:
        load: take `w` as the next weight block.
        swap: hold the next weight block from now on.
        w: a block of weights (`stored_block`).
        a: decoded activations.
        term_valid: a term comes out of the dot product.
        term_first: it begins a row, so that the accumulator does not count.
        accumulator: the row's sum so far, with its poison bit above; it must be there together with the term.
        sum: the row's sum with the term added, in the same form.
        nan, format_error, overflow: events of this cycle.
    """

    def __init__(self, config: EngineLaneConfig):
        self._config = config
        bits = config.accumulator_bits
        self._block = block = stored_block(config.formats)
        super().__init__(
            {
                "load": In(1),
                "swap": In(1),
                "w": In(block),
                "a": In(DecodedActivations(config.formats)),
                "term_valid": In(1),
                "term_first": In(1),
                "accumulator": In(bits + 1),
                "sum": Out(bits + 1),
                "nan": Out(1),
                "format_error": Out(1),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self._config.accumulator_bits
        formats = self._config.formats
        following = Signal(self._block, reset_less=True)
        with m.If(self.load):
            if formats == "fp8":
                m.d.sync += following.eq(self.w)
            else:
                half = len(following.codes) // 2
                m.d.sync += [
                    following.codes[:half].eq(self.w.codes[:half]),
                    following.scale.eq(self.w.scale),
                    following.fp8.eq(self.w.fp8),
                ]
                with m.If(self.w.fp8):
                    m.d.sync += following.codes[half:].eq(self.w.codes[half:])
        dot = DotProduct(self._config.pipeline, formats, self._config.sharing)
        add_part(m, platform, "dot_product", dot)
        decoded = decode_weights(m, following, formats)
        for name in dot.w.signature.members:
            held = Signal(len(decoded[name]), name=f"held_{name}", reset_less=True)
            with m.If(self.swap):
                m.d.sync += held.eq(decoded[name])
            m.d.comb += getattr(dot.w, name).eq(held)
        w_still = Signal()
        m.d.sync += w_still.eq(~self.swap)
        wiring.connect(m, wiring.flipped(self.a), dot.a)
        m.d.comb += [dot.advance.eq(1), dot.w_still.eq(w_still)]

        accumulator = self.accumulator[:bits].as_signed()
        total = Signal(signed(bits + 1))
        m.d.comb += total.eq(Mux(self.term_first, 0, accumulator) + dot.term)
        overflow = Signal()
        m.d.comb += overflow.eq(total[bits] != total[bits - 1])
        poison = dot.errors | overflow | (self.accumulator[bits] & ~self.term_first)
        m.d.sync += [
            self.nan.eq(self.term_valid & dot.nan),
            self.format_error.eq(self.term_valid & dot.illegal),
            self.overflow.eq(self.term_valid & overflow),
        ]
        with m.If(self.term_valid):
            m.d.sync += [self.sum[:bits].eq(total[:bits]), self.sum[bits].eq(poison)]
        return m
