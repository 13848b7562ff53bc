"""Fuzzes readers: `python -m fuzz TARGET --seconds 1800`, from the root of the repository.

With atheris (`pip install atheris`) the mutations that reach new code are kept and changed again; without it, or with
--random, every change is of a seed. What is found lies in out/fuzz/TARGET, and `python -m fuzz TARGET FILE` repeats it.
"""

import argparse
import faulthandler
import hashlib
import importlib.util
import random
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from . import NAMES

if TYPE_CHECKING:
    from .targets import Target

OUT = Path("out/fuzz")
SLOW_SECONDS = 20


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("file", nargs="?", type=Path, help="only read this file")
    parser.add_argument("--seconds", type=float, default=60, help="default 60")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", action="store_true", help="without atheris")
    parser.add_argument("--instrumented", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.instrumented:
        guided(args.target, args.seconds, args.seed)
    if args.file:
        from .targets import TARGETS, attempt

        print(attempt(TARGETS[args.target], args.file.read_bytes()) or "read without complaint")
        return 0
    begun = time.time()
    if args.random or importlib.util.find_spec("atheris") is None:
        count = by_chance(args.target, args.seconds, args.seed)
    else:
        # libFuzzer ends its process.
        command = [sys.executable, "-m", "fuzz", args.target, "--instrumented"]
        subprocess.run([*command, "--seconds", str(args.seconds), "--seed", str(args.seed)], check=True)
        count = int(counter(args.target).read_text())
    found = [path for path in (OUT / args.target).glob("*") if path.stat().st_mtime >= begun]
    print(f"{args.target}: {count:,} files, {len(found)} findings")
    return 1 if found else 0


def counter(name: str) -> Path:
    """Where a run tells how far it is."""
    return OUT / f"{name}-count"


def tried(target: "Target", data: bytes) -> None:
    """Read once; a finding is written and printed."""
    from .targets import attempt

    begin, what = time.monotonic(), ""
    try:
        attempt(target, data)
    except Exception:
        what = traceback.format_exc()
    seconds = time.monotonic() - begin
    if seconds > SLOW_SECONDS:
        what = f"{seconds:.0f} s"
    if what:
        path = OUT / target.name / hashlib.sha256(data).hexdigest()[:16]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        print(f"finding: {path}\n{what}", flush=True)


def by_chance(name: str, seconds: float, seed: int) -> int:
    """Changes of seeds, one after the other; returns how many."""
    from .targets import TARGETS

    target = TARGETS[name]
    chance, seeds = random.Random(seed), target.seeds()
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        tried(target, target.mutate(chance.choice(seeds), chance))
        count += 1
    return count


def guided(name: str, seconds: float, seed: int) -> None:
    """Changes of whatever reached new code; ends the process."""
    import atheris

    faulthandler.enable()
    with atheris.instrument_imports(include=["fgmp"]):
        from .targets import TARGETS
    target = TARGETS[name]
    corpus = OUT / f"{name}-corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in target.seeds():
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    count, told = 0, 0.0

    def one(data: bytes) -> None:
        nonlocal count, told
        tried(target, data)
        count += 1
        if time.monotonic() > told + 1:
            told = time.monotonic()
            counter(name).write_text(str(count))

    def change(data: bytes, most: int, state: int) -> bytes:
        try:
            return target.mutate(data, random.Random(state))[:most]
        except Exception:  # a file that was changed so often that it has no structure left
            return atheris.Mutate(data, most)

    options = [sys.argv[0], str(corpus), f"-max_total_time={seconds:.0f}", f"-seed={seed}", "-max_len=2000000",
               "-len_control=0", "-verbosity=0", "-rss_limit_mb=8000", f"-timeout={5 * SLOW_SECONDS}"]  # fmt: skip
    atheris.Setup(options, one, custom_mutator=change, internal_libfuzzer=True)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
