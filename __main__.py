"""The command `fgmp`: finds the subcommand and imports only the package that owns it."""

import argparse
import importlib
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from . import __version__
from .errors import InputError

__all__ = ["main"]

_OWNERS = ("golden", "hdl", "sim", "synth")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (2 for bad input, with one line on standard error)."""
    parser = argparse.ArgumentParser(
        prog="fgmp", description="Fine-grained mixed precision: quantize, generate Verilog, prove it bit-exact."
    )
    parser.add_argument("--version", action="version", version=f"fgmp {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for owner in _OWNERS:
        # A package's cli module imports nothing heavy at the top, so that help is quick and needs no extras.
        commands = importlib.import_module(f".{owner}.cli", __package__).COMMANDS
        for name, (summary, description, add_arguments, run) in commands.items():
            sub = subparsers.add_parser(name, help=summary, description=description)
            add_arguments(sub)
            sub.set_defaults(run=run)
    args = parser.parse_args(argv)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)
    try:
        code: int = args.run(args)
        return code
    except InputError as error:
        print(f"fgmp: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"fgmp: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "fgmp":
            raise
        print(f"fgmp: module {error.name} is missing, install it with: pip install 'fgmp[all]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fgmp: interrupted", file=sys.stderr)
        return 130


def _end(number: int, _: object) -> NoReturn:
    """As an exception, so that what runs on our behalf ends too and nothing temporary is left."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
