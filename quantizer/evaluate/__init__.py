"""The cost of quantization: losses, tables, plots. Submodules are imported by name."""
