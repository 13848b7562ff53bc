"""Figures without a screen, written whole or not at all."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..errors import InputError
from ..files import check_file, whole_file

__all__ = ["check_plot", "plt", "save_figure"]

_KINDS = (".svg", ".png", ".pdf")


def check_plot(path: Path) -> None:
    """Raise InputError for a kind of file that is not drawn, or a place where none can be written."""
    if path.suffix not in _KINDS:
        raise InputError(f"plot {path}: kind {path.suffix!r}, expected one of {', '.join(_KINDS)}")
    check_file(path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` into `path`, in the format of its suffix, and close it."""
    check_plot(path)
    try:
        with whole_file(path) as partial:
            figure.savefig(partial, format=path.suffix.removeprefix("."))
    finally:
        plt.close(figure)
