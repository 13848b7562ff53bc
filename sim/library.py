"""Verilator's model of a unit and a C++ loop around it, compiled into a shared library: what fast benches load."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..cache import SIMULATORS as CACHE
from ..cache import cached_folder
from ..hdl.design import Design
from ..processes import exhausted, run_tool
from .runner import SimulationError, tools, verilator_configuration
from .runtime import with_runtime

__all__ = ["compile_library"]

_LIBRARY = "libsimulator.so"
_FAST = ("fast", "-CFLAGS", "-O1 -march=native")  # with -O2 it takes half as long again to compile and runs no faster
_OPTIONS = ("-O3", "--x-assign", "fast", "--noassert", "--output-split", "0", "-CFLAGS", "-fPIC -std=c++20")


def compile_library(
    design: Design,
    loop: Path,
    *,
    flags: Sequence[str] = (),
    headers: Mapping[str, str] = {},
    random_state: bool = False,
    coverage: bool = False,
    lint: bool = True,
    cache: Path = CACHE,
) -> Path:
    """Compile `design` with the C++ file `loop`, which sees it as the class `Vunit`, or find it compiled in `cache`.

    `headers` are files, by name, that the loop includes; `flags` go to the C++ compiler. `random_state` lets registers
    and memories start with random values; such a library runs slower. With `coverage` it counts lines and toggles. With
    `lint`, a warning is an error. Returns the
    library's path. Raises SimulationError where it does not compile.
    """
    options = [*_OPTIONS, *(word for flag in flags for word in ("-CFLAGS", flag))]
    options += ["--x-initial", *(("unique", "-CFLAGS", "-O0") if random_state else _FAST)]
    if any(port.name == "fault_select" for port in design.ports):  # what a fault replaces may be unused
        options += ["-Wno-UNUSEDSIGNAL", "-CFLAGS", "-DFGMP_FAULTS"]
    options += ["--coverage-line", "--coverage-toggle"] if coverage else []
    options += [] if lint else ["-Wno-fatal"]
    with tools("verilator") as tool_version:
        configuration = verilator_configuration(design)

        def build(folder: Path) -> None:
            files = {f"{design.name}.v": design.verilog, "configuration.vlt": configuration, **headers}
            for name, text in files.items():
                (folder / name).write_text(text)
            command = ["verilator", "--cc", "--exe", "--build", "-j", str(os.cpu_count() or 1), "-Wall", *options]
            command += ["--prefix", "Vunit", "--top-module", design.name, "--Mdir", ".", "-LDFLAGS", "-shared"]
            command += ["-o", _LIBRARY, "configuration.vlt", f"{design.name}.v", str(loop)]
            done = run_tool(command, cwd=folder)
            if done.returncode:
                exhausted(done.stdout, folder)
                message = "\n".join(done.stdout.splitlines()[-30:])
                raise SimulationError(f"{design.name}: build failed\n{message}")

        content = [design.verilog, configuration, loop.read_text(), *headers.values(), tool_version, options]
        content.append(_processor())
        whole = with_runtime(cache, ["library", tool_version, *options, _processor()], build)
        return cached_folder(cache, f"{design.name}-fast", content, whole) / _LIBRARY


def _processor() -> str:
    """The machine that `-march=native` compiled for: a cache may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("flags"))
    except (OSError, StopIteration):
        return ""
