"""The dot product of one block pair, exact, in units of 2**-20: what a lane does before it accumulates.

Pairs with an FP8 block share sixteen 4x4-bit multipliers. FP4 pairs have small ones and an adder tree of their own,
unless sharing is "merged". Operands are isolated: what a precision mode does not need keeps its registers (without
registers, it is held at zero). A product's sign reaches no further than the twelve bits of the digits it is placed in.
So little toggles in vain (docs/decisions/0007-silicon.md, 0008-energy.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..formats import BLOCK_SIZE, E2M1, E4M3, MAX_BLOCK_SCALE_CODE, MAX_STORED, MIN_BLOCK_SCALE_CODE
from .config import DotConfig
from .decoder import decode_e2m1, decode_e4m3
from .faults import NO_FAULTS, Faults
from .hierarchy import add_part
from .pipeline import Pipeline, wire
from .rows import Rows, ones

__all__ = ["STORED_BLOCK", "TERM_BITS", "Dot", "DotProduct", "stored_block", "tree_sum"]

STORED_BLOCK = data.StructLayout({"codes": 8 * BLOCK_SIZE, "scale": 8, "fp8": 1})
"""A block in a fixed slot: FP8 uses 16 bytes, FP4 the low 8 (even element in the low nibble)."""

FP8_BLOCK = data.StructLayout({"codes": 8 * BLOCK_SIZE})
"""What is left of it where every block is FP8."""

TERM_BITS = 1 + (BLOCK_SIZE * MAX_STORED**2 << 20).bit_length()

_CUTS_BY_DEPTH: dict[int, tuple[str, ...]] = {
    0: (),
    1: ("sum",),
    2: ("product", "sum"),
    3: ("product", "sum", "scale"),
    4: ("product", "rows", "sum", "scale"),
    5: ("product", "rows", "sum", "scale", "align"),
}
_FP8_CUTS_BY_DEPTH = {**_CUTS_BY_DEPTH, 3: ("product", "rows", "sum"), 4: ("product", "rows", "sum", "align")}
"""Without block scales there is nothing to do between the sum and the accumulator."""

_DIGIT = 4
_PLACES = 8
_PLACED_BITS = 3 * _DIGIT
"""A product of 8 bits shifted by 0..3 fills three digits of 4 bits; it is then placed at one of 8 digits."""

_OFFSET = 2
"""Exponents count from 1, so that a pair's shift begins at 2: the tree's unit is a quarter of the products'."""

# Widths of the signed sums of sixteen products, in units of the products: FP8 pairs, mixed pairs, FP4 pairs.
_SUM_BITS = 8 + 28 + 4 + 1
_MIXED_BITS = 8 + 14 + 4 + 1
_NARROW_BITS = 8 + 4 + 1


_FP8_SHIFT = 2
"""From products of E4M3 elements, whose unit is 2**-18, to terms."""


def stored_block(formats: str) -> data.StructLayout:
    """The layout of a block for formats "mixed" or "fp8"."""
    return STORED_BLOCK if formats == "mixed" else FP8_BLOCK


@dataclass(frozen=True)
class _Operand:
    """Sixteen elements of one operand: significand, and shift counted from 1; the block's NaN and scale."""

    signs: list[Value]
    significands: list[Value]
    shifts: list[Value]
    nan: Value


