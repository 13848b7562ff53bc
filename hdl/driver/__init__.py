"""The engine's driver in C: freestanding, two files and the generated register map."""

from pathlib import Path

from ...files import write_files
from ..engine.registers import c_header

__all__ = ["write_driver"]


def write_driver(out: Path) -> list[Path]:
    """Write fgmp_engine.h, fgmp_driver.h and fgmp_driver.c to the folder `out`; returns the paths."""
    here = Path(__file__).parent
    texts = {name: (here / name).read_text() for name in ("fgmp_driver.h", "fgmp_driver.c")}
    texts["fgmp_engine.h"] = c_header()
    write_files({out / name: text.encode() for name, text in texts.items()})
    return [out / name for name in sorted(texts)]
