"""Calibration: sensitivities, squares, tensor exponents. Submodules are imported by name."""
