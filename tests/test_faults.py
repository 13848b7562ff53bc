"""Faults of the world around: full disks, small limits, signals, damaged caches, leftovers of killed processes."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from fgmp import cache as caches
from fgmp.__main__ import main
from fgmp.cache import cached, cached_folder, clear, entries
from fgmp.errors import DifferenceError
from fgmp.files import remove_stale, staged, whole_file, whole_files, write_files
from fgmp.processes import exhausted, run_tool
from fgmp.quantizer.model.language_model import SHIPPED_MODEL

from .conftest import with_long

ROOT = Path(__file__).parent.parent


def fgmp(*arguments, cwd, limits=(), **kwargs):
    def limit():
        for name, value in limits:
            resource.setrlimit(name, (value, value))

    return subprocess.run(
        [sys.executable, "-m", "fgmp", *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
        preexec_fn=limit, **kwargs,
    )  # fmt: skip


def tree(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if "__pycache__" not in p.parts)


# Full disks: a file system of a few blocks, in a mount namespace of its own.

SMALL_DISK = """
mount -t tmpfs -o size="$1" none "$2" && cd "$2" && shift 2 || exit 99
"$@" >&2
code=$?
find . -mindepth 1
exit $code
"""


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """Runs a command in an empty file system of a given size; gives its exit code, its messages, what it left there."""
    place = tmp_path_factory.mktemp("disk")
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]

    def run(size, *command):
        done = subprocess.run(
            [*unshare, "/bin/sh", "-c", SMALL_DISK, "sh", size, str(place), *map(str, command)],
            capture_output=True, text=True,
        )  # fmt: skip
        return done.returncode, done.stderr, done.stdout.splitlines()

    if shutil.which("unshare") is None or run("64k", "true") != (0, "", []):
        pytest.skip("a full disk needs leave to mount one")
    return run


TEXT = "The quick brown fox jumps over the lazy dog. " * 3000
WRITERS = {
    "verilog": ["verilog", "engine-4", "-o", "new/out"],
    "vectors": ["vectors", "selector", "--count", "3000", "-o", "new/out"],
    "quantize": ["quantize", SHIPPED_MODEL, "new/out", "--samples", "2", "--window", "64", "--threshold-samples", "1"],
    "evaluate": ["evaluate", SHIPPED_MODEL, "--max-tokens", "100", "--samples", "2", "--calibration-window", "64",
                 "--formats", "fp8", "--plot", "new/plot.png"],
    "export": ["export", "engine-4", "-o", "new/out"],
    "fpga": ["synth", "fpga", "decoder-e2m1", "--target", "ice40", "--seeds", "1", "--cache", "new/cache"],
    "simulate": ["simulate", "selector-flat", "--no-model", "--count", "20"],
    "train": ["train", "-o", "new/out", "--steps", "1"],
}  # fmt: skip


@pytest.mark.parametrize("name", with_long(WRITERS, "train"))
def test_a_full_disk_is_one_line_that_names_the_file_and_leaves_nothing(name, small_disk, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    more = {"quantize": ["--calibration", text], "evaluate": ["--text", text, "--calibration", text]}.get(name, [])
    command = [sys.executable, "-m", "fgmp", *WRITERS[name], *more]
    code, said, left = small_disk("8k" if name in ("evaluate", "fpga") else "64k", *command)
    assert code == 2, said
    last = said.splitlines()[-1]
    assert last.startswith("fgmp: "), said
    assert "No space left on device" in last, said
    assert "new/" in last or "out/" in last, said
    assert "Traceback" not in said
    # The lock of a cache is empty and stays.
    assert [path for path in left if not path.endswith(".lock") and path not in ("./out", "./out/simulators")] == []


def test_a_device_that_is_full(tmp_path, capsys):
    from .test_synth import LIBRARY

    arguments = ["synth", "asic", "decoder-e2m1", "--liberty", str(LIBRARY), "--cache", str(tmp_path)]
    assert main([*arguments, "--no-energy", "-o", "/dev/full"]) == 2
    assert capsys.readouterr().err == "fgmp: /dev/full: No space left on device\n"


def test_many_files_are_written_all_or_none(tmp_path):
    old = tmp_path / "a"
    old.write_text("old")
    with pytest.raises(TypeError):
        write_files({old: b"new", tmp_path / "folder" / "b": "no bytes"})
    assert old.read_text() == "old"
    assert tree(tmp_path) == ["a"]
    with pytest.raises(OSError, match="No space") as caught, whole_files([old, tmp_path / "folder" / "b"]) as names:
        raise OSError(errno.ENOSPC, "No space left on device", str(names[1]))
    assert caught.value.filename == str(tmp_path / "folder" / "b")
    assert tree(tmp_path) == ["a"]
    with staged(tmp_path / "out") as folder:
        (folder / "x").mkdir()
        (folder / "x" / "y").write_text("1")
        assert not (tmp_path / "out").exists()
    assert tree(tmp_path) == ["a", "out", "out/x", "out/x/y"]
    with pytest.raises(OSError, match="No space") as caught, staged(tmp_path / "deep" / "out") as folder:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "z"))
    assert caught.value.filename == str(tmp_path / "deep" / "out" / "z")
    assert tree(tmp_path) == ["a", "out", "out/x", "out/x/y"]


def test_what_libraries_say_is_understood(tmp_path):
    for text, code in (
        ("Error while serializing: I/O error: No space left on device (os error 28)", errno.ENOSPC),
        ("I/O error (os error 24)", errno.EMFILE),
        ("fatal: cannot write: Read-only file system", errno.EROFS),
    ):
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            exhausted(text, tmp_path)
        assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path))
    with pytest.raises(MemoryError):
        exhausted("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes", tmp_path)
    exhausted("a plain defect", tmp_path)


# Limits


def test_little_memory_is_one_line(tmp_path):
    (tmp_path / "text.txt").write_text(8 * TEXT)
    arguments = ["evaluate", SHIPPED_MODEL, "--text", "text.txt", "--batch", "4000", "--window", "512"]
    # Enough for libraries and tokenizer, which aborts where it gets none, and far too little for such a batch.
    done = fgmp(*arguments, cwd=tmp_path, limits=[(resource.RLIMIT_AS, 2_000_000_000)])
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("fgmp: "), done.stderr
    assert "Traceback" not in done.stderr


def test_few_open_files_are_one_line(tmp_path):
    done = fgmp("verilog", "decoder-e4m3", "-o", "out", cwd=tmp_path, limits=[(resource.RLIMIT_NOFILE, 5)])
    assert done.returncode == 2, done.stderr
    assert "ulimit -n" in done.stderr
    assert done.stderr.count("\n") == 1
    assert tree(tmp_path) == []


# Exit codes


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (DifferenceError("lane: 3 of 7 comparisons differ"), 1, "fgmp: lane: 3 of 7 comparisons differ\n"),
        (ZeroDivisionError("a defect"), 70, "please report"),
        (MemoryError(), 2, "fgmp: memory: "),
        (OSError(errno.EMFILE, "Too many open files"), 2, "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device", "x/y"), 2, "fgmp: x/y: No space left on device\n"),
        (KeyboardInterrupt(), 130, "fgmp: interrupted\n"),
    ],
)
def test_exit_codes(raised, code, said, monkeypatch, capsys):
    from fgmp.hdl import design as designs

    def fail(*_, **__):
        raise raised

    monkeypatch.setattr(designs, "build_preset", fail)
    assert main(["verilog", "lane"]) == code
    assert said in capsys.readouterr().err


def test_a_reader_that_leaves_early_hears_nothing(tmp_path):
    command = f"{sys.executable} -m fgmp verilog | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode in (0, 141)


# Signals


def children(folder):
    """Live processes that work in `folder`, but for zombies."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = Path(os.readlink(process / "cwd")).is_relative_to(folder)
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if inside and state != "Z" and int(process.name) != os.getpid():
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_compiler_outlives_us_and_the_next_run_is_right(number, code, tmp_path):
    """Signals during a simulator's compilation: one line at most, no orphans, nothing that stays in the way."""
    arguments = [sys.executable, "-m", "fgmp", "simulate", "selector-flat", "--count", "20", "--no-model"]
    heard = ["env", "--default-signal=INT", *arguments]  # what we run in may ignore it
    process = subprocess.Popen(heard, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert wait_for(lambda: any("cc1plus" in command for command in children(tmp_path)), 120)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.count("\n") <= 1, err
    assert out == ""
    assert wait_for(lambda: not children(tmp_path), 20), children(tmp_path)
    if number == signal.SIGTERM:
        assert not [name for name in tree(tmp_path) if "partial" in name]
    if number == signal.SIGKILL:
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "differences 0" in done.stdout
        assert not [name for name in tree(tmp_path) if "partial" in name]


def test_a_tool_ends_with_what_interrupts_us(tmp_path):
    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(Stop):
            run_tool(["/bin/sh", "-c", "sleep 60 & sleep 60"], cwd=tmp_path)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert wait_for(lambda: not children(tmp_path), 10), children(tmp_path)
    assert run_tool(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], cwd=tmp_path).returncode == 3
    assert run_tool(["/bin/sh", "-c", "echo out; echo err >&2"], cwd=tmp_path).stdout == "out\nerr\n"


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from fgmp.files import whole_file, staged\n"
        "with whole_file(Path('dead.txt')) as p, staged(Path('dead')) as f:\n"
        "    p.write_text('x'); (f / 'y').write_text('y'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path)
    assert len([n for n in tree(tmp_path) if n.endswith(".partial")]) == 2
    foreign = tmp_path / f"x.{'0' * 8}-1-1-{'0' * 32}.partial"  # of another machine, and young
    foreign.write_text("")
    named = tmp_path / "mine.partial"  # not one of ours
    named.write_text("")
    with whole_file(tmp_path / "new.txt") as partial:
        partial.write_text("z")
        remove_stale(tmp_path)
        assert partial.exists()
        assert sorted(tree(tmp_path)) == sorted(["mine.partial", foreign.name, partial.name])
    os.utime(foreign, (0, 0))
    remove_stale(tmp_path)
    assert tree(tmp_path) == ["mine.partial", "new.txt"]


