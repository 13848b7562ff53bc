"""The model before calibration: its linears, and the sites that they read. Submodules are imported by name."""
