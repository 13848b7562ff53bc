"""External tools: run so that none outlives us, however we end, and none prints into the user's terminal.

A tool runs in a process group of its own. Ctrl-C therefore reaches us alone, and we end the tool and all that it
started. If we are killed without a chance to do so, a watchdog in that group does: a shell that waits for our end of a
pipe to close.
"""

import contextlib
import errno
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

__all__ = ["end_with_parent", "exhausted", "run_tool"]

_WATCH = "fgmp-parent"
_WATCHDOG = "trap '' TERM INT HUP; cat >/dev/null; kill -KILL 0"


def run_tool(
    command: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    output: IO[Any] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end; what it prints goes to `output`, or else is returned as `stdout`, both streams together.

    Whatever is raised while it runs (KeyboardInterrupt, Terminated) ends the tool and all its children first.
    """
    with _group() as group:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=group,
        )
        try:
            said, _ = process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
            raise
    return subprocess.CompletedProcess(list(map(str, command)), process.returncode, stdout=said or "")


@contextlib.contextmanager
def _group() -> Iterator[int]:
    """A process group that ends with us: its first member is there before any tool, so that none is ever without."""
    ours, theirs = os.pipe()
    try:
        watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG],
            stdin=ours,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
    finally:
        os.close(ours)
    try:
        yield watchdog.pid
    finally:
        watchdog.kill()
        watchdog.wait()
        os.close(theirs)


def end_with_parent() -> None:
    """In a worker process: end when the process that started it is gone, however it went."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if not any(t.name == _WATCH for t in threading.enumerate()):
        threading.Thread(target=watch, name=_WATCH, daemon=True).start()


def exhausted(message: str, where: object) -> None:
    """Raise what a tool's `message` says it ran out of: OSError for disk and open files, MemoryError for memory.

    A library that reports such things as errors of its own, and a program that prints them, say it in these words.
    """
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.EROFS):
        if os.strerror(code) in message or re.search(rf"os error {code}\b", message):
            raise OSError(code, os.strerror(code), str(where))
    if re.search(r"[Cc]annot allocate memory|can't allocate memory|std::bad_alloc|virtual memory exhausted", message):
        raise MemoryError(str(where))
