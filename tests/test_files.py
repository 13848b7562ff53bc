"""Files that are written whole or not at all."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from fgmp.files import write_bytes, write_files, write_text


def test_files_are_whole_and_links_and_pipes_stay(tmp_path):
    place = tmp_path / "place"
    link = tmp_path / "link"
    link.symlink_to(place)
    write_text(link, "one")
    assert link.is_symlink()
    assert place.read_text() == "one"
    with pytest.raises(TypeError):
        write_bytes(link, "no bytes")
    assert place.read_text() == "one"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        read = pool.submit(pipe.read_text)
        write_text(pipe, "two")
        assert read.result(10) == "two"
    assert {p.name for p in tmp_path.iterdir()} == {"place", "link", "pipe"}


def test_no_files_are_written_without_complaint():
    write_files({})


def test_what_has_no_name_is_written_to(tmp_path):
    """A pipe at the end of /dev/stdout."""
    command = [sys.executable, "-m", "fgmp", "registers", "--format", "svd", "-o", "/dev/stdout"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"<?xml")
    assert list(tmp_path.iterdir()) == []
