"""Fuzzing of every reader of files: `python -m fuzz`."""
