"""Fuzzes readers: `python -m fuzz TARGET --seconds 1800`, from the root of the repository.

With atheris (`pip install atheris`) the mutations that reach new code are kept and changed again; without it, or with
--random, every change is of a seed. What is found lies in out/fuzz/TARGET, and `python -m fuzz TARGET FILE` repeats it.
"""

import argparse
import faulthandler
import hashlib
import random
import sys
import time
import traceback
from pathlib import Path

from .targets import TARGETS, Target, attempt

SLOW_SECONDS = 20


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("file", nargs="?", type=Path, help="only read this file")
    parser.add_argument("--seconds", type=float, default=60, help="default 60")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", action="store_true", help="without atheris")
    args = parser.parse_args()
    target = TARGETS[args.target]
    if args.file:
        print(attempt(target, args.file.read_bytes()) or "read without complaint")
        return 0
    faulthandler.enable()
    if not args.random:
        try:
            return guided(target, args.seconds, args.seed)
        except ModuleNotFoundError:
            print("atheris is not installed: random changes", file=sys.stderr)
    return by_chance(target, args.seconds, args.seed)


def kept(target: Target, data: bytes) -> Path:
    """Where a finding is written."""
    path = Path("out/fuzz") / target.name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tried(target: Target, data: bytes) -> bool:
    """Read once; whether nothing was found."""
    begin = time.monotonic()
    try:
        attempt(target, data)
    except Exception:
        print(f"finding: {kept(target, data)}\n{traceback.format_exc()}", flush=True)
        return False
    if time.monotonic() - begin > SLOW_SECONDS:
        print(f"finding: {kept(target, data)}: {time.monotonic() - begin:.0f} s", flush=True)
        return False
    return True


def by_chance(target: Target, seconds: float, seed: int) -> int:
    """Changes of seeds, one after the other."""
    chance, seeds = random.Random(seed), target.seeds()
    end, count, findings = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        findings += not tried(target, target.mutate(chance.choice(seeds), chance))
        count += 1
    print(f"{target.name}: {count:,} files, {findings} findings")
    return 1 if findings else 0


def guided(target: Target, seconds: float, seed: int) -> int:
    """Changes of whatever reached new code."""
    import atheris

    corpus = Path("out/fuzz") / f"{target.name}-corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in target.seeds():
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    for name, module in list(sys.modules.items()):
        if name.startswith("fgmp."):
            for function in [f for f in vars(module).values() if getattr(f, "__module__", "") == name]:
                if hasattr(function, "__code__"):
                    atheris.instrument_func(function)
    found: list[bool] = []
    count = [0]

    def one(data: bytes) -> None:
        count[0] += 1
        if not tried(target, data):
            found.append(True)

    def change(data: bytes, most: int, state: int) -> bytes:
        try:
            return target.mutate(data, random.Random(state))[:most]
        except Exception:  # a file that was changed so often that it has no structure left
            return atheris.Mutate(data, most)

    options = [sys.argv[0], str(corpus), f"-max_total_time={seconds:.0f}", f"-seed={seed}", "-max_len=2000000",
               "-len_control=0", "-verbosity=0", "-rss_limit_mb=8000", f"-timeout={5 * SLOW_SECONDS}"]  # fmt: skip
    atheris.Setup(options, one, custom_mutator=change, internal_libfuzzer=True)

    def told() -> None:
        print(f"{target.name}: {count[0]:,} files, {len(found)} findings", flush=True)

    import atexit

    atexit.register(told)
    atheris.Fuzz()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
