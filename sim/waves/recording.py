"""What a simulation can be recorded as, and what the compiler needs for it."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

from ...errors import InputError

__all__ = ["FST_HEADERS", "RESERVE", "TRACES", "check_headers", "check_recorded", "has_header", "trace_format"]

TRACES = ("fst", "vcd", "saif")
"""Waveforms, compressed or as text, or how often every signal toggled."""

FST_HEADERS = {"lz4.h": "liblz4-dev", "zlib.h": "zlib1g-dev"}
"""What Verilator's FST writer includes, and the Debian packages that bring it."""

RESERVE = 1 << 28
"""Bytes that stay free on the disk that is recorded to: FST's writer holds half as many before it writes them."""


def trace_format(path: Path) -> str:
    """What a file's name says it is to be: one of TRACES. Raises InputError for another."""
    suffix = path.suffix.removeprefix(".")
    if suffix not in TRACES:
        raise InputError(f"waves: {path}, expected a file name that ends with .{', .'.join(TRACES)}")
    return suffix


def has_header(name: str) -> bool:
    """Whether there is a C++ compiler and it finds a header."""
    if shutil.which("c++") is None:
        return False
    command = ["c++", "-E", "-x", "c++", "-"]
    said = subprocess.run(command, input=f"#include <{name}>", capture_output=True, text=True, check=False)
    return said.returncode == 0


def check_headers(trace: str | None) -> None:
    """Raise InputError if a recording needs headers that the compiler does not find."""
    for header, package in FST_HEADERS.items() if trace == "fst" else ():
        if not has_header(header):
            raise InputError(
                f"{header}: not found, FST waveforms need it; install it with: apt install {package}, or write .vcd"
            )


def check_recorded(whole: int, path: Path) -> None:
    """Raise OSError if a recording ended early, because less than RESERVE bytes were left on its disk."""
    if not whole:
        reason = f"{os.strerror(errno.ENOSPC)}, recordings leave {RESERVE >> 20} MiB of it free"
        raise OSError(errno.ENOSPC, reason, str(path))
