"""Kept until 0.2 for `import fgmp.golden.llm.hf`: importing it registers the format with transformers, and warns."""

import importlib
import warnings

__all__: list[str] = []

warnings.warn(
    "fgmp.golden.llm.hf has moved: call fgmp.quantizer.register_transformers(); this name goes away in 0.2",
    DeprecationWarning,
    stacklevel=2,
)
importlib.import_module("...quantizer.model.transformers_plugin", __package__)
