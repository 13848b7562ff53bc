"""Grids of configurations through the flows, in parallel and resumable (docs/sweep.md)."""
