"""What quantization costs: losses, tables, plots. Submodules are imported by name."""
