"""Verilator's model of a unit and a C++ loop around it, compiled into a shared library: what fast benches load."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..cache import SIMULATORS as CACHE
from ..cache import cached_folder
from ..files import whole_files
from ..hdl.design import Design
from ..processes import exhausted, run_tool
from .runner import SimulationError, tools, verilator_configuration
from .runtime import with_runtime
from .waves.recording import check_headers, check_recorded, trace_format
from .waves.view import make_view
from .waves.viewers import view_files, view_folder

__all__ = ["compile_library", "recorded", "recording"]

_TRACE = Path(__file__).with_name("trace.h")
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
    trace: str | None = None,
    cache: Path = CACHE,
) -> Path:
    """Compile `design` with the C++ file `loop`, which sees it as the class `Vunit`, or find it compiled in `cache`.

    `headers` are files, by name, that the loop includes; `flags` go to the C++ compiler. `random_state` lets registers
    and memories start with random values; such a library runs slower. With `coverage` it counts lines and toggles. With
    `lint`, a warning is an error. `trace` is one of `waves.recording.TRACES`, as which a run may then be recorded;
    waveforms have the unit's view in them. Returns the library's path. Raises InputError where what FST needs is
    missing, SimulationError where it does not compile.
    """
    sources = {f"{design.name}.v": design.verilog}
    if trace in ("fst", "vcd"):
        sources[f"{design.name}_view.sv"] = make_view(design).verilog
    headers = {"trace.h": _TRACE.read_text(), **headers}
    options = [*_OPTIONS, "--x-initial", *(("unique", "-CFLAGS", "-O0") if random_state else _FAST)]
    options += ["--coverage-line", "--coverage-toggle"] if coverage else []
    options += [f"--trace-{trace}", "--timescale", "1ns/1ns"] if trace else []
    runtime = ["library", *options, _processor()]  # what follows is of the unit and its loop alone
    options += [] if lint else ["-Wno-fatal"]
    if any(port.name == "fault_select" for port in design.ports):  # what a fault replaces may be unused
        options += ["-Wno-UNUSEDSIGNAL", "-CFLAGS", "-DFGMP_FAULTS"]
    options += [word for flag in flags for word in ("-CFLAGS", flag)]
    with tools("verilator") as tool_version:
        check_headers(trace)
        configuration = verilator_configuration(design)

        def build(folder: Path) -> None:
            files = {**sources, "configuration.vlt": configuration, **headers}
            for name, text in files.items():
                (folder / name).write_text(text)
            command = ["verilator", "--cc", "--exe", "--build", "-j", str(os.cpu_count() or 1), "-Wall", *options]
            command += ["--prefix", "Vunit", "--top-module", design.name, "--Mdir", ".", "-LDFLAGS", "-shared"]
            command += ["-o", _LIBRARY, "configuration.vlt", *sources, str(loop)]
            done = run_tool(command, cwd=folder)
            if done.returncode:
                exhausted(done.stdout, folder)
                message = "\n".join(done.stdout.splitlines()[-30:])
                raise SimulationError(f"{design.name}: build failed\n{message}")

        content = [*sources.values(), configuration, loop.read_text(), *headers.values(), tool_version, options]
        content.append(_processor())
        whole = with_runtime(cache, [tool_version, *runtime], build)
        return cached_folder(cache, f"{design.name}-fast", content, whole) / _LIBRARY


@contextmanager
def recording(stop: Callable[[], int], path: Path) -> Iterator[None]:
    """Ends a recording at `path` by `stop`, which says whether all of it is there.

    A simulation that fails is what matters, so a disk that was full is then but a line beside it. Raises OSError if the
    disk was full, SimulationError as the block does.
    """
    try:
        yield
    except SimulationError as error:
        if not stop():
            raise SimulationError(f"{error}\nthe recording ends early: the disk was full") from error
        raise
    except BaseException:
        stop()
        raise
    check_recorded(stop(), path)


@contextmanager
def recorded(design: Design, path: Path) -> Iterator[Path]:
    """A name to record under. The recording is at `path` afterwards, with its view beside it, if it is of waveforms.

    That is so also where the simulation fails, which is when waveforms are wanted.
    """
    view = {} if trace_format(path) == "saif" else view_files(design)
    failed: SimulationError | None = None
    with whole_files([path, *(view_folder(path) / name for name in view)]) as (partial, *others):
        try:
            yield partial
        except SimulationError as error:
            failed = error
            if not partial.exists():  # there was no room for its beginning
                raise
        for place, text in zip(others, view.values(), strict=True):
            place.write_text(text, encoding="utf-8")
    if failed is not None:
        raise SimulationError(f"{failed}\nrecorded in {path}") from failed


def _processor() -> str:
    """The machine that `-march=native` compiled for: a cache may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("flags"))
    except (OSError, StopIteration):
        return ""
