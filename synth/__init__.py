"""fgmp.synth: what the units become in silicon. Submodules are imported by name; nothing is imported here."""
