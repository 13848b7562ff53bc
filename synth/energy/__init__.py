"""Energy of a model's GEMMs on the generated hardware, mixed against FP8 only (docs/energy.md)."""
