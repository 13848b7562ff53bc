"""Where results go, and files that appear whole or not at all, whoever else writes them at the same time."""

import hashlib
import json
import os
import re
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
    "remove_stale",
    "whole_file",
    "whole_files",
    "write_bytes",
    "write_files",
    "write_json",
    "write_text",
]

_PARTIAL = re.compile(r"\.([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{32}\.partial$")
"""What a temporary name ends with: machine, process, its start time, and a number of its own."""

_FOREIGN_SECONDS = 86400
"""Another machine's temporary file is stale after so long: whether its process lives cannot be seen from here."""


def check_folder(out: Path, expected: str = "a folder or a place for one") -> None:
    """Raise InputError, before long work, if a folder cannot be made or written at `out`."""
    existing = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"output {out}: cannot be written, expected {expected}")


def check_file(path: Path | None) -> None:
    """Raise InputError, before long work, if no file can be written at `path`."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"output {path}: is a folder, expected a file or a place for one")
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"output {path}: cannot be written, expected a file or a place for one")
    if not path.exists() or path.is_file():
        check_folder(path.resolve().parent, "a file in a folder that can be written")


@contextmanager
def whole_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Give names to write to, one for each of `paths`; what is there afterwards becomes those files, all or none.

    Folders are made as needed. If the block raises, or the disk is full, every file stays as it was and no new folder
    is left; OSError then names the file that was meant. A link stays one; pipes and devices are written to directly.
    """
    targets = [path.resolve() for path in paths]
    plain = [not target.exists() or target.is_file() for target in targets]
    made: list[Path] = []
    partials: list[Path] = []
    names = dict[str, Path]()
    try:
        for path, target, simple in zip(paths, targets, plain, strict=True):
            partials.append(target.with_name(f"{target.name}.{_own()}-{uuid4().hex}.partial") if simple else target)
            names[str(partials[-1])] = path
            if simple:
                made += [p for p in (target.parent, *target.parent.parents) if not p.exists() and p not in made]
                target.parent.mkdir(parents=True, exist_ok=True)
                remove_stale(target.parent)
        yield list(partials)
        for partial, target, simple in zip(partials, targets, plain, strict=True):
            if simple:
                os.replace(partial, target)
    except BaseException as error:
        for partial, simple in zip(partials, plain, strict=False):
            if simple:
                partial.unlink(missing_ok=True)
        for folder in sorted(made, key=lambda p: len(p.parts), reverse=True):
            with suppress(OSError):
                folder.rmdir()
        meant = names.get(str(getattr(error, "filename", None)), paths[0] if len(paths) == 1 else None)
        if isinstance(error, OSError) and (error.filename is None or meant is not None):
            shown = paths[0].parent if meant is None else meant
            raise OSError(error.errno, error.strerror or str(error), str(shown)) from None
        if isinstance(error, Exception) and not isinstance(error, InputError):
            exhausted(str(error), paths[0].parent if meant is None else meant)
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """`whole_files` of one file."""
    with whole_files([path]) as (partial,):
        yield partial


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files, and their folders: all of them or none."""
    with whole_files(list(contents)) as partials:
        for path, partial in zip(contents, partials, strict=True):
            try:
                partial.write_bytes(contents[path])
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(partial)) from None


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
