"""The tutorials' commands run, in the order of the page, in a folder of their own, and print what the page shows.

A line `...` stands for any lines, and `...` within one for any characters: what is measured is not typed into a page.
"""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

pytestmark = pytest.mark.long

TUTORIALS = ROOT / "docs" / "tutorials"
BLOCK = re.compile(r"^```(console|toml|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUICK = ("sweep", "vectors", "decoding", "verify", "start")
SLOW = ("quantize", "engine")
"""Which simulate an engine; each on the other worker."""


def steps(page):
    """Files that a page has its reader write, and commands with what they print, in order."""
    for language, block in BLOCK.findall((TUTORIALS / f"{page}.md").read_text()):
        first = block.splitlines()[0]
        if language == "console":
            for command, printed in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n?)*)", block, re.MULTILINE):
                yield "run", command, printed
        elif named := re.fullmatch(r"# ([\w./-]+\.\w+)", first):
            yield "file", named[1], block


def follow(page, folder):
    """Do what a page says in `folder`, which has what a clone has."""
    for name in ("quantizer", "examples", "docs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "out").mkdir()
    for name in ("simulators", "synth"):
        (ROOT / "out" / name).mkdir(parents=True, exist_ok=True)
        (folder / "out" / name).symlink_to(ROOT / "out" / name)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    count = 0
    for kind, what, text in steps(page):
        if kind == "file":
            (folder / what).write_text(text)
            continue
        command = re.sub(r"#.*", "", what).replace("fgmp ", f"{sys.executable} -m fgmp ", 1)
        done = subprocess.run(
            ["bash", "-ec", command], cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path}
        )
        expected_code = 1 if what.startswith("fgmp doctor") else 0  # of what is optional, something lacks
        assert done.returncode in (0, expected_code), f"{what}\n{done.stdout}{done.stderr}"
        if text and ">" not in what:
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(text, done.stdout, flags), f"{what}\n{done.stdout}"
        count += 1
    return count


@pytest.mark.parametrize("page", QUICK)
def test_quick_tutorials(page, tmp_path):
    assert follow(page, tmp_path) >= 1


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.xdist_group(f"tutorial-{page}")) for page in SLOW]
)
def test_tutorials_that_simulate_engines(page, tmp_path):
    assert follow(page, tmp_path) >= 4


def test_every_tutorial_with_commands_is_followed():
    pages = {path.stem for path in TUTORIALS.glob("*.md") if "```console" in path.read_text()}
    assert pages == {*QUICK, *SLOW}


def test_the_tutorial_of_verification_runs_in_a_project(tmp_path):
    """Its two files are a project's own tests."""
    files = {what: text for kind, what, text in steps("verify") if kind == "file"}
    assert files.keys() == {"conftest.py", "test_rtl.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    run = [sys.executable, "-m"]
    (told,) = [what for kind, what, _ in steps("verify") if what.startswith("fgmp verilog")]
    subprocess.run([*run, *told.split()], cwd=tmp_path, check=True)
    done = subprocess.run(
        [*run, "pytest", "-q", "-p", "no:cacheprovider"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_python_of_the_tutorial_about_vectors_runs():
    (code,) = [
        block for language, block in BLOCK.findall((TUTORIALS / "vectors.md").read_text()) if language == "python"
    ]
    names = {}
    exec(compile(code, "vectors.md", "exec"), names)
    assert tuple(names["result"].shape) == (8, 32)
