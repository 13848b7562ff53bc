"""The dot product of one block pair, exact, in units of 2**-20: what a lane does before it accumulates.

All four precision pairings share one set of sixteen 4x4-bit multipliers. Where an operand is FP4, its elements' shifts
are zero and its block scale multiplies the sum of the sixteen products instead.
"""

from amaranth.hdl import Cat, Module, Mux, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..golden.formats import BLOCK_SIZE, E2M1, E4M3, MAX_BLOCK_SCALE_CODE, MAX_STORED, MIN_BLOCK_SCALE_CODE
from .decoder import decode_e2m1, decode_e4m3
from .faults import NO_FAULTS, Faults
from .pipeline import Pipeline

__all__ = ["STORED_BLOCK", "TERM_BITS", "DotProduct", "tree_sum"]

STORED_BLOCK = data.StructLayout({"codes": 8 * BLOCK_SIZE, "scale": 8, "fp8": 1})
"""A block in a fixed slot: FP8 uses 16 bytes, FP4 the low 8 (even element in the low nibble)."""

TERM_BITS = 1 + (BLOCK_SIZE * MAX_STORED**2 << 20).bit_length()

_CUTS = ("product", "sum", "scale", "align")
_CUTS_BY_DEPTH: dict[int, tuple[str, ...]] = {0: (), 1: ("sum",), 2: ("product", "sum"), 3: _CUTS[:3], 4: _CUTS}
# Mixed pairs: products of 4x4 bits shifted by up to 14, sixteen of them, and a sign.
_SCALED_SUM_BITS = 8 + 14 + 4 + 1


class DotProduct(wiring.Component):
    """`term` = dot product of `a` and `w`, `depth` cycles later, moving only while `advance` is high.

    A NaN element counts 0 and raises `nan`; an illegal block scale makes the term 0 and raises `format_error`.
    """

    def __init__(self, depth: int, faults: Faults = NO_FAULTS):
        self._cuts = _CUTS_BY_DEPTH[depth]
        self._faults = faults
        super().__init__(
            {
                "a": In(STORED_BLOCK),
                "w": In(STORED_BLOCK),
                "advance": In(1),
                "term": Out(signed(TERM_BITS)),
                "nan": Out(1),
                "format_error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        faults = self._faults
        pipeline = Pipeline(m, self.advance, self._cuts)
        w_fp8 = faults.pick("mask bit inverted", self.w.fp8, ~self.w.fp8)
        a, nan_a = _elements(self.a.codes, self.a.fp8, faults)
        w, nan_w = _elements(self.w.codes, w_fp8, faults)
        scale_a, shift_a, illegal_a = _block_scale(self.a.scale, self.a.fp8, faults)
        scale_w, shift_w, illegal_w = _block_scale(self.w.scale, w_fp8, faults)
        illegal = illegal_a | illegal_w
        scale_w = faults.pick("weight block scale missing", scale_w, 8)

        products = [x[1] * y[1] for x, y in zip(a, w, strict=True)]
        shifts = [x[2] + y[2] for x, y in zip(a, w, strict=True)]
        signs = [faults.pick("product sign dropped", x[0] ^ y[0], x[0]) for x, y in zip(a, w, strict=True)]
        side = (
            self.a.fp8 & w_fp8,
            Mux(illegal, 0, (scale_a * scale_w)[:8]),
            (shift_a + shift_w)[:5],
            nan_a | nan_w,
            illegal,
        )
        cut = pipeline.cut("product", *products, *shifts, *signs, *side)
        products, shifts, signs = cut[:16], cut[16:32], cut[32:48]
        aligned = [(p << s)[:36] for p, s in zip(products, shifts, strict=True)]
        total = tree_sum([Mux(n, -x, x) for x, n in zip(aligned, signs, strict=True)])
        total, both_fp8, scale, shift, nan, illegal = pipeline.cut("sum", total, *cut[48:])
        scaled = total[:_SCALED_SUM_BITS].as_signed() * scale
        scaled = Mux(both_fp8, total, scaled)
        scaled, shift, nan, illegal = pipeline.cut("scale", scaled, shift, nan, illegal)
        term, nan, illegal = pipeline.cut("align", (scaled << shift)[:TERM_BITS], nan, illegal)
        m.d.comb += [self.term.eq(term.as_signed()), self.nan.eq(nan), self.format_error.eq(illegal)]
        return m


def _elements(codes: Value, fp8: Value, faults: Faults) -> tuple[list[tuple[Value, Value, Value]], Value]:
    """(sign, significand, shift) of the 16 elements, and whether one of them is NaN."""
    elements = []
    nans = []
    for i in range(BLOCK_SIZE):
        wide = decode_e4m3(codes.word_select(i, E4M3.bits), faults)
        narrow = decode_e2m1(codes.word_select(i, E2M1.bits))
        elements.append(
            (
                Mux(fp8, wide.sign, narrow.sign),
                Mux(fp8, wide.significand, narrow.significand),
                Mux(fp8, wide.shift, 0)[: E4M3.exponent_bits],
            )
        )
        nans.append(wide.nan)
    return elements, Cat(nans).any() & fp8


def _block_scale(scale: Value, fp8: Value, faults: Faults) -> tuple[Value, Value, Value]:
    """Significand and shift that lead from the elements' unit to 2**-10, and whether the scale is illegal.

    An E4M3 element is in units of 2**-9, hence the shift of one without a scale.
    """
    decoded = decode_e4m3(scale)
    limit = faults.pick("block scale limit off by one", MAX_BLOCK_SCALE_CODE, MAX_BLOCK_SCALE_CODE + 1)
    illegal = ~fp8 & ((scale < MIN_BLOCK_SCALE_CODE) | (scale > limit))
    return Mux(fp8, 1, decoded.significand)[:4], Mux(fp8, 1, decoded.shift)[:4], illegal


def tree_sum(values: list[Value]) -> Value:
    """Sum of a power of two of values, as a balanced tree."""
    while len(values) > 1:
        values = [x + y for x, y in zip(values[::2], values[1::2], strict=True)]
    return values[0]
