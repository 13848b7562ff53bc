"""fgmp.quantizer: quantizes language models block by block, and packs, loads and evaluates what comes out.

Nothing is imported until it is asked for: `from fgmp.quantizer import quantize` brings torch, `import fgmp.quantizer`
none. A model passes through the folders in this order (docs/quantize.md): prepare, calibrate, choose, model, evaluate.
"""

import importlib
from typing import Any

__all__ = [
    "SHIPPED_MODEL",
    "FGMPConfig",
    "FGMPLinear",
    "Study",
    "causal_loss",
    "compare",
    "dequantize",
    "load",
    "load_model",
    "parse_formats",
    "quantize",
    "register_transformers",
    "save",
    "set_exact",
    "text_windows",
    "windows",
]

_HOMES = {
    "SHIPPED_MODEL": "model.language_model",
    "FGMPConfig": "config",
    "FGMPLinear": "model.layers",
    "Study": "study",
    "causal_loss": "study",
    "compare": "evaluate.comparison",
    "dequantize": "model.dequantize",
    "load": "model.load",
    "load_model": "model.language_model",
    "parse_formats": "evaluate.format_names",
    "quantize": "study",
    "register_transformers": "model.transformers_plugin",
    "save": "model.save",
    "set_exact": "model.layers",
    "text_windows": "evaluate.losses",
    "windows": "model.language_model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
