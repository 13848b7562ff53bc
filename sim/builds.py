"""Compiled simulations, kept by content."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

__all__ = ["built_folder"]

_COMPILED = ("*.o", "*.a", "*.d", "*.gch")


def built_folder(cache: Path, name: str, content: Sequence[object], build: Callable[[Path], None]) -> Path:
    """The folder of `content` (anything JSON holds) in `cache`, filled by `build(folder)` unless it is there already.

    Its name is `name` and a digest. It appears whole or not at all, without what only linking needed; who asks while
    another process builds it waits.
    """
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    folder = cache.resolve() / f"{name}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            build(partial)
            for pattern in _COMPILED:
                for left in partial.glob(pattern):
                    left.unlink()
            partial.rename(folder)
    return folder
