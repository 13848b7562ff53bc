"""Energy of a model's matrix products on the generated hardware, mixed against FP8 only (docs/energy.md)."""
