"""The dot product of one block pair, exact, in units of 2**-20: what a lane does before it accumulates.

Pairs with an FP8 block share sixteen multipliers and an adder tree. FP4 pairs have small ones of their own, unless
sharing is "merged". Operands are isolated: a register that a precision mode does not need keeps what it has, and a
product's sign reaches no further than the bits that the product can fill (docs/decisions/0007-silicon.md).
"""

from functools import reduce
from operator import or_
from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import BLOCK_SIZE, MAX_STORED
from .config import DotConfig
from .faults import NO_FAULTS, Faults
from .hierarchy import add_part
from .operands import (
    COMMON_MEMBERS,
    FP8_SCALE,
    FP8_SHIFT,
    TRIPLE_BITS,
    DecodedActivations,
    DecodedWeights,
    decode_activations,
    decode_weights,
    stored_block,
)
from .pipeline import Pipeline, wire
from .rows import Rows, ones

__all__ = ["TERM_BITS", "Dot", "DotProduct", "connect_blocks"]

TERM_BITS = 1 + (BLOCK_SIZE * MAX_STORED**2 << 20).bit_length()

_CUTS_BY_DEPTH: dict[int, tuple[str, ...]] = {
    0: (),
    1: ("sum",),
    2: ("product", "sum"),
    3: ("product", "rows", "sum"),
    4: ("product", "rows", "sum", "scale"),
    5: ("product", "rows", "sum", "scale", "align"),
}
_FP8_CUTS_BY_DEPTH = {**_CUTS_BY_DEPTH, 4: ("product", "rows", "sum", "align")}
"""Without block scales there is nothing to do between the sum and the accumulator."""

_DIGIT = 4
_PLACES = 8
_PLACED_BITS = 3 * _DIGIT
"""A product of 8 bits shifted by 0..3 fills three digits of 4 bits; it is then placed at one of 8 digits."""

_SMALL_BITS = 9
"""With an FP4 weight, which is 1 or 3, the product has 6 bits, and 9 when it is shifted."""

_OFFSET = 2
"""Exponents count from 1, so that a pair's shift begins at 2: the tree's unit is a quarter of the products'."""

# Widths of the signed sums of sixteen products, in units of the products: FP8 pairs, mixed pairs, FP4 pairs.
_SUM_BITS = 8 + 28 + 4 + 1
_SIGN_PLACE = 8 + 28
_MIXED_BITS = 8 + 14 + 4 + 1
_NARROW_BITS = 8 + 4 + 1

_SCALED_BITS = _MIXED_BITS + 4
"""A mixed sum times the one significand of a scale, or an FP4 sum times two."""

_TO_TERM = 2
"""From products of E4M3 elements, whose unit is 2**-18, to terms."""


