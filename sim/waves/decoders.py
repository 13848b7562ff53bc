"""What codes mean, as tables that waveform viewers show in place of bits."""

import math
from dataclasses import dataclass

from ...formats import E2M1, E4M3, SELECTOR_MODES, MiniFloat
from ...hdl.engine.axi_lite import OKAY, SLVERR
from ...hdl.engine.registers import OUTPUT_FORMATS, REGISTERS

__all__ = ["DECODERS", "Decoder"]


@dataclass(frozen=True)
class Decoder:
    """Texts of the values of signals with `bits` bits; what has none is shown as it is."""

    name: str
    bits: int
    texts: dict[int, str]


def _format(number: MiniFloat) -> Decoder:
    def text(code: int) -> str:
        magnitude = number.magnitude(code)
        return "NaN" if math.isnan(magnitude) else f"{'-' if code & number.sign_bit else ''}{magnitude:g}"

    return Decoder(number.name.lower(), number.bits, {code: text(code) for code in range(1 << number.bits)})


DECODERS = {
    decoder.name: decoder
    for decoder in (
        _format(E2M1),
        _format(E4M3),
        Decoder("precision", 2, {0: "FP4", 1: "FP8"}),  # two bits, since viewers draw one as a line without text
        Decoder("selector_mode", 2, dict(enumerate(SELECTOR_MODES))),
        Decoder("output_format", 2, dict(enumerate(OUTPUT_FORMATS))),
        Decoder("response", 2, {OKAY: "OKAY", SLVERR: "SLVERR"}),
        Decoder("register", 18, {register.offset: register.name for register in REGISTERS}),
    )
}
"""By name, which is also the name of their files."""
