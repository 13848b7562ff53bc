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
    p.text(20, 108, "FP4 block (NVFP4): 16 elements share an E4M3 block scale; 8 + 1 bytes, a mask bit", anchor="start")
    p.cells(20, 118, (40, 60, *[42] * 16), ("0", "scale", *["E2M1" if i in (0, 15) else "..." for i in range(16)]))
    p.text(20, 190, "stored value = E4M3(block scale) x E2M1(code)", anchor="start", size=12)
    p.text(20, 226, "FP8 block: 16 elements without a block scale; 16 bytes and a mask bit", anchor="start")
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
    p.box(170, 30, 130, 70, "decode\n16 E4M3 elements\nor 16 E2M1", size=12)
    p.box(170, 220, 130, 70, "decode\n16 E4M3 elements\nor 16 E2M1", size=12)
    p.box(350, 20, 150, 60, "16 products 4 x 4 bits\nshift, adder tree\n(a pair with FP8)", size=12)
    p.box(350, 120, 150, 60, "16 small products\nadder tree\n(FP4 x FP4)", fill="#fdf2e9")
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
        ("block scale\namax / 6\nE4M3", 270),
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
    p = Picture(980, 470)
    p.box(20, 20, 180, 50, "registers\nAXI4-Lite, interrupt")
    p.box(250, 20, 180, 50, "control\nGEMM queue, abort")
    p.box(480, 20, 180, 50, "counters")
    p.arrow((200, 45), (250, 45))
    p.arrow((430, 45), (480, 45))
    paths = ((110, "weight path", "2 K tiles"), (250, "activation path", "8 K tiles"))
    for y, name, slots in paths:
        p.box(20, y, 400, 110, "", fill="#f8f9f9")
        p.text(30, y + 16, name, anchor="start", size=12)
        loader = "loader\nrecords" if y == 110 else "loader\nrecords, or\nvalues: selector"
        p.box(30, y + 28, 110, 70, loader, size=12)
        p.box(160, y + 28, 100, 70, "prefetcher\nwhich K tile", size=12)
        p.box(280, y + 28, 130, 70, f"buffer\n{slots}\n2 banks", size=11)
        p.arrow((160, y + 45), (140, y + 45))
        p.arrow((140, y + 88), (280, y + 88))
    p.text(450, 205, "block", size=11)
    p.text(450, 308, "block", size=11)
    p.text(690, 340, "results", size=11)
    p.box(480, 110, 180, 60, "sequencer\nsteps, rows, stalls")
    p.box(480, 210, 180, 150, "lanes\n\nhold a weight block,\nactivations stream past", fill="#e8f6f3")
    p.box(720, 210, 150, 60, "accumulators\n64 sums a lane")
    p.box(720, 300, 240, 150, "", fill="#f8f9f9")
    p.text(730, 316, "output", anchor="start", size=12)
    p.box(730, 325, 100, 50, "drain\n4 rounders", size=12)
    p.box(850, 325, 100, 50, "selector", size=12)
    p.box(850, 395, 100, 45, "packer\nrecords", size=12)
    p.box(730, 395, 100, 45, "beats", size=12)
    p.arrow((410, 190), (480, 240))
    p.arrow((410, 315), (480, 315))
    p.arrow((570, 170), (570, 210))
    p.arrow((480, 140), (410, 150))
    p.arrow((660, 230), (720, 230), text="sums")
    p.arrow((720, 255), (660, 255))
    p.arrow((660, 345), (730, 345))
    p.arrow((830, 350), (850, 350))
    p.arrow((900, 375), (900, 395))
    p.arrow((780, 375), (780, 395))
    p.arrow((850, 418), (830, 418))
    p.arrow((730, 418), (560, 418), text="m_axis_results")
    p.text(105, 100, "s_axis_weights", size=11)
    p.text(105, 240, "s_axis_activations", size=11)
    return p


def pictures() -> dict[str, str]:
    """The pictures by file name."""
    drawn = {"formats": _formats(), "lane": _lane(), "selector": _selector(), "engine": _engine()}
    return {f"{name}.svg": picture.svg() for name, picture in drawn.items()}


if __name__ == "__main__":
    for file, content in pictures().items():
        (Path(__file__).parent / file).write_text(content)
