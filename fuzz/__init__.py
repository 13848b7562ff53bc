"""Fuzzing of every reader of files: `python -m fuzz`."""

NAMES = ("packed", "folder", "foreign", "liberty", "sweep", "prices", "report")
"""What can be fuzzed: `targets.TARGETS` has the readers."""
