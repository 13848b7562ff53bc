"""Yices as a process that is asked one question after the other, in SMT-LIB 2."""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from ..errors import InputError

__all__ = ["Solver", "find_solver"]


def find_solver() -> str:
    """Path of yices-smt2, beside this Python or on PATH. Raises InputError, with the line that installs it."""
    beside = Path(sys.executable).with_name("yices-smt2")
    found = str(beside) if beside.is_file() else shutil.which("yices-smt2")
    if found is None:
        raise InputError("yices-smt2: not found, proofs need it; install it with: pip install 'fgmp[formal]'")
    return found


class Solver:
    """Bit vectors without quantifiers. A context manager: leaving it ends the process."""

    def __init__(self, seconds: int):
        """Each question may take so many `seconds`."""
        command = [find_solver(), "--incremental", f"--timeout={seconds}"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._write(["(set-logic QF_BV)"])

    def __enter__(self) -> "Solver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def tell(self, *commands: str) -> None:
        """Definitions and assertions, which have no answer."""
        self._write(commands)

    def ask(self, term: str) -> bool | None:
        """Whether `term` can be true beside what was asserted; None if it took too long."""
        self._write(["(push 1)", f"(assert {term})", "(check-sat)", "(pop 1)"])
        assert self._process.stdout is not None
        self._process.stdin.flush()  # type: ignore[union-attr]
        answer = self._process.stdout.readline().strip()
        if answer not in ("sat", "unsat", "unknown"):
            raise RuntimeError(f"yices: {answer or 'ended'}")
        return {"sat": True, "unsat": False}.get(answer)

    def _write(self, commands: Iterable[str]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{command}\n" for command in commands))
