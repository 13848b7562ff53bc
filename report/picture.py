"""matplotlib's figures as SVG inside a page: text stays text, and black and white become the page's own colors."""

import hashlib
import io
import re
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape

from ..plots import subplots
from .elements import Picture

__all__ = ["draw", "inline"]

_PAGE_COLORS = {"#000000": "currentColor", "#ffffff": "var(--card)"}


def draw(caption: str, onto: Callable[[Any], None], *, size: tuple[float, float] = (8, 4)) -> Picture:
    """What `onto` draws on the axes that it is given."""
    figure, axes = subplots(figsize=size, layout="constrained")
    onto(axes)
    axes.spines[["top", "right"]].set_visible(False)
    return Picture(caption, inline(figure, caption))


def inline(figure: Any, name: str) -> Markup:
    """`figure` as an SVG element; `name` is what screen readers say."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fgmp"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # A page holds many: identifiers, which matplotlib counts from 1 in every figure, become each picture's own.
    own = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{own}-", svg)
    for theirs, ours in _PAGE_COLORS.items():
        svg = svg.replace(theirs, ours)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(name)}" ', 1))
