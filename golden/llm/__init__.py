"""Moved to `fgmp.quantizer`; `hf` is kept until 0.2."""