class DotProduct(wiring.Component):
    """The exact dot product of one pair of blocks, `depth` cycles later.

    With formats "fp8" blocks are sixteen E4M3 codes and nothing else, and nothing of FP4 is built.

    Attributes:
        a, w: blocks of activations and weights (`stored_block`).
        advance: move all stages.
        term: the dot product, in units of 2**-20.
        nan: an element was NaN; it counts 0.
        format_error: a block scale was illegal; the term is 0 (mixed formats).
    """

    def __init__(self, depth: int, formats: str = "mixed", sharing: str = "split", faults: Faults = NO_FAULTS):
        self._mixed = formats == "mixed"
        self._split = sharing == "split"
        self._cuts = (_CUTS_BY_DEPTH if self._mixed else _FP8_CUTS_BY_DEPTH)[depth]
        self._faults = faults
        block = stored_block(formats)
        members = {
            "a": In(block),
            "w": In(block),
            "advance": In(1),
            "term": Out(signed(TERM_BITS)),
            "nan": Out(1),
        }
        super().__init__(members | ({"format_error": Out(1)} if self._mixed else {}))

    @property
    def illegal(self) -> Value:
        """`format_error`, or 0 where there are no block scales."""
        return self.format_error if self._mixed else Const(0)

    @property
    def errors(self) -> Value:
        """A NaN or an illegal block scale: what poisons a row."""
        return self.nan | self.illegal

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self._mixed:
            self._mixed_pairs(m)
        else:
            self._fp8_pairs(m)
        return m

    def _products(self, m: Module, a: _Operand, w: _Operand) -> dict[str, list[Value]]:
        pairs = zip(a.signs, w.signs, strict=True)
        return {
            "products": [wire(m, "product", x * y) for x, y in zip(a.significands, w.significands, strict=True)],
            "shifts": [wire(m, "shift", x + y) for x, y in zip(a.shifts, w.shifts, strict=True)],
            "signs": [self._faults.pick("product sign dropped", x ^ y, x) for x, y in pairs],
        }

    def _fp8_pairs(self, m: Module) -> None:
        pipeline = Pipeline(m, self.advance, self._cuts)
        a, w = (_elements(m, name, port.codes, None, self._faults) for name, port in (("a", self.a), ("w", self.w)))
        s = pipeline.step("product", **self._products(m, a, w), nan=a.nan | w.nan)
        tree = _wide_tree(m, s.products, s.shifts, s.signs, {})
        first, second = tree.two()
        s = pipeline.step("rows", first=first, second=second, nan=s.nan)
        s = pipeline.step("sum", total=tree.join(s.first, s.second).as_signed(), nan=s.nan)
        s = pipeline.step("align", term=s.total << _FP8_SHIFT, nan=s.nan)
        m.d.comb += [self.term.eq(s.term), self.nan.eq(s.nan)]

    def _mixed_pairs(self, m: Module) -> None:
        """Decode and multiply, add in the tree of the precision mode, scale, and align to the accumulator.

        Registers that a precision mode does not need keep what they hold: their clock can be gated, and nothing behind
        them moves. Where there are no registers, what it does not need is held at zero.
        """
        pipeline = Pipeline(m, self.advance, self._cuts)
        a, w, control = self._operands(m)
        s = (self._split_sums if self._split else self._merged_sums)(m, pipeline, a, w, control)

        plain = wire(m, "plain", ~(s.fp4 | s.mixed))
        narrow = pipeline.step("sum", narrow=s.narrow.as_signed(), narrow_scale=s.scale, enable=s.fp4)
        middle = pipeline.step(
            "sum", middle=s.total[:_MIXED_BITS].as_signed(), middle_scale=s.scale[:4], enable=s.mixed
        )
        wide = pipeline.step("sum", wide=s.total.as_signed(), enable=plain)
        s = pipeline.step("sum", fp4=s.fp4, mixed=s.mixed, shift=s.shift, nan=s.nan, illegal=s.illegal)
        narrow_sum, middle_sum = narrow.narrow, middle.middle
        if "sum" not in self._cuts:
            narrow_sum = wire(m, "narrow_sum", (narrow_sum[:_NARROW_BITS] & s.fp4.replicate(_NARROW_BITS)).as_signed())
            middle_sum = wire(m, "middle_sum", (middle_sum[:_MIXED_BITS] & s.mixed.replicate(_MIXED_BITS)).as_signed())

        scaling = wire(m, "scaling", s.fp4 | s.mixed)
        product = Mux(s.fp4, narrow_sum * narrow.narrow_scale, middle_sum * middle.middle_scale)
        scaled = pipeline.step("scale", product=product, shift=s.shift, enable=scaling)
        wide = pipeline.step("scale", wide, enable=~scaling)
        s = pipeline.step("scale", scaling=scaling, nan=s.nan, illegal=s.illegal)
        term = Mux(s.scaling, scaled.product << scaled.shift, wide.wide << _FP8_SHIFT)
        s = pipeline.step("align", term=term[:TERM_BITS], nan=s.nan, illegal=s.illegal)
        m.d.comb += [self.term.eq(s.term.as_signed()), self.nan.eq(s.nan), self.format_error.eq(s.illegal)]

    def _operands(self, m: Module) -> tuple[_Operand, _Operand, SimpleNamespace]:
        """Both blocks' elements, and what goes beside them: precision mode, product of the block scales, errors."""
        faults = self._faults
        a_fp8, w_fp8 = self.a.fp8, faults.pick("mask bit inverted", self.w.fp8, ~self.w.fp8)
        a, w = _elements(m, "a", self.a.codes, a_fp8, faults), _elements(m, "w", self.w.codes, w_fp8, faults)
        scale_a, shift_a, illegal_a = _block_scale(self.a.scale, a_fp8, faults)
        scale_w, shift_w, illegal_w = _block_scale(self.w.scale, w_fp8, faults)
        illegal = illegal_a | illegal_w
        scale_w = faults.pick("weight block scale missing", scale_w, 8)
        control = SimpleNamespace(
            fp4=~(a_fp8 | w_fp8),
            mixed=a_fp8 ^ w_fp8,
            scale=Mux(illegal, 0, (scale_a * scale_w)[:8]),
            shift=(shift_a + shift_w)[:5],
            nan=a.nan | w.nan,
            illegal=illegal,
        )
        return a, w, control

    def _split_sums(
        self, m: Module, pipeline: Pipeline, a: _Operand, w: _Operand, control: SimpleNamespace
    ) -> SimpleNamespace:
        """Behind the cut "rows": `control`, the sum of FP4 pairs (`narrow`), and that of all others (`total`).

        So few registers hold an FP4 pair that its sixteen products are added, to two rows, in front of them.
        """
        fp4 = control.fp4
        w = replace(w, significands=[wire(m, "wide_w", x & (~fp4).replicate(len(x))) for x in w.significands])
        small = _narrow_tree(m, *_narrow_products(m, self.a.codes, self.w.codes, fp4))
        first, second = small.two()
        rows = pipeline.step("product", narrow_first=first, narrow_second=second, enable=fp4)
        wide = pipeline.step("product", **self._products(m, a, w), open_above=~control.mixed, enable=~fp4)
        s = pipeline.step("product", control)
        wide_on = Const(1) if "product" in self._cuts else ~s.fp4
        products, signs = (
            [wire(m, "wide", value & wide_on.replicate(len(value))) for value in values]
            for values in (wide.products, wide.signs)
        )
        tree = _wide_tree(m, products, wide.shifts, signs, {_MIXED_BITS: wide.open_above})
        narrow = pipeline.step("rows", narrow=small.join(rows.narrow_first, rows.narrow_second), enable=s.fp4)
        first, second = tree.two()
        rows = pipeline.step("rows", first=first, second=second, open_above=wide.open_above, enable=~s.fp4)
        s = pipeline.step("rows", s)
        # A barrier belongs to the sum that passes it, wherever the registers stand.
        s.narrow, s.total = narrow.narrow, tree.join(rows.first, rows.second, [rows.open_above])
        return s

    def _merged_sums(
        self, m: Module, pipeline: Pipeline, a: _Operand, w: _Operand, control: SimpleNamespace
    ) -> SimpleNamespace:
        """The same from one tree, in which the bits above what a precision mode needs stand still."""
        s = pipeline.step("product", control, **self._products(m, a, w))
        barriers = {_NARROW_BITS: ~s.fp4, _MIXED_BITS: ~(s.fp4 | s.mixed)}
        tree = _wide_tree(m, s.products, s.shifts, s.signs, barriers)
        first, second = tree.two()
        kept = {name: value for name, value in vars(s).items() if name in vars(control)}
        s = pipeline.step("rows", **kept, first=first, second=second)
        s.total = tree.join(s.first, s.second, [~s.fp4, ~(s.fp4 | s.mixed)])
        s.narrow = s.total[:_NARROW_BITS]
        return s


