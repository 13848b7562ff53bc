"""External tools: run so that none outlives us, however we end, and none prints into the user's terminal.

A tool runs in a session of its own. Ctrl-C therefore reaches us alone, and we end the tool and all that it started. If
we are killed without a chance to do so, a watchdog does: a shell that waits for our end of a pipe to close.
"""

import contextlib
import errno
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

__all__ = ["exhausted", "run_tool"]

_WATCHDOG = "cat >/dev/null; kill -KILL -- -$0 2>/dev/null"


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
    ours, theirs = os.pipe()
    target = subprocess.PIPE if output is None else output
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, theirs)
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=None if env is None else dict(env),
                stdin=subprocess.DEVNULL,
                stdout=target,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            watchdog = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, str(process.pid)],
                stdin=ours,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(ours)
        try:
            said, _ = process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
            raise
        finally:
            watchdog.kill()
            watchdog.wait()
    return subprocess.CompletedProcess(list(map(str, command)), process.returncode, stdout=said or "")


def exhausted(message: str, where: object) -> None:
    """Raise what a tool's `message` says it ran out of: OSError for disk and open files, MemoryError for memory.

    A library that reports such things as errors of its own, and a program that prints them, say it in these words.
    """
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.EROFS):
        if os.strerror(code) in message or re.search(rf"os error {code}\b", message):
            raise OSError(code, os.strerror(code), str(where))
    if re.search(r"[Cc]annot allocate memory|can't allocate memory|std::bad_alloc|virtual memory exhausted", message):
        raise MemoryError(str(where))
