"""fgmp.golden: the bit-exact golden model, its reference oracle, packed tensors and test vectors.

Nothing is imported until it is asked for: `from fgmp.golden import select` brings torch, `import fgmp.golden` none.
What quantizes models lives in `fgmp.quantizer`; its old names here work until 0.2 and warn.
"""

import importlib
import warnings
from typing import Any

__all__ = [
    "Blocks",
    "MixedTensor",
    "Packed",
    "SiteSettings",
    "Threshold",
    "exact_gemm",
    "expected_rows",
    "load_packed",
    "pack",
    "quantize_matrix",
    "save_packed",
    "select",
    "unpack",
    "write_vectors",
]

_HOMES = {
    "Blocks": "blocks",
    "MixedTensor": "blocks",
    "Packed": "packing",
    "SiteSettings": "selector",
    "Threshold": "selector",
    "exact_gemm": "gemm",
    "expected_rows": "lane",
    "load_packed": "packed_file",
    "pack": "packing",
    "quantize_matrix": "matrix",
    "save_packed": "packed_file",
    "select": "selector",
    "unpack": "packing",
    "write_vectors": "vectors",
}

_MOVED = ("FGMPConfig", "FGMPLinear", "Study", "dequantize", "load", "quantize", "save")
"""Names that `fgmp.quantizer` has now; removed from here in 0.2."""


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        warnings.warn(
            f"fgmp.golden.{name} has moved: use fgmp.quantizer.{name}; this name goes away in 0.2",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module("..quantizer", __name__), name)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