class Dot(wiring.Component):
    """The dot product as a unit of its own.

    Attributes:
        a, w, term, nan: as in `DotProduct`.
        format_error: the same, with mixed formats.
    """

    def __init__(self, config: DotConfig):
        self.config = config
        block = stored_block(config.formats)
        flags = {"nan": Out(1)} | ({"format_error": Out(1)} if config.formats == "mixed" else {})
        super().__init__({"a": In(block), "w": In(block), "term": Out(signed(TERM_BITS)), **flags})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        dot = DotProduct(self.config.pipeline, self.config.formats, self.config.sharing)
        add_part(m, platform, "dot_product", dot)
        m.d.comb += [dot.a.eq(self.a), dot.w.eq(self.w), dot.advance.eq(1), self.term.eq(dot.term)]
        m.d.comb += self.nan.eq(dot.nan)
        if self.config.formats == "mixed":
            m.d.comb += self.format_error.eq(dot.format_error)
        return m


def _elements(m: Module, name: str, codes: Value, fp8: Value | None, faults: Faults) -> _Operand:
    """The elements of a block of either format, or of FP8 where there is no choice."""
    signs, significands, shifts, nans = [], [], [], []
    for i in range(BLOCK_SIZE):
        wide = decode_e4m3(codes.word_select(i, E4M3.bits), faults)
        sign, significand, shift = wide.sign, wide.significand, wide.exponent
        if fp8 is not None:
            narrow = decode_e2m1(codes.word_select(i, E2M1.bits))
            sign = Mux(fp8, sign, narrow.sign)
            significand, shift = Mux(fp8, significand, narrow.significand), Mux(fp8, shift, 1)
        signs.append(wire(m, f"{name}_sign", sign))
        significands.append(wire(m, f"{name}_significand", significand))
        shifts.append(wire(m, f"{name}_shift", shift))
        nans.append(wide.nan)
    nan = Cat(nans).any()
    return _Operand(signs, significands, shifts, nan if fp8 is None else nan & fp8)


