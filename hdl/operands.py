"""Blocks as the datapath takes them: decoded elements, and what goes beside them.

Activations are decoded once for all lanes. They come on two buses, one for FP8 blocks and one for FP4 blocks, of which
the one that is not used can stand still. Three times a significand comes with it, so that a digit of a weight only
selects what is added: 0, 1, 2 or 3 times the significand.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..formats import BLOCK_SIZE, E2M1, E4M3, MAX_BLOCK_SCALE_CODE, MIN_BLOCK_SCALE_CODE
from .decoder import decode_e2m1, decode_e4m3
from .faults import NO_FAULTS, Faults
from .pipeline import wire
from .unit_config import ActivationDecoderConfig

__all__ = [
    "COMMON_MEMBERS",
    "FP8_BLOCK",
    "FP8_SCALE",
    "FP8_SHIFT",
    "STORED_BLOCK",
    "TRIPLE_BITS",
    "ActivationDecoder",
    "DecodedActivations",
    "DecodedWeights",
    "decode_activations",
    "decode_weights",
    "stored_block",
]

STORED_BLOCK = data.StructLayout({"codes": 8 * BLOCK_SIZE, "scale": 8, "fp8": 1})
"""A block in a fixed slot: FP8 uses 16 bytes, FP4 the low 8 (even element in the low nibble)."""

FP8_BLOCK = data.StructLayout({"codes": 8 * BLOCK_SIZE})
"""The same where every block is FP8."""

TRIPLE_BITS = 6
"""Three times a significand of four bits."""


def stored_block(formats: str) -> data.StructLayout:
    """The layout of a block for formats "mixed" or "fp8"."""
    return STORED_BLOCK if formats == "mixed" else FP8_BLOCK


_SCALE = {"fp8": 1, "scale": 4, "shift": 4, "illegal": 1}
"""Precision bit; significand and shift of an FP4 block's scale; whether that is illegal."""

FP8_SCALE, FP8_SHIFT = 1, 1
"""The scale of an FP8 block, whose elements are in units of 2**-9: those of FP4 are in 2**-10."""

COMMON_MEMBERS = ("fp8", "nan", "illegal")
"""Members of decoded activations that belong to neither precision's bus."""

_BUS = {"significands": 4, "positives": 1, "negatives": 1, "triples": TRIPLE_BITS}


def _members(elements: dict[str, int], others: dict[str, int]) -> dict[str, wiring.Member]:
    return {**{n: Out(bits * BLOCK_SIZE) for n, bits in elements.items()}, **{n: Out(b) for n, b in others.items()}}


class DecodedActivations(wiring.Signature):
    """Sixteen activations, element 0 in the low bits of every member.

    `significands`, `exponents` (shift + 1), signs as `positives` and `negatives` (neither for zero), `triples` of FP8
    elements; the same, `narrow_...` and without exponents, of FP4 elements in halves. `nan`: an FP8 element is NaN.
    """

    def __init__(self, formats: str):
        elements = {**_BUS, "exponents": 4}
        if formats == "fp8":
            super().__init__(_members(elements, {"nan": 1}))
            return
        narrow = {f"narrow_{name}": bits for name, bits in _BUS.items()}
        super().__init__(_members({**elements, **narrow}, {"nan": 1, **_SCALE}))


class DecodedWeights(wiring.Signature):
    """Sixteen weights, element 0 in the low bits of every member.

    `significands`, `exponents` (shift + 1), `signs`, `nonzeros`. An FP4 element in halves is 1 or 3 shifted, so that a
    change of its sign turns few bits of what is added. `scale` and `shift` of an FP8 block are 1. With sharing "split"
    `narrow_ones` and `narrow_threes` say what an FP4 element is; they are low in an FP8 block.
    """

    def __init__(self, formats: str, sharing: str):
        elements = {"significands": 4, "exponents": 4, "signs": 1, "nonzeros": 1}
        if formats == "fp8":
            super().__init__(_members(elements, {"nan": 1}))
            return
        narrow = {"narrow_ones": 1, "narrow_threes": 1} if sharing == "split" else {}
        super().__init__(_members({**elements, **narrow}, {"nan": 1, **_SCALE}))


def decode_activations(m: Module, block: data.View, formats: str, faults: Faults = NO_FAULTS) -> dict[str, Value]:
    """The members of `DecodedActivations` for a block; those of the other precision are whatever comes out."""
    elements = [decode_e4m3(block.codes.word_select(i, E4M3.bits), faults) for i in range(BLOCK_SIZE)]
    values = {
        **_bus(m, "wide", [(e.sign, e.significand) for e in elements]),
        "exponents": Cat(e.exponent for e in elements),
        "nan": Cat(e.nan for e in elements).any(),
    }
    if formats == "fp8":
        return values
    fp8 = block.fp8
    small = [decode_e2m1(block.codes.word_select(i, E2M1.bits)) for i in range(BLOCK_SIZE)]
    narrow = _bus(m, "narrow", [(e.sign, e.significand) for e in small])
    values |= {f"narrow_{name}": value for name, value in narrow.items()}
    return {**values, "nan": values["nan"] & fp8, **_block_scale(block.scale, fp8, faults)}


