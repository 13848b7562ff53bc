"""Mutants: small faults planted in a unit's netlist or in its source, and whether the regression notices each."""
