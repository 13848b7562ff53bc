"""fgmp.golden: quantizer and bit-exact golden model. Submodules are imported by name; what quantizes models is here.

Nothing is imported until it is asked for: `from fgmp.golden import quantize` brings torch, `fgmp.golden.formats` none.
"""

import importlib
from typing import Any

__all__ = ["FGMPConfig", "FGMPLinear", "Study", "dequantize", "load", "quantize", "save"]

_HOMES = {
    "FGMPConfig": "config",
    "FGMPLinear": "layers",
    "Study": "quantize",
    "dequantize": "quantize",
    "load": "load",
    "quantize": "quantize",
    "save": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".llm.{_HOMES[name]}", __name__), name)
