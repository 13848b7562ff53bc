"""The commands `fgmp quantize`, `evaluate`, `inspect` and `train`. Submodules are imported by name."""
