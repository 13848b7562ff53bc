"""fgmp.golden: the bit-exact golden model, its reference oracle, packed tensors and test vectors.

Nothing is imported until it is asked for: `from fgmp.golden import select` brings torch, `import fgmp.golden` none.
What is listed here is stable: a change of it stands in CHANGELOG.md. What quantizes models lives in `fgmp.quantizer`;
its old names here work until 0.2 and warn.
"""

import importlib
import warnings
from typing import Any

from ..faces import lazy

__all__ = [
    "Blocks",
    "MixedTensor",
    "Packed",
    "SiteSettings",
    "Threshold",
    "count_precision_modes",
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

_find, __dir__ = lazy(
    __name__,
    {
        "Blocks": "blocks",
        "MixedTensor": "blocks",
        "Packed": "packing",
        "SiteSettings": "selector",
        "Threshold": "selector",
        "count_precision_modes": "precision_modes",
        "exact_gemm": "gemm",
        "expected_rows": "lane",
        "load_packed": "packed_file",
        "pack": "packing",
        "quantize_matrix": "matrix",
        "save_packed": "packed_file",
        "select": "selector",
        "unpack": "packing",
        "write_vectors": "vectors",
    },
)

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
    return _find(name)