def _block_scale(scale: Value, fp8: Value, faults: Faults) -> tuple[Value, Value, Value]:
    """Significand and shift that lead from the elements' unit to 2**-10, and whether the scale is illegal.

    An E4M3 element is in units of 2**-9, hence the shift of one without a scale.
    """
    decoded = decode_e4m3(scale)
    limit = faults.pick("block scale limit off by one", MAX_BLOCK_SCALE_CODE, MAX_BLOCK_SCALE_CODE + 1)
    illegal = ~fp8 & ((scale < MIN_BLOCK_SCALE_CODE) | (scale > limit))
    return Mux(fp8, 1, decoded.significand)[:4], Mux(fp8, 1, decoded.shift)[:4], illegal


def _wide_tree(
    m: Module, products: list[Value], shifts: list[Value], signs: list[Value], barriers: Mapping[int, Value]
) -> Rows:
    """Sum of products, each shifted and signed, in units of the products; bits above a barrier that is low stand still.

    A shifted product f is placed as f, or as 4095 - f where it is negative: only its own three digits change. What that
    adds, 4095 for each negative product at its place, is counted by place and taken off again.
    """
    rows = Rows(m, "tree", _SUM_BITS, barriers)
    negative: list[Value] = []
    for product, shift, sign in zip(products, shifts, signs, strict=True):
        fine = wire(m, "fine", (product << shift[:_OFFSET])[:_PLACED_BITS] ^ sign.replicate(_PLACED_BITS))
        at = [wire(m, f"at_{k}", shift[_OFFSET:] == k) for k in range(_PLACES)]
        placed = []
        for digit in range(_PLACES + 2):
            # The lowest two bits of a product are zero at place 0, whose shift is at least 2.
            low = _OFFSET if digit == 0 else 0
            sources = [(fine.word_select(j, _DIGIT)[low:], digit - j) for j in range(3) if 0 <= digit - j < _PLACES]
            placed.append(reduce(or_, [bits & at[k].replicate(_DIGIT - low) for bits, k in sources]))
        rows.add(wire(m, "placed", Cat(placed)), ready=4)
        negative.append(wire(m, "negative", Cat(at) & sign.replicate(_PLACES)))
    counts = [Cat(bits) for bits in zip(*ones(m, "count", negative), strict=True)]
    # 4095 = 2**12 - 1: the counts come off 12 bits higher, and go on where they stand. At place 0 the two dropped bits
    # of each negative product stood for 3; with the count's own 1 that is the count, two bits higher.
    offset = wire(m, "offset", _digits(counts))
    rows.add(counts[0], ready=12)
    rows.add(_digits(counts[1:]), _DIGIT - _OFFSET, ready=12)
    rows.add(~offset, _PLACED_BITS - _OFFSET, ready=12)
    rows.add(Const(-(((1 << len(offset)) - 1) << (_PLACED_BITS - _OFFSET)), _SUM_BITS))
    return rows


