"""Figures without a screen, written whole or not at all. matplotlib is imported when the first one is drawn."""

from pathlib import Path
from typing import Any

from .errors import InputError
from .files import check_file, whole_file

__all__ = ["check_plot", "save_figure", "subplots"]

_KINDS = (".svg", ".png", ".pdf")


def subplots(
    rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], layout: Any = None, **grid: Any
) -> tuple[Any, Any]:
    """A new figure and its axes, as `matplotlib.pyplot.subplots` gives them, without its global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout=layout)
    return figure, figure.subplots(rows, columns, **grid)


def check_plot(path: Path) -> None:
    """Raise InputError for a kind of file that is not drawn, or a place where none can be written."""
    if path.suffix not in _KINDS:
        raise InputError(f"plot {path}: kind {path.suffix!r}, expected one of {', '.join(_KINDS)}")
    check_file(path)


def save_figure(figure: Any, path: Path) -> None:
    """Write `figure` into `path`, in the format of its suffix."""
    check_plot(path)
    with whole_file(path) as partial:
        figure.savefig(partial, format=path.suffix.removeprefix("."))
