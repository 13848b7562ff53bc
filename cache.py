"""One cache for all slow tools: compiled simulators (folders), mapped netlists and simulated energies (files).

An entry is found by the content that it was made from, checked by the content that it has, and made again where that is
damaged. It appears whole or not at all. Every entry that is used is touched; when a cache has grown past its limit the
entries that were used longest ago go first.
"""

import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import named, remove_stale, write_bytes

__all__ = ["LIMIT_BYTES", "SIMULATORS", "SYNTHESIS", "Entry", "cached", "cached_folder", "clear", "digest", "entries"]

SIMULATORS = Path("out") / "simulators"
SYNTHESIS = Path("out") / "synth"

LIMIT_BYTES = 8 << 30
"""Size of a cache beyond which its oldest entries go."""

_IN_USE_SECONDS = 3600
"""An entry that was used so recently stays, whatever the limit: somebody may be running it."""

_CONTENTS = "contents.json"
_COMPILED = ("*.o", "*.a", "*.d", "*.gch")


@dataclass(frozen=True)
class Entry:
    """One cached result: a file or a folder, its bytes, and when it was last used (seconds since 1970)."""

    path: Path
    bytes: int
    used: float


def digest(content: object) -> str:
    """SHA-256 of anything JSON can hold, or of bytes."""
    raw = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(raw).hexdigest()


def cached(folder: Path, kind: str, key: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """The result of `make` (JSON data) for this key, from `folder` if it was made before."""
    mark = digest({"kind": kind, "key": dict(key)})
    path = folder / f"{kind}-{mark[:32]}.json.z"
    try:
        found = json.loads(zlib.decompress(path.read_bytes()))  # with a checksum of its own
        if isinstance(found, dict) and found.get("key") == mark and "value" in found:
            _touch(path)
            return found["value"]
    except (OSError, zlib.error, ValueError, RecursionError):
        pass
    value = make()
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    write_bytes(path, zlib.compress(json.dumps({"key": mark, "value": value}).encode(), 3))
    _trim(folder)
    return value


def cached_folder(cache: Path, name: str, content: Sequence[object], build: Callable[[Path], None]) -> Path:
    """The folder of `content` (anything JSON holds) in `cache`, filled by `build(folder)` unless it is there already.

    Its name is `name` and a digest. Who asks while another process builds it waits. What only linking needed is not
    kept.
    """
    from filelock import FileLock

    mark = digest([name, *content])
    folder = cache.resolve() / f"{name}-{mark[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if _whole(folder, mark):
            _touch(folder)
            return folder
        partial = folder.with_name(folder.name + ".partial")
        for left in (partial, folder):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        try:
            with named(folder):
                partial.mkdir()
                build(partial)
                for pattern in _COMPILED:
                    for left in partial.glob(pattern):
                        left.unlink()
                (partial / _CONTENTS).write_text(json.dumps({"key": mark, "files": _contents(partial)}))
                partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    remove_stale(folder.parent)
    _trim(folder.parent)
    return folder


def entries(cache: Path) -> Iterator[Entry]:
    """The content of a cache."""
    for path in sorted(cache.iterdir()) if cache.is_dir() else []:
        with suppress(OSError):  # another process may be clearing it
            if path.is_dir():
                size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
            elif path.name.endswith(".json.z"):
                size = path.stat().st_size
            else:
                continue
            yield Entry(path, size, path.stat().st_atime)


def clear(cache: Path) -> int:
    """Remove all that a cache holds, leftovers of killed processes included; returns how many bytes that were."""
    freed = sum(entry.bytes for entry in entries(cache))
    for path in cache.iterdir() if cache.is_dir() else []:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix in (".z", ".lock", ".partial"):
            path.unlink(missing_ok=True)
    return freed


def _touch(path: Path) -> None:
    """Note that an entry is used: in the time of its last access, which a read need not set."""
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _trim(cache: Path) -> None:
    held = sorted(entries(cache), key=lambda entry: entry.used)
    size = sum(entry.bytes for entry in held)
    for entry in held:
        if size <= LIMIT_BYTES or time.time() - entry.used < _IN_USE_SECONDS:
            break
        if entry.path.is_dir():
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            entry.path.unlink(missing_ok=True)
        size -= entry.bytes


def _contents(folder: Path) -> dict[str, list[object]]:
    """Digest of every file in `folder`, and whether it may be executed."""
    found: dict[str, list[object]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            found[path.relative_to(folder).as_posix()] = ["link" if path.is_symlink() else "folder", False]
        elif path.name != _CONTENTS:
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = [
                    hashlib.file_digest(file, "sha256").hexdigest(),
                    os.access(path, os.X_OK),
                ]
    return found


def _whole(folder: Path, mark: str) -> bool:
    """Whether `folder` holds exactly the files that it was left with, and is what `mark` stands for."""
    try:
        return bool(json.loads((folder / _CONTENTS).read_text()) == {"key": mark, "files": _contents(folder)})
    except (OSError, ValueError):
        return False