def _bus(m: Module, name: str, elements: list[tuple[Value, Value]]) -> dict[str, Value]:
    significands = [wire(m, f"{name}_significand_{i}", significand) for i, (_, significand) in enumerate(elements)]
    signs = [sign for sign, _ in elements]
    pairs = list(zip(signs, significands, strict=True))
    return {
        "significands": Cat(significands),
        "positives": Cat(~sign & significand.any() for sign, significand in pairs),
        "negatives": Cat(sign & significand.any() for sign, significand in pairs),
        "triples": Cat((3 * significand)[:TRIPLE_BITS] for significand in significands),
    }


def decode_weights(m: Module, block: data.View, formats: str, faults: Faults = NO_FAULTS) -> dict[str, Value]:
    """The members of `DecodedWeights` for a block; those of sharing "split" are among them."""
    fp8 = faults.pick("mask bit inverted", block.fp8, ~block.fp8) if formats == "mixed" else None
    significands, exponents, signs, nans = [], [], [], []
    ones, threes = [], []
    for i in range(BLOCK_SIZE):
        wide = decode_e4m3(block.codes.word_select(i, E4M3.bits), faults)
        sign, significand, exponent = wide.sign, wide.significand, wide.exponent
        if fp8 is not None:
            code = block.codes.word_select(i, E2M1.bits)
            mantissa, power = code[0], code[1:3]
            three = wire(m, f"three_{i}", mantissa & power.any())
            shift = (power - three)[:2]
            ones.append(code[:3].any() & ~three & ~fp8)
            threes.append(three & ~fp8)
            significand = Mux(fp8, significand, Cat(code[:3].any(), three))
            exponent, sign = Mux(fp8, exponent, shift + 1)[:4], Mux(fp8, sign, code[3])
        significands.append(wire(m, f"weight_significand_{i}", significand))
        exponents.append(exponent)
        signs.append(sign)
        nans.append(wide.nan)
    values = {
        "significands": Cat(significands),
        "exponents": Cat(exponents),
        "signs": Cat(signs),
        "nonzeros": Cat(significand.any() for significand in significands),
        "nan": Cat(nans).any(),
    }
    if fp8 is None:
        return values
    scale = _block_scale(block.scale, fp8, faults)
    significand = faults.pick("weight block scale missing", Mux(fp8, FP8_SCALE, scale["scale"]), 8)
    shift = Mux(fp8, FP8_SHIFT, scale["shift"])
    values |= {"narrow_ones": Cat(ones), "narrow_threes": Cat(threes), "nan": values["nan"] & fp8}
    return {**values, **scale, "scale": significand[:4], "shift": shift[:4]}


def _block_scale(scale: Value, fp8: Value, faults: Faults) -> dict[str, Value]:
    """Precision bit, the scale's significand and shift in units of 2**-9, and whether an FP4 block's is illegal."""
    decoded = decode_e4m3(scale)
    limit = faults.pick("block scale limit off by one", MAX_BLOCK_SCALE_CODE, MAX_BLOCK_SCALE_CODE + 1)
    illegal = ~fp8 & ((scale < MIN_BLOCK_SCALE_CODE) | (scale > limit))
    return {"fp8": fp8, "scale": decoded.significand, "shift": decoded.shift, "illegal": illegal}


class ActivationDecoder(wiring.Component):
    """Decodes activation blocks for all lanes. The bus of the other precision keeps what it has.

    Attributes:
        valid: a block stands at the input.
        stored: that block (`stored_block`).
        decoded: the last block, decoded, a cycle later (`DecodedActivations`).
    """

    def __init__(self, config: ActivationDecoderConfig):
        self.config = config
        formats = config.formats
        members = {"valid": In(1), "stored": In(stored_block(formats)), "decoded": Out(DecodedActivations(formats))}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        formats = self.config.formats
        values = decode_activations(m, self.stored, formats)
        enables = {}
        if formats == "mixed":
            narrow, wide = (wire(m, f"take_{n}", self.valid & (self.stored.fp8 == n)) for n in (0, 1))
            enables = {name: narrow if name.startswith("narrow_") else wide for name in values}
            enables |= dict.fromkeys(COMMON_MEMBERS, self.valid)
            enables |= dict.fromkeys(("scale", "shift"), narrow)
        for name, value in values.items():
            held = Signal(len(value), name=f"decoded_{name}", reset_less=True)
            with m.If(enables.get(name, self.valid)):
                m.d.sync += held.eq(value)
            m.d.comb += getattr(self.decoded, name).eq(held)
        return m
