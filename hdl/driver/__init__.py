"""The engine's driver in C: freestanding, two files and the register map; and the Linux parts that go with it."""

from pathlib import Path

from ...files import write_files
from ..engine.registers import c_header

__all__ = ["write_driver"]

_FREESTANDING = ("fgmp_driver.h", "fgmp_driver.c")
_LINUX = ("fgmp_uio.h", "fgmp_uio.c", "fgmp,engine.yaml")


def write_driver(out: Path, *, linux: bool = False) -> list[Path]:
    """Write fgmp_engine.h, fgmp_driver.h and fgmp_driver.c to the folder `out`; returns the paths.

    With `linux` also access by UIO and the device-tree binding.
    """
    here = Path(__file__).parent
    texts = {name: (here / name).read_text() for name in (*_FREESTANDING, *(_LINUX if linux else ()))}
    texts["fgmp_engine.h"] = c_header()
    write_files({out / name: text.encode() for name, text in texts.items()})
    return [out / name for name in sorted(texts)]
