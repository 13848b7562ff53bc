"""Quantized models: layers, folders, loading, transformers. Submodules are imported by name."""
