"""fgmp.quantizer: quantizes language models block by block, and packs, loads and evaluates what comes out.

Nothing is imported until it is asked for: `from fgmp.quantizer import quantize` brings torch, `import fgmp.quantizer`
none. A model passes through the folders in this order (docs/quantize.md): prepare, calibrate, choose, model, evaluate.
What is listed here is stable: a change of it stands in CHANGELOG.md.
"""

from ..faces import lazy

__all__ = [
    "SHIPPED_MODEL",
    "Checkpoint",
    "FGMPConfig",
    "FGMPLinear",
    "Pages",
    "Study",
    "Variant",
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

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Checkpoint": "calibrate.resume",
        "FGMPConfig": "config",
        "FGMPLinear": "model.layers",
        "Pages": "prepare.pages",
        "SHIPPED_MODEL": "model.language_model",
        "Study": "study",
        "Variant": "model.variant",
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
    },
)
