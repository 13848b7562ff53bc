"""The engine's driver in C: freestanding, two files and the register map; and what Linux and LiteX need of it."""

from pathlib import Path

from ...files import write_files
from ..engine.registers import c_header

__all__ = ["write_driver"]

_FREESTANDING = ("fgmp_driver.h", "fgmp_driver.c")
_LINUX = ("fgmp_uio.h", "fgmp_uio.c", "fgmp,engine.yaml")
_LITEX = ("fgmp_litex.py", "fgmp_litex.h", "fgmp_litex.c")


def write_driver(out: Path, *, linux: bool = False, litex: bool = False) -> list[Path]:
    """Write fgmp_engine.h, fgmp_driver.h and fgmp_driver.c to the folder `out`; returns the paths.

    With `linux` also access by UIO and the device-tree binding; with `litex` a LiteX peripheral and GEMMs by its DMAs.
    """
    here = Path(__file__).parent
    names = (*_FREESTANDING, *(_LINUX if linux else ()), *(_LITEX if litex else ()))
    texts = {name: (here / name).read_text() for name in names}
    texts["fgmp_engine.h"] = c_header()
    write_files({out / name: text.encode() for name, text in texts.items()})
    return [out / name for name in sorted(texts)]