def _narrow_products(m: Module, a: Value, w: Value, on: Value) -> tuple[list[Value], list[Value]]:
    """Magnitudes, in quarters, and signs of the products of E2M1 codes; 0 while `on` is low."""
    products, signs = [], []
    for i in range(BLOCK_SIZE):
        x, code = decode_e2m1(a.word_select(i, E2M1.bits)), w.word_select(i, E2M1.bits)
        # The one that stays put selects how the other is multiplied and shifted.
        mantissa, exponent = code[0], code[1:3]
        significand = wire(m, "narrow_w", Cat(mantissa, exponent.any()) & on.replicate(2))
        partial = wire(m, "narrow_partial", (x.significand * significand)[:6])
        product = Mux(exponent == 3, partial << 2, Mux(exponent == 2, partial << 1, partial))
        products.append(wire(m, "narrow_product", product[:8]))
        signs.append((x.sign ^ code[3]) & on)
    return products, signs


def _narrow_tree(m: Module, products: list[Value], signs: list[Value]) -> Rows:
    """The same for FP4 pairs, whose products have no shift."""
    rows = Rows(m, "narrow", _NARROW_BITS)
    signs = [wire(m, "narrow_sign", sign) for sign in signs]
    for product, sign in zip(products, signs, strict=True):
        rows.add(wire(m, "narrow_placed", product ^ sign.replicate(8)))
    count = wire(m, "count", Cat(ones(m, "count", signs)))
    rows.add(count, ready=8)
    rows.add(~count, 8, ready=8)
    rows.add(Const(-(((1 << len(count)) - 1) << 8), _NARROW_BITS))
    return rows


def _digits(counts: list[Value]) -> Value:
    """Sum of counts, each a digit higher than the one before. A count of 16 is alone, so digits may overlap."""
    digits = [Cat(n[0] | (counts[k - 1][_DIGIT] if k else 0), n[1:_DIGIT]) for k, n in enumerate(counts)]
    return Cat(*digits, counts[-1][_DIGIT])


def tree_sum(values: list[Value]) -> Value:
    """Sum of a power of two of values, as a balanced tree."""
    while len(values) > 1:
        values = [x + y for x, y in zip(values[::2], values[1::2], strict=True)]
    return values[0]
