"""Verilator's own sources, most of what a build compiles, compiled once for all builds with the same options."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..cache import cached_folder

__all__ = ["with_runtime"]

_SUFFIX = ".kept"  # the cache drops what only linking needed, by its name
_AHEAD_SECONDS = 3600  # newer than the makefile that a build begins with writing


def with_runtime(cache: Path, options: Sequence[object], make: Callable[[Path], None]) -> Callable[[Path], None]:
    """`make`, which builds a simulator in a folder, with Verilator's own objects taken from `cache`, or put there.

    `options` are all that these objects depend on: versions and flags, nothing of the design. make(1) leaves them alone
    because they are newer than all that it looks at.
    """

    def build(folder: Path) -> None:
        made = False

        def first(kept: Path) -> None:
            nonlocal made
            make(folder)
            made = True
            for path in folder.glob("verilated*.o"):
                shutil.copyfile(path, kept / (path.name + _SUFFIX))

        kept = cached_folder(cache, "verilator-runtime", [*map(str, options)], first)
        if not made:
            later = time.time() + _AHEAD_SECONDS
            for path in kept.glob(f"*{_SUFFIX}"):
                object_file = folder / path.name.removesuffix(_SUFFIX)
                shutil.copyfile(path, object_file)
                os.utime(object_file, (later, later))
            make(folder)

    return build
