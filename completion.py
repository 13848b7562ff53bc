"""`fgmp completion`: what a shell needs to complete commands and options."""

import argparse

__all__ = ["COMMANDS"]

_SHELLS = ("bash", "zsh", "tcsh")


def _add_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", help=", ".join(_SHELLS))


def _completion(args: argparse.Namespace) -> int:
    import shtab

    from .__main__ import build_parser
    from .errors import InputError

    if args.shell not in _SHELLS:
        raise InputError(f"shell: {args.shell!r}, expected one of {', '.join(_SHELLS)}")
    print(shtab.complete(build_parser(), shell=args.shell))
    return 0


COMMANDS = {
    "completion": (
        "print what a shell needs to complete commands and options",
        "For bash, zsh or tcsh.\n"
        "\n  fgmp completion bash > ~/.local/share/bash-completion/completions/fgmp"
        "\n  fgmp completion zsh > ~/.zfunc/_fgmp",
        _add_completion,
        _completion,
    )
}
