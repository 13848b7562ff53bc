"""Element codes to small integers.

E4M3 is a 4-bit significand shifted by 0..14 in units of 2**-9; E2M1 is a 4-bit integer in units of 1/2.
"""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import E2M1, E4M3
from .config import DecoderConfig
from .faults import NO_FAULTS, Faults

__all__ = ["Decoder", "Element", "decode_e2m1", "decode_e4m3"]


@dataclass(frozen=True)
class Element:
    """A decoded element: magnitude = significand << shift; zero for NaN. `exponent` is shift + 1."""

    sign: Value
    significand: Value
    shift: Value
    exponent: Value
    nan: Value


def decode_e4m3(code: Value, faults: Faults = NO_FAULTS) -> Element:
    """`code` (8 bits) with a significand of 4 bits and a shift of 0..14, unit 2**-9."""
    mantissa = code[: E4M3.mantissa_bits]
    exponent = code[E4M3.mantissa_bits : E4M3.bits - 1]
    normal = exponent.any()
    nan = code[: E4M3.bits - 1] == E4M3.nan_codes.start
    significand = Mux(nan, 0, Cat(mantissa, normal))
    counted = faults.pick("wrong E4M3 bias", Cat(exponent[0] | ~normal, exponent[1:]), exponent)
    shift = Mux(normal, exponent - 1, 0)[: E4M3.exponent_bits]
    return Element(code[-1], significand, shift, counted, nan)


def decode_e2m1(code: Value) -> Element:
    """`code` (4 bits) with a significand of 4 bits (0..12), unit 1/2, and no shift."""
    mantissa = code[: E2M1.mantissa_bits]
    exponent = code[E2M1.mantissa_bits : E2M1.bits - 1]
    normal = exponent.any()
    significand = (Cat(mantissa, normal) << Mux(normal, exponent - 1, 0)[: E2M1.exponent_bits])[:4]
    return Element(code[-1], significand, Value.cast(0), Value.cast(1), Value.cast(0))


class Decoder(wiring.Component):
    """A decoder as a unit of its own, combinational.

    Attributes:
        code: the element.
        sign, significand, shift: its value is +-significand << shift, in units of 2**-9 (E4M3) or 1/2 (E2M1, which has
            no shift). The significand of a NaN is 0.
        nan: it is a NaN (E4M3).
    """

    def __init__(self, config: DecoderConfig):
        self.config = config
        members = {"code": In(config.format.bits), "sign": Out(1), "significand": Out(4)}
        if config.element == "E4M3":
            members |= {"shift": Out(4), "nan": Out(1)}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        wide = self.config.element == "E4M3"
        element = (decode_e4m3 if wide else decode_e2m1)(self.code)
        m.d.comb += [self.sign.eq(element.sign), self.significand.eq(element.significand)]
        if wide:
            m.d.comb += [self.shift.eq(element.shift), self.nan.eq(element.nan)]
        return m
