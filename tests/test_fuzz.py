"""Readers under changed files, for a short while: `python -m fuzz TARGET` goes on for as long as one likes."""

import random
import subprocess
import sys

import pytest

from fgmp.errors import InputError

from .conftest import ROOT

sys.path.insert(0, str(ROOT))  # `fuzz` is a command of the repository, no part of the package

from fuzz import NAMES
from fuzz.targets import TARGETS, Target, attempt

COUNTS = {"packed": 1500, "folder": 400, "foreign": 800, "liberty": 1500, "sweep": 3000, "prices": 1500, "report": 40}


@pytest.fixture(scope="module", params=TARGETS.values(), ids=list(TARGETS))
def target(request):
    return request.param


def test_seeds_are_read(target):
    seeds = target.seeds()
    assert seeds
    for data in seeds:
        assert attempt(target, data) is None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of matplotlib, about numbers that cannot be drawn
def test_changed_files_are_read_or_refused(target):
    chance, seeds = random.Random(20), target.seeds()
    read = refused = 0
    for _ in range(COUNTS[target.name]):
        if attempt(target, target.mutate(chance.choice(seeds), chance)) is None:
            read += 1
        else:
            refused += 1
    # Mutations that no file survives, or that break none, would test nothing.
    assert read > 0.01 * COUNTS[target.name]
    assert refused > 0.05 * COUNTS[target.name]


def test_all_readers_are_named():
    assert set(NAMES) == set(TARGETS) == set(COUNTS)


def test_a_defect_is_a_finding(tmp_path):
    def read(data):
        if data == b"refused":
            raise InputError("no")
        raise KeyError

    broken = Target("broken", lambda: [b""], lambda data, chance: data, read)
    assert attempt(broken, b"refused") == "no"
    with pytest.raises(KeyError):
        attempt(broken, b"x")


def test_the_command_tells_what_it_found(tmp_path):
    run = [sys.executable, "-m", "fuzz", "prices", "--seconds", "1", "--random"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "prices: " in done.stdout
    assert " 0 findings" in done.stdout
    (tmp_path / "bad.json").write_text("{")
    done = subprocess.run([*run[:4], str(tmp_path / "bad.json")], cwd=ROOT, capture_output=True, text=True)
    assert "no prices in it" in done.stdout