# Caches


def damage(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "not executable":
        path.chmod(0o644)
    elif how == "missing":
        path.unlink()


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "not executable", "missing"])
def test_a_damaged_folder_is_built_again(how, tmp_path):
    built = []

    def build(folder):
        built.append(folder)
        (folder / "simulator").write_bytes(bytes(range(200)))
        (folder / "simulator").chmod(0o755)
        (folder / "left.o").write_text("object")

    def get():
        return cached_folder(tmp_path, "unit", ["content"], build)

    folder = get()
    assert get() == folder
    assert len(built) == 1
    assert not (folder / "left.o").exists()
    damage(folder / "simulator", how)
    assert (get() / "simulator").read_bytes() == bytes(range(200))
    assert os.access(folder / "simulator", os.X_OK)
    assert len(built) == 2
    assert cached_folder(tmp_path, "unit", ["other content"], build) != folder


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "missing"])
def test_a_damaged_result_is_made_again(how, tmp_path):
    made = []

    def make():
        made.append(1)
        return {"energy": [1.5, 2.5] * 50}

    expected = cached(tmp_path, "energy", {"a": 1}, make)
    (path,) = tmp_path.iterdir()
    damage(path, how)
    assert cached(tmp_path, "energy", {"a": 1}, make) == expected
    assert cached(tmp_path, "energy", {"a": 1}, make) == expected
    assert len(made) == 2


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def build(folder):
        (folder / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "half"))

    with pytest.raises(OSError, match="No space"):
        cached_folder(tmp_path, "unit", ["content"], build)
    assert [name for name in tree(tmp_path) if not name.endswith(".lock")] == []