class DotProduct(wiring.Component):
    """The exact dot product of one pair of blocks, `depth` cycles later.

    With formats "fp8" nothing of FP4 is built; only then may `signs` be "extended" (`DotConfig`).

    Attributes:
        a, w: decoded activations and weights.
        w_still: the weights are those of the cycle before.
        advance: move all stages.
        term: the dot product, in units of 2**-20.
        nan: an element was NaN; it counts 0.
        format_error: a block scale was illegal; the term is 0 (mixed formats).
    """

    def __init__(
        self,
        depth: int,
        formats: str = "mixed",
        sharing: str = "split",
        faults: Faults = NO_FAULTS,
        signs: str = "counted",
    ):
        self._extended = signs == "extended"
        self._mixed = formats == "mixed"
        self._split = sharing == "split"
        self._cuts = (_CUTS_BY_DEPTH if self._mixed else _FP8_CUTS_BY_DEPTH)[depth]
        self._faults = faults
        members = {
            "a": In(DecodedActivations(formats)),
            "w": In(DecodedWeights(formats, sharing)),
            "w_still": In(1),
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

    def _fp8_pairs(self, m: Module) -> None:
        a, w = self.a, self.w
        pipeline = Pipeline(m, self.advance, self._cuts)
        products = self._products(m, a.significands, a.triples, a.exponents, a.positives, a.negatives)
        s = pipeline.step("product", **products, nan=a.nan | w.nan)
        tree = (_extended_tree if self._extended else _wide_tree)(m, s.products, s.shifts, s.signs)
        first, second = tree.two()
        s = pipeline.step("rows", first=first, second=second, nan=s.nan)
        s = pipeline.step("sum", total=tree.join(s.first, s.second).as_signed(), nan=s.nan)
        s = pipeline.step("align", term=(s.total << _TO_TERM)[:TERM_BITS].as_signed(), nan=s.nan)
        m.d.comb += [self.term.eq(s.term), self.nan.eq(s.nan)]

    def _products(
        self, m: Module, significands: Value, triples: Value, exponents: Value, positives: Value, negatives: Value
    ) -> dict[str, list[Value]]:
        """Magnitudes, shifts and signs of the sixteen products of the weights with given activations.

        The weight stays, so its two digits of two bits each select what is added; a zero product has no sign.
        """
        w, products, shifts, signs = self.w, [], [], []
        for i in range(BLOCK_SIZE):
            significand, triple = significands.word_select(i, 4), triples.word_select(i, TRIPLE_BITS)
            digits = w.significands.word_select(i, 4)
            if self._extended:  # without triples it is smaller
                partial = Rows(m, f"partial_{i}", 8)
                for bit in range(4):
                    partial.add(_selected(digits[bit], significand), bit)
                product = partial.join(*partial.two())
            else:
                low = _times_digit(m, f"low_{i}", significand, triple, digits[:2])
                high = _times_digit(m, f"high_{i}", significand, triple, digits[2:])
                product = (low + (high << 2))[:8]
            products.append(wire(m, f"product_{i}", product))
            shifts.append(wire(m, f"shift_{i}", exponents.word_select(i, 4) + w.exponents.word_select(i, 4)))
            sign = w.nonzeros[i] & Mux(w.signs[i], positives[i], negatives[i])
            signs.append(wire(m, f"sign_{i}", self._faults.pick("product sign dropped", sign, negatives[i])))
        return {"products": products, "shifts": shifts, "signs": signs}

    def _mixed_pairs(self, m: Module) -> None:
        """Multiply, add in the tree of the precision mode, scale, and align to the accumulator.

        `fp4` marks pairs that have a tree of their own, `mixed` the others that have a block scale. Registers that a
        precision mode does not need keep what they hold: their clock can be gated, and nothing behind them moves.
        """
        a, w = self.a, self.w
        pipeline = Pipeline(m, self.advance, self._cuts)
        fp4 = wire(m, "fp4", ~(a.fp8 | w.fp8)) if self._split else Const(0, 1)
        illegal = wire(m, "illegal", a.illegal | w.illegal)
        inputs = SimpleNamespace(
            fp4=fp4,
            mixed=wire(m, "mixed", ~(a.fp8 & w.fp8) & ~fp4),
            nan=a.nan | w.nan,
            illegal=illegal,
            scale=wire(m, "scale", Mux(illegal, 0, (Mux(a.fp8, FP8_SCALE, a.scale) * w.scale)[:8])),
            shift=wire(m, "shift", (Mux(a.fp8, FP8_SHIFT, a.shift) + w.shift)[:5]),
        )
        multiplied = self._control(pipeline, "product", inputs)
        # What is left to scale has one factor, unless FP4 pairs go the same way.
        factor = multiplied.scale[:4] if self._split else multiplied.scale
        added = self._control(pipeline, "rows", SimpleNamespace(**{**vars(multiplied), "scale": factor}))
        narrow = self._narrow_scaled(m, pipeline, inputs, multiplied)
        total = self._wide_total(m, pipeline, inputs, multiplied)
        s, product, wide = self._scaled(m, pipeline, added, narrow, total)
        term = Mux(s.fp4 | s.mixed, product << s.shift, wide << _TO_TERM)
        s = pipeline.step("align", term=term[:TERM_BITS], nan=s.nan, illegal=s.illegal)
        m.d.comb += [self.term.eq(s.term.as_signed()), self.nan.eq(s.nan), self.format_error.eq(s.illegal)]

    def _control(self, pipeline: Pipeline, cut: str, s: SimpleNamespace) -> SimpleNamespace:
        """Precision mode, errors and scale behind a cut."""
        scaled = s.fp4 | s.mixed
        modes = {"mixed": s.mixed, **({"fp4": s.fp4} if self._split else {})}
        behind = pipeline.step(cut, **modes, nan=s.nan, illegal=s.illegal)
        numbers = pipeline.step(cut, scale=s.scale, shift=s.shift, enable=scaled)
        return SimpleNamespace(**{"fp4": Const(0, 1), **vars(behind), **vars(numbers)})

    def _narrow_scaled(
        self, m: Module, pipeline: Pipeline, inputs: SimpleNamespace, multiplied: SimpleNamespace
    ) -> Value:
        """The scaled sum of FP4 pairs behind "rows"; so few bits that it is complete at "product"."""
        if not self._split:
            return Const(0, 1)
        rows = self._narrow_rows(m)
        first, second = rows.two()
        two = pipeline.step("product", narrow_first=first, narrow_second=second, enable=inputs.fp4)
        total = wire(m, "narrow_sum", rows.join(two.narrow_first, two.narrow_second))
        scaled = wire(m, "narrow_scaled", (total.as_signed() * multiplied.scale)[: _NARROW_BITS + 8])
        return pipeline.step("rows", narrow_scaled=scaled, enable=multiplied.fp4).narrow_scaled.as_signed()

    def _narrow_rows(self, m: Module) -> Rows:
        """The sum of the products of FP4 elements, in quarters; 0 where the weights are FP8."""
        a, w = self.a, self.w
        rows = Rows(m, "narrow", _NARROW_BITS)
        signs = []
        for i in range(BLOCK_SIZE):
            # A weight is 1 or 3, shifted by its exponent - 1.
            one, three, exponent = w.narrow_ones[i], w.narrow_threes[i], w.exponents.word_select(i, 4)
            triple = a.narrow_triples.word_select(i, TRIPLE_BITS)
            single = a.narrow_significands.word_select(i, 4)
            base = wire(m, f"narrow_base_{i}", _selected(one, single) | _selected(three, triple))
            twice = Mux(exponent[0], base, base << 1)[: TRIPLE_BITS + 1]
            product = wire(
                m, f"narrow_product_{i}", Mux(exponent[2] | exponent[1] & exponent[0], twice << 2, twice)[:8]
            )
            sign = (one | three) & Mux(w.signs[i], a.narrow_positives[i], a.narrow_negatives[i])
            signs.append(wire(m, f"narrow_sign_{i}", sign))
            rows.add(wire(m, f"narrow_placed_{i}", product ^ signs[-1].replicate(8)))
        count = wire(m, "narrow_count", Cat(ones(m, "narrow_count", signs)))
        rows.add(count, ready=8)
        rows.add(~count, 8, ready=8)
        rows.add(Const(-(((1 << len(count)) - 1) << 8), _NARROW_BITS))
        return rows

    def _wide_total(self, m: Module, pipeline: Pipeline, inputs: SimpleNamespace, multiplied: SimpleNamespace) -> Value:
        """The sum of all other pairs behind "rows"; above the bits of mixed pairs, of FP8 pairs only."""
        a, w = self.a, self.w
        used = ~inputs.fp4
        # FP4 activations join FP8 weights here, as significands without an exponent.
        narrow = wire(m, "narrow_activations", ~a.fp8 & (w.fp8 if self._split else 1))
        products = self._products(
            m,
            *(
                wire(m, f"wide_{name}", Mux(narrow, other, getattr(a, name)))
                for name, other in (
                    ("significands", a.narrow_significands),
                    ("triples", a.narrow_triples),
                    ("exponents", Const(int("0001" * BLOCK_SIZE, 2), 4 * BLOCK_SIZE)),
                    ("positives", a.narrow_positives),
                    ("negatives", a.narrow_negatives),
                )
            ),
        )
        # Without exponents of activations the shifts are the weights', which stay.
        moving = used
        if "product" in self._cuts:
            before = Signal(name="narrow_activations_before")
            with m.If(self.advance):
                m.d.sync += before.eq(narrow)
            moving = used & ~(narrow & before & self.w_still)
        shifts = pipeline.step("product", shifts=products.pop("shifts"), enable=moving).shifts
        s = pipeline.step("product", **products, open=~inputs.mixed, small=~w.fp8, enable=used)
        tree = _wide_tree(m, s.products, shifts, s.signs, s.open, s.small)
        first, second = tree.two()
        s = pipeline.step("rows", first=first, second=second, open=s.open, enable=~multiplied.fp4)
        return tree.join(s.first, s.second, [s.open])

    def _scaled(
        self, m: Module, pipeline: Pipeline, s: SimpleNamespace, narrow: Value, total: Value
    ) -> tuple[SimpleNamespace, Value, Value]:
        """Control, the scaled sum, and the sum of FP8 pairs behind "scale"; the last multiplication is in front of it,
        or in front of "sum" where there is no such cut.
        """
        middle, wide = total[:_MIXED_BITS], total.as_signed()
        if "scale" in self._cuts:
            plain = ~(s.fp4 | s.mixed)
            narrow = pipeline.step("sum", narrow=narrow, enable=s.fp4).narrow if self._split else narrow
            middle = pipeline.step("sum", middle=middle, enable=s.mixed).middle
            wide = pipeline.step("sum", wide=wide, enable=plain).wide
            s = self._control(pipeline, "sum", s)
        cut = "scale" if "scale" in self._cuts else "sum"
        scale = wire(m, "middle_scale", _selected(s.mixed, s.scale))
        product = wire(m, "middle_scaled", (middle.as_signed() * scale)[:_SCALED_BITS]).as_signed()
        scaled = s.fp4 | s.mixed
        product = pipeline.step(cut, product=Mux(s.fp4, narrow, product), enable=scaled).product
        wide = pipeline.step(cut, wide=wide, enable=~scaled).wide
        return self._control(pipeline, cut, s), product, wide


class Dot(wiring.Component):
    """The dot product as a unit of its own.

    Attributes:
        a, w: blocks of activations and weights (`stored_block`).
        term, nan: as in `DotProduct`.
        format_error: the same, with mixed formats.
    """

    def __init__(self, config: DotConfig):
        self.config = config
        block = stored_block(config.formats)
        flags = {"nan": Out(1)} | ({"format_error": Out(1)} if config.formats == "mixed" else {})
        super().__init__({"a": In(block), "w": In(block), "term": Out(signed(TERM_BITS)), **flags})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        dot = DotProduct(config.pipeline, config.formats, config.sharing, signs=config.signs)
        add_part(m, platform, "dot_product", dot)
        connect_blocks(m, dot, self.a, self.w, config.formats)
        m.d.comb += [dot.advance.eq(1), self.term.eq(dot.term), self.nan.eq(dot.nan)]
        if config.formats == "mixed":
            m.d.comb += self.format_error.eq(dot.format_error)
        return m


def connect_blocks(m: Module, dot: DotProduct, a: Value, w: Value, formats: str, faults: Faults = NO_FAULTS) -> None:
    """Decode a pair of blocks that is new in every cycle. The bus that the activations do not use is held at zero."""
    values = decode_activations(m, a, formats, faults)
    for name, value in values.items():
        on = Const(1, 1)
        if formats == "mixed" and name not in (*COMMON_MEMBERS, "scale", "shift"):
            on = ~a.fp8 if name.startswith("narrow_") else a.fp8
        m.d.comb += getattr(dot.a, name).eq(_selected(on, value))
    weights = decode_weights(m, w, formats, faults)
    m.d.comb += [getattr(dot.w, name).eq(weights[name]) for name in dot.w.signature.members]


def _selected(on: Value, value: Value) -> Value:
    """`value`, or 0."""
    return value & on.replicate(len(value))


def _times_digit(m: Module, name: str, value: Value, triple: Value, digit: Value) -> Value:
    """`value` times a digit of 0 to 3."""
    product = Signal(TRIPLE_BITS, name=name)
    with m.Switch(digit):
        for case, multiple in enumerate((value, value << 1, triple), 1):
            with m.Case(case):
                m.d.comb += product.eq(multiple)
    return product


def _wide_tree(
    m: Module,
    products: list[Value],
    shifts: list[Value],
    signs: list[Value],
    open_above: Value | None = None,
    small: Value | None = None,
) -> Rows:
    """Sum of products, each shifted and signed, in units of the products.

    A shifted product f is placed as f, or as 4095 - f where it is negative: only its own three digits change. What that
    adds, 4095 for each negative product at its place, is counted by place and taken off again. While `small` is high
    products have nine bits and it is 511 - f. While `open_above` is low no product goes beyond the bits of mixed pairs,
    and those above stand still.
    """
    rows = Rows(m, "tree", _SUM_BITS, {} if open_above is None else {_MIXED_BITS: open_above})
    negative: list[Value] = []
    for i, (product, shift, sign) in enumerate(zip(products, shifts, signs, strict=True)):
        upper = sign if small is None else wire(m, f"upper_sign_{i}", sign & ~small)
        turned = Cat(sign.replicate(_SMALL_BITS), upper.replicate(_PLACED_BITS - _SMALL_BITS))
        fine = wire(m, f"fine_{i}", (product << shift[:_OFFSET])[:_PLACED_BITS] ^ turned)
        at = wire(m, f"at_{i}", (Const(1, 1) << shift[_OFFSET:])[:_PLACES])
        # The lowest two bits of a product are zero at place 0, whose shift is at least 2. Places are ORed from the
        # highest down; another order maps to other gates.
        placed = [
            Cat(Const(0, _DIGIT * k - _OFFSET), _selected(on, fine)) if k else _selected(on, fine[_OFFSET:])
            for k, on in reversed(list(enumerate(at)))
        ]
        rows.add(wire(m, f"placed_{i}", reduce(or_, placed)), ready=4)
        negative.append(wire(m, f"negative_{i}", at & sign.replicate(_PLACES)))
    counts = [Cat(bits) for bits in zip(*ones(m, "count", negative), strict=True)]
    # 4095 = 2**12 - 1: the counts come off 12 bits higher (9 with small products), and go on where they stand. At place
    # 0 the two dropped bits of each negative product stood for 3; with the count's own 1 that is the count, two bits
    # higher.
    offset = wire(m, "offset", _digits(counts))
    rows.add(counts[0], ready=12)
    rows.add(_digits(counts[1:]), _DIGIT - _OFFSET, ready=12)
    taken_off = Cat(Const(0, _PLACED_BITS - _OFFSET), offset)
    if small is not None:
        taken_off = Mux(small, Cat(Const(0, _SMALL_BITS - _OFFSET), offset), taken_off)
    missing = max(_SUM_BITS - len(taken_off), 0)
    rows.add(wire(m, "taken_off", ~Cat(taken_off, Const(0, missing))[:_SUM_BITS]), ready=12)
    rows.add(Const(1, _SUM_BITS))
    return rows


def _extended_tree(m: Module, products: list[Value], shifts: list[Value], signs: list[Value]) -> Rows:
    """The same sum with every product in two's complement over the whole range of shifts.

    A negative product is turned before it is shifted, and what the shift moves in is its sign. That is the least area,
    and all bits above a product turn with its sign.
    """
    rows = Rows(m, "tree", _SUM_BITS)
    for i, (product, shift, sign) in enumerate(zip(products, shifts, signs, strict=True)):
        shifted: Value = wire(m, f"turned_{i}", product ^ sign.replicate(len(product)))
        *steps, last = range(len(shift))
        for bit in steps:
            fill = sign.replicate(1 << bit)
            shifted = wire(m, f"by_{1 << bit}_{i}", Mux(shift[bit], Cat(fill, shifted), Cat(shifted, fill)))
        fill = sign.replicate(1 << last)
        used = slice(_OFFSET, _OFFSET + _SIGN_PLACE)
        shifted = Mux(shift[last], Cat(fill, shifted)[used], Cat(shifted, fill)[used])
        # The sign's weight is negative: -s = ~s - 1, and the ones are taken off together.
        rows.add(wire(m, f"signed_{i}", Cat(shifted, ~sign)), ready=8)
    rows.add(Cat(ones(m, "count", signs)), ready=4)
    rows.add(Const(-(BLOCK_SIZE << _SIGN_PLACE) % (1 << _SUM_BITS), _SUM_BITS))
    return rows


def _digits(counts: list[Value]) -> Value:
    """Sum of counts, each a digit higher than the one before. A count of 16 is alone, so digits may overlap."""
    digits = [Cat(n[0] | (counts[k - 1][_DIGIT] if k else 0), n[1:_DIGIT]) for k, n in enumerate(counts)]
    return Cat(*digits, counts[-1][_DIGIT])
