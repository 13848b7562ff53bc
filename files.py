"""Where results go, and files that appear whole or not at all, whoever else writes them at the same time."""

import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

from .errors import InputError
from .processes import exhausted

__all__ = [
    "check_file",
    "check_folder",
    "named",
    "partial_name",
    "remove_stale",
    "staged",
    "whole_file",
    "whole_files",
    "write_bytes",
    "write_files",
    "write_json",
    "write_text",
]

_PARTIAL = re.compile(r"\.([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{32}\.partial$")
"""End of a temporary name: machine, process, its start time, and a number of its own."""

_FOREIGN_SECONDS = 86400
"""Another machine's temporary file is stale after so long: whether its process lives cannot be seen from here."""


def check_folder(out: Path, expected: str = "a folder or a place for one") -> None:
    """Raise InputError, before long work, if a folder cannot be made or written at `out`."""
    if not _writable(out):
        raise InputError(f"output {out}: cannot be written, expected {expected}")


def check_file(path: Path | None) -> None:
    """Raise InputError, before long work, if no file can be written at `path`."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"output {path}: is a folder, expected a file or a place for one")
    _resolved(path)
    special = path.exists() and not path.is_file()  # a pipe or a device is written to where it is
    if not (os.access(path, os.W_OK) if special else _writable(_resolved(path).parent)):
        raise InputError(f"output {path}: cannot be written, expected a file in a folder that can be written")


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (RuntimeError, OSError):  # RuntimeError before Python 3.13
        raise InputError(f"output {path}: a loop of links, expected a file or a folder, or a place for one") from None


def partial_name(target: Path) -> Path:
    """A temporary name beside `target` that tells whose it is; `remove_stale` removes it once its process is gone."""
    return target.with_name(f"{target.name}.{_own()}-{uuid4().hex}.partial")


def _writable(folder: Path) -> bool:
    _resolved(folder)
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return existing.is_dir() and os.access(existing, os.W_OK)


@contextmanager
def whole_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Give names to write to, one for each of `paths`; what is there afterwards becomes those files, all or none.

    Folders are made as needed. If the block raises, or the disk is full, every file stays as it was and no new folder
    is left; OSError then names the file that was meant. A link stays one; pipes and devices are written to directly.
    """
    # What /dev/stdout leads to has no name if it is a pipe.
    plain = [not path.exists() or path.is_file() for path in paths]
    targets = [_resolved(path) if simple else path for path, simple in zip(paths, plain, strict=True)]
    partials = [partial_name(target) if simple else target for target, simple in zip(targets, plain, strict=True)]
    meant = dict(zip(map(str, partials), map(str, paths), strict=True))
    with _folders([t.parent for t, simple in zip(targets, plain, strict=True) if simple]), _naming(meant):
        try:
            yield list(partials)
            for partial, target, simple in zip(partials, targets, plain, strict=True):
                if simple:
                    os.replace(partial, target)
        finally:
            for partial, simple in zip(partials, plain, strict=True):
                if simple:
                    partial.unlink(missing_ok=True)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Give a new folder to write to; afterwards its files are moved into the folder `out`, or none of them is.

    For what libraries write by name, or files that are made one after the other over a long time.
    """
    target = _resolved(out)
    partial = partial_name(target)
    with _folders([target.parent]), _naming({str(partial): str(out)}):
        try:
            partial.mkdir()
            yield partial
            for path in sorted(p for p in partial.rglob("*") if p.is_file()):
                place = target / path.relative_to(partial)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _folders(folders: Sequence[Path]) -> Iterator[None]:
    """Make folders; if the block raises, those that are new and empty go again. Leftovers of the dead go first."""
    made: list[Path] = []
    try:
        for folder in dict.fromkeys(folders):
            made += [p for p in (folder, *folder.parents) if not p.exists() and p not in made]
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale(folder)
        yield
    except BaseException:
        for folder in sorted(made, key=lambda p: len(p.parts), reverse=True):
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def _naming(meant: Mapping[str, str]) -> Iterator[None]:
    """Let errors name the file that was meant instead of a temporary one; a library's own error may be one of those."""
    only = next(iter(meant.values())) if len(meant) == 1 else str(Path(next(iter(meant.values()))).parent)
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        name = only if error.filename is None else str(error.filename)
        for temporary, real in meant.items():
            name = name.replace(temporary, real)
        raise OSError(error.errno, error.strerror or str(error), name) from None
    except Exception as error:
        exhausted(str(error), only)
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """`whole_files` of one file."""
    with whole_files([path]) as (partial,):
        yield partial


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files, and their folders: all of them or none."""
    if not contents:
        return
    with whole_files(list(contents)) as partials:
        for path, partial in zip(contents, partials, strict=True):
            with named(partial):
                partial.write_bytes(contents[path])


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an OSError of the block name `path`: writing itself names nothing."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(error.filename or path)) from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, and its folder."""
    write_files({path: content})


def write_text(path: Path, content: str) -> None:
    """Write a text file in UTF-8, and its folder."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    """Write JSON. Raises ValueError for numbers that JSON does not have."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def remove_stale(folder: Path) -> None:
    """Remove the temporary files in `folder` whose processes were killed; those of live processes stay."""
    with suppress(OSError), ExitStack() as stack:
        for entry in stack.enter_context(os.scandir(folder)):
            found = _PARTIAL.search(entry.name)
            if found is None:
                continue
            machine, process, started = found[1], int(found[2]), found[3]
            if machine != _machine():
                stale = time.time() - entry.stat().st_mtime > _FOREIGN_SECONDS
            else:
                stale = _start_time(process) != started
            if stale:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        os.unlink(entry.path)


def _own() -> str:
    return f"{_machine()}-{os.getpid()}-{_start_time(os.getpid())}"


@cache
def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _start_time(process: int) -> str | None:
    """When a live process began, in units of its system (0 where it cannot be told); None if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "0"
