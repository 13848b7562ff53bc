"""Draws the pictures of the docs as SVG. They are sources like others: change them here, then run this file.

python docs/pictures/draw.py
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path

__all__ = ["pictures"]

_FONT = "font-family='Helvetica, Arial, sans-serif' font-size='{size}'"


@dataclass
class Picture:
    """Boxes, texts and arrows on a white ground; coordinates in pixels, from the upper left corner."""

    width: int
    height: int
    parts: list[str] = field(default_factory=list)

    def box(self, x: int, y: int, w: int, h: int, text: str, *, fill: str = "#eef2f7", size: int = 13) -> None:
        """A box with lines of text in its middle."""
        self.parts.append(f"<rect x='{x}' y='{y}' width='{w}' height='{h}' rx='4' fill='{fill}' stroke='#34495e'/>")
        lines = text.split("\n")
        for i, line in enumerate(lines):
            self.text(
                x + w // 2, y + h // 2 + int((i - (len(lines) - 1) / 2) * (size + 3)) + size // 3, line, size=size
            )

    def text(self, x: int, y: int, text: str, *, size: int = 13, anchor: str = "middle") -> None:
        """One line of text."""
        font = _FONT.format(size=size)
        self.parts.append(f"<text x='{x}' y='{y}' text-anchor='{anchor}' {font} fill='#1c2833'>{escape(text)}</text>")

    def arrow(self, *points: tuple[int, int], text: str = "") -> None:
        """An arrow along points, named beside its first part."""
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(f"<polyline points='{path}' fill='none' stroke='#34495e' marker-end='url(#tip)'/>")
        if text:
            (x0, y0), (x1, y1) = points[:2]
            self.text((x0 + x1) // 2, (y0 + y1) // 2 - 5, text, size=11)

    def cells(self, x: int, y: int, widths: Sequence[int], texts: Sequence[str], *, fill: str = "#fdf2e9") -> None:
        """Fields of a word, from the highest bit to the lowest."""
        for width, text in zip(widths, texts, strict=True):
            self.box(x, y, width, 30, text, fill=fill, size=12)
            x += width

    def svg(self) -> str:
        """The file."""
        tip = "<marker id='tip' markerWidth='9' markerHeight='7' refX='8' refY='3.5' orient='auto'>"
        tip += "<path d='M0,0 L9,3.5 L0,7 z' fill='#34495e'/></marker>"
        size = f"width='{self.width}' height='{self.height}' viewBox='0 0 {self.width} {self.height}'"
        ground = f"<rect width='{self.width}' height='{self.height}' fill='white'/>"
        return "\n".join(
            [
                f"<svg xmlns='http://www.w3.org/2000/svg' {size}>",
                f"<defs>{tip}</defs>",
                ground,
                *self.parts,
                "</svg>",
                "",
            ]
        )


def _formats() -> Picture:
    p = Picture(880, 330)
    p.text(20, 24, "E2M1 element: magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6", anchor="start")
    p.cells(20, 34, (30, 60, 30), ("s", "e e", "m"))
    p.text(440, 24, "E4M3 element: to 448, NaN = S.1111.111, no infinity", anchor="start")
    p.cells(440, 34, (30, 120, 90), ("s", "e e e e", "m m m"))
    p.text(
        20,
        108,
        "FP4 block (NVFP4): 16 elements share an E4M3 block scale; 8 + 1 bytes, a precision bit",
        anchor="start",
    )
    p.cells(20, 118, (40, 60, *[42] * 16), ("0", "scale", *["E2M1" if i in (0, 15) else "..." for i in range(16)]))
    p.text(20, 190, "stored value = E4M3(block scale) x E2M1(code)", anchor="start", size=12)
    p.text(20, 226, "FP8 block: 16 elements without a block scale; 16 bytes and a precision bit", anchor="start")
    p.cells(20, 236, (40, *[50] * 16), ("1", *["E4M3" if i in (0, 15) else "..." for i in range(16)]), fill="#fadbd8")
    p.text(
        20,
        308,
        "stored value = E4M3(code)          real value = 2**tensor exponent x stored value",
        anchor="start",
        size=12,
    )
    return p


def _lane() -> Picture:
    p = Picture(900, 360)
    p.box(10, 40, 110, 50, "activation block\ncodes, scale, fp8", size=12)
    p.box(10, 230, 110, 50, "weight block\ncodes, scale, fp8", size=12)
    p.box(170, 30, 130, 70, "decode\nFP8 bus, FP4 bus\nx and 3x", size=12)
    p.box(170, 220, 130, 70, "decode\ntwo digits,\nFP4: 1 or 3, shifted", size=12)
    p.box(350, 20, 150, 60, "digits select 0, x, 2x, 3x\nshift, adder tree\n(a pair with FP8)", size=11)
    p.box(350, 120, 150, 60, "select x or 3x, shift\nadder tree\n(FP4 x FP4)", fill="#fdf2e9", size=12)
    p.box(350, 250, 150, 50, "product of both\nblock scales")
    p.box(550, 70, 110, 60, "times scales\n(a pair with FP4)", size=12)
    p.box(700, 70, 90, 60, "align to\n2**-20")
    p.box(700, 190, 90, 60, "accumulator\n51 bits, exact", fill="#e8f6f3", size=12)
    p.box(540, 270, 110, 60, "round once\nfloat32\nbfloat16")
    p.arrow((120, 65), (170, 65))
    p.arrow((120, 255), (170, 255))
    p.arrow((300, 50), (350, 50))
    p.arrow((300, 80), (330, 80), (330, 140), (350, 140))
    p.arrow((300, 240), (320, 240), (320, 65), (350, 65))
    p.arrow((300, 255), (340, 255), (340, 165), (350, 165))
    p.arrow((300, 275), (350, 275))
    p.arrow((500, 50), (525, 50), (525, 90), (550, 90))
    p.arrow((500, 150), (525, 150), (525, 110), (550, 110))
    p.arrow((500, 275), (525, 275), (525, 200), (605, 200), (605, 130))
    p.arrow((660, 100), (700, 100))
    p.arrow((745, 130), (745, 190))
    p.arrow((790, 220), (830, 220), (830, 160), (765, 160), (765, 190))
    p.arrow((700, 230), (670, 230), (670, 300), (650, 300))
    p.text(450, 350, "What a precision mode does not need keeps its registers: operand isolation.", size=12)
    return p


def _selector() -> Picture:
    p = Picture(900, 250)
    stages = (
        ("to fixed point\n|x| / 2**e\n20 bits + sticky", 10),
        ("maximum of 16\namax", 150),
        ("block scale\namax / 6\n(or also / 4)", 270),
        ("quantize twice\nE2M1 by compares\nE4M3", 390),
        ("error\n|Q4 - Q8|\nthree bits", 530),
        ("square and add\nscore", 650),
        ("score > threshold?\nor by mode", 770),
    )
    for text, x in stages:
        p.box(x, 40, 110, 80, text, size=11)
    for (_, x), (_, following) in pairwise(stages):
        p.arrow((x + 110, 80), (following, 80))
    p.box(390, 170, 230, 40, "FP4 block: scale, 16 E2M1 codes", fill="#fdf2e9", size=12)
    p.box(640, 170, 180, 40, "FP8 block: 16 E4M3 codes", fill="#fadbd8", size=12)
    p.arrow((445, 120), (445, 170))
    p.arrow((480, 120), (480, 145), (700, 145), (700, 170))
    p.arrow((825, 120), (825, 235), (500, 235), (500, 210))
    p.arrow((825, 120), (825, 235), (740, 235), (740, 210))
    p.text(870, 200, "choose", size=11)
    p.text(450, 20, "One block per cycle; up to eight registers between the stages", size=12)
    return p


def _engine() -> Picture:
    p = Picture(1100, 500)
    p.box(140, 20, 180, 50, "registers\nAXI4-Lite, interrupt", size=12)
    p.box(370, 20, 180, 50, "control\nGEMM queue, abort", size=12)
    p.box(600, 20, 180, 50, "counters", size=12)
    p.arrow((320, 45), (370, 45))
    p.arrow((550, 45), (600, 45))
    paths = ((110, "weights", "2 K tiles\n4 banks"), (260, "activations", "K tiles\n2 banks, scales,\nprecision bits"))
    for y, name, slots in paths:
        p.box(130, y, 400, 110, "", fill="#f8f9f9")
        p.text(140, y + 16, f"{name[:-1]} path", anchor="start", size=12)
        loader = "loader\nrecords" if name == "weights" else "loader\nrecords, or\nvalues: selector"
        p.box(140, y + 26, 110, 76, loader, size=12)
        p.box(270, y + 26, 100, 40, "prefetcher\nwhich K tile", size=11)
        p.box(390, y + 26, 130, 76, f"buffer\n{slots}", size=11)
        p.arrow((270, y + 46), (250, y + 46))
        p.arrow((250, y + 86), (390, y + 86), text="blocks")
        p.arrow((20, y + 64), (140, y + 64))
        p.text(20, y + 56, f"s_axis_{name}", size=11, anchor="start")
    p.box(600, 110, 180, 66, "sequencer\nsteps, order of rows,\nstalls", size=12)
    p.box(570, 290, 100, 56, "activation\ndecoder", size=12)
    p.box(720, 230, 150, 150, "lanes\n\nhold a weight block,\nactivations stream past", fill="#e8f6f3", size=12)
    p.box(920, 230, 160, 60, "accumulators\na sum a lane and row", size=12)
    p.box(860, 400, 220, 90, "", fill="#f8f9f9")
    p.text(870, 414, "output", anchor="start", size=12)
    p.box(970, 420, 100, 28, "drain, rounders", size=11)
    p.box(870, 420, 90, 28, "beats", size=11)
    p.box(970, 456, 100, 28, "selector", size=11)
    p.box(870, 456, 90, 28, "packer", size=11)
    p.arrow((520, 190), (640, 190), (640, 260), (720, 260), text="blocks")
    p.arrow((520, 318), (570, 318))
    p.arrow((670, 318), (720, 318))
    p.arrow((740, 176), (740, 230), text="")
    p.arrow((600, 140), (480, 140), text="reads")
    p.arrow((600, 165), (560, 165), (560, 296), (520, 296))
    p.arrow((870, 250), (920, 250), text="sums")
    p.arrow((920, 275), (870, 275))
    p.arrow((800, 380), (800, 395), (1020, 395), (1020, 420))
    p.arrow((970, 434), (960, 434))
    p.arrow((1020, 448), (1020, 456))
    p.arrow((970, 470), (960, 470))
    p.arrow((915, 456), (915, 448))
    p.arrow((870, 434), (740, 434), text="m_axis_results")
    return p


def pictures() -> dict[str, str]:
    """The pictures by file name."""
    drawn = {"formats": _formats(), "lane": _lane(), "selector": _selector(), "engine": _engine()}
    return {f"{name}.svg": picture.svg() for name, picture in drawn.items()}


if __name__ == "__main__":
    for file, content in pictures().items():
        (Path(__file__).parent / file).write_text(content)
