"""Waveforms: what a viewer shows of a unit, and how it names codes."""