def test_a_cache_forgets_what_was_used_longest_ago(tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "_IN_USE_SECONDS", -1)
    sizes = []
    for index in range(6):
        cached(tmp_path, "kind", {"index": index}, lambda: os.urandom(2000).hex())
        sizes.append(sum(entry.bytes for entry in entries(tmp_path)))
        for entry in entries(tmp_path):  # all are old, in the order in which they were made
            os.utime(entry.path, (entry.used - 10, entry.used))
    assert sizes == sorted(sizes)
    monkeypatch.setattr(caches, "LIMIT_BYTES", 3 * sizes[0])
    newest = max(entries(tmp_path), key=lambda entry: entry.used).path
    cached(tmp_path, "kind", {"index": 9}, lambda: os.urandom(2000).hex())
    assert sum(entry.bytes for entry in entries(tmp_path)) <= 3 * sizes[0]
    assert newest.exists()
    assert clear(tmp_path) > 0
    assert list(entries(tmp_path)) == []


def test_the_command_shows_and_clears_caches(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cached(caches.SYNTHESIS, "kind", {}, lambda: "x" * 5000)
    cached_folder(caches.SIMULATORS, "unit", [], lambda folder: (folder / "a").write_text("a"))
    assert main(["cache", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {name: what["entries"] for name, what in report["folders"].items()} == {
        "out/simulators": 1, "out/synth": 1,
    }  # fmt: skip
    assert main(["cache", "--clear"]) == 0
    assert "1 entries" in capsys.readouterr().out
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_outputs_are_checked_before_work(tmp_path, capsys, monkeypatch):
    """A place that cannot be written is refused at once, by every command."""
    from fgmp.quantizer.commands import evaluate as evaluation
    from fgmp.quantizer.commands import quantize as job

    (tmp_path / "file").write_text("")
    (tmp_path / "text.txt").write_text(TEXT)
    inside = tmp_path / "file" / "x"

    def never(*_, **__):
        raise AssertionError("work has begun")

    monkeypatch.setattr(evaluation, "load_model", never)
    monkeypatch.setattr(job, "load_model", never)
    text = str(tmp_path / "text.txt")
    for arguments in (
        ["evaluate", str(SHIPPED_MODEL), "--text", text, "--plot", f"{inside}.svg"],
        ["quantize", str(SHIPPED_MODEL), str(inside), "--calibration", text],
        ["verilog", "lane", "-o", str(inside)],
        ["vectors", "lane", "-o", str(inside)],
        ["simulate", "lane", "--waves", f"{inside}.fst"],
        ["demo", "-o", str(inside)],
        ["train", "-o", str(inside)],
        ["export", "lane", "-o", str(inside)],
        ["synth", "fpga", "lane", "-o", str(inside)],
        ["synth", "asic", "lane", "-o", str(inside)],
        ["energy", "-o", str(inside)],
    ):
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert str(inside) in error, error


# Found by using it in other ways


def test_folders_of_others_are_not_taken_for_ours(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    (tmp_path / "u.partial").mkdir()
    (tmp_path / "u.partial" / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    more = ["--calibration", str(text), "--samples", "1", "--window", "32"]
    for name, message in (("u", "holds what is not ours"), ("link", "a link that leads nowhere")):
        assert main(["quantize", str(SHIPPED_MODEL), str(tmp_path / name), *more]) == 2
        assert message in capsys.readouterr().err
    assert tree(tmp_path) == ["link", "text.txt", "u.partial", "u.partial/mine.txt"]


def test_entries_that_belong_elsewhere_are_made_again(tmp_path):
    def get(name):
        return cached(tmp_path, "netlist", {"unit": name}, lambda: {"of": name})

    assert [get("a"), get("b")] == [{"of": "a"}, {"of": "b"}]
    first, second = sorted(tmp_path.iterdir())
    for content in (second.read_bytes(), zlib.compress(b"null"), zlib.compress(b"[1]"), zlib.compress(b'{"value": 5}')):
        first.write_bytes(content)
        assert [get("a"), get("b")] == [{"of": "a"}, {"of": "b"}]
    first.unlink()
    first.mkdir()
    assert [get("a"), get("b")] == [{"of": "a"}, {"of": "b"}]


def test_folders_that_belong_elsewhere_are_built_again(tmp_path):
    def get(name):
        return (cached_folder(tmp_path, name, [name], lambda f: (f / "x").write_text(name)) / "x").read_text()

    assert [get("a"), get("b")] == ["a", "b"]
    a, b = (next(tmp_path.glob(f"{name}-*[0-9a-f]")) for name in "ab")
    shutil.rmtree(a)
    shutil.copytree(b, a)
    assert get("a") == "a"
    (a / "link").symlink_to("nowhere")
    assert get("a") == "a"
    assert not (a / "link").is_symlink()
    shutil.rmtree(a)
    a.write_text("a file")
    assert get("a") == "a"


def test_workers_end_with_who_started_them(tmp_path):
    worker = "import time; from fgmp.processes import end_with_parent as e; e(); print(1, flush=True); time.sleep(99)"
    code = (
        "import subprocess, sys, os, signal; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
        "stdout=subprocess.PIPE); p.stdout.readline(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, worker], cwd=tmp_path)
    assert wait_for(lambda: not children(tmp_path), 20), children(tmp_path)


def test_nobody_listens(tmp_path):
    for shell, code in (
        ("{} inspect /nowhere 2>/dev/full", 2),
        ("{} inspect /nowhere 2>&-", 2),
        ("{} cache >&-", 0),
        ("{} cache >/dev/full", 2),
    ):
        command = shell.format(f"{sys.executable} -m fgmp")
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, (shell, done.stderr)
        assert "Traceback" not in done.stderr


def test_odd_paths_and_numbers_are_one_line(tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    loop = str(tmp_path / "loop")
    for arguments in (
        ["verilog", "decoder-e2m1", "-o", loop],
        ["verilog", "decoder-e2m1", "-o", f"{loop}/x"],
        ["vectors", "lane", "--count", "1", "-o", loop],
        ["export", "decoder-e2m1", "-o", loop],
        ["simulate", "lane", "--waves", f"{loop}/x.fst"],
        ["train", "-o", loop],
        ["energy", "-o", loop],
        ["inspect", str(tmp_path / "a\nb")],
        ["verilog", "lane", "--set", "pipeline=" + "9" * 5000],
        ["verilog", "lane", "--set", "pipeline=\u0663"],
    ):
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert len(error) < 2000


def test_json_has_no_nan_and_text_no_byte_order_mark(tmp_path, capsys):
    results = []
    for name, encoding in (("a", "utf-8"), ("b", "utf-8-sig")):
        path = tmp_path / name
        path.write_text(TEXT, encoding)
        assert main(["evaluate", str(SHIPPED_MODEL), "--text", str(path), "--max-tokens", "40", "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out, parse_constant=pytest.fail))
    assert results[0] == results[1]
    assert results[0]["rows"][0]["perplexity"]["error"] is None
