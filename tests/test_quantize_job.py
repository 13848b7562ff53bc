"""`fgmp quantize`, `evaluate` and `inspect` as people run them: killed, restarted, in several processes, misused."""

import hashlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.quantizer import FGMPConfig, load
from fgmp.quantizer.calibrate.resume import Checkpoint
from fgmp.quantizer.choose.joint import SCORE_EDGES
from fgmp.quantizer.model.default_text import read_corpus
from fgmp.quantizer.model.language_model import SHIPPED_MODEL, load_model, windows
from fgmp.quantizer.study import Study
from fgmp.report.build import section_of

# One quantized folder serves all tests: they stay with one worker, but for those that need none.
QUANTIZED = pytest.mark.xdist_group("quantized")
SAMPLES = 6
OPTIONS = ("--samples", str(SAMPLES), "--threshold-samples", "2", "--window", "128", "--checkpoint-every", "0")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    corpus = read_corpus()
    (folder / "train.txt").write_text(corpus.train[:300_000])
    (folder / "test.txt").write_text(corpus.held_out[:6_000])
    return folder


def command(out, texts, *more):
    return ["quantize", str(SHIPPED_MODEL), str(out), "--calibration", str(texts / "train.txt"), *OPTIONS, *more]


def start(arguments, **kwargs):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "fgmp", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment, **kwargs,
    )  # fmt: skip


def finish(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def quantized(texts, tmp_path_factory):
    """An undisturbed run, in a process of its own with one thread."""
    out = tmp_path_factory.mktemp("quantized") / "model"
    started = time.monotonic()
    text = finish(start(command(out, texts)))
    return out, text, time.monotonic() - started


@QUANTIZED
def test_quantize_prints_what_it_made_and_leaves_nothing_else(quantized):
    out, text, _ = quantized
    assert "21 linears, 1,671,168 weights in " in text
    assert "below FP8\nexpected: " in text
    assert "activations x weights: FP4xFP4 " in text
    assert [p.name for p in out.parent.iterdir()] == ["model"]
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= {
        p.name for p in out.iterdir()
    }


@pytest.mark.long
@QUANTIZED
def test_kill_at_random_moments_and_restart(quantized, texts, tmp_path):
    """Every restart ends in the same bytes, and no unfinished folder ever has the final name."""
    out, _, seconds = quantized
    expected = digests(out)
    moments = random.Random(5)
    other = tmp_path / "model"
    for _ in range(4):
        process = start(command(other, texts))
        try:
            process.communicate(timeout=moments.uniform(0.3, 1.1) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        if other.exists():
            assert digests(other) == expected
            shutil.rmtree(other)
    finish(start(command(other, texts)))
    assert digests(other) == expected
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


KILLING = """
import importlib, os, signal, sys
module, name, count, when = sys.argv[1].split(":")
owner = importlib.import_module(module)
original, calls = getattr(owner, name), []
def counted(*args, **kwargs):
    calls.append(1)
    if len(calls) == int(count) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*args, **kwargs)
    if len(calls) == int(count) and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, counted)
from fgmp.__main__ import main
sys.exit(main(sys.argv[2:]))
"""
# Every phase: calibration (before, between and after samples, while its sums are written), thresholds, scores, packing,
# each file of the folder, its trial, the rename, what follows it. The suite takes every fourth.
MOMENTS = [
    "fgmp.quantizer.commands.quantize:load_model:1:after",
    "fgmp.quantizer.calibrate.measure:_begin_sums:1:after",
    "fgmp.quantizer.calibrate.measure:_measure:2:before",
    "fgmp.quantizer.calibrate.resume:save_file:1:before",
    "fgmp.quantizer.calibrate.resume:save_file:1:after",
    "fgmp.quantizer.calibrate.measure:_measure:1:after",
    "fgmp.quantizer.calibrate.measure:means:1:before",
    "fgmp.quantizer.choose.activations:select:5:after",
    "fgmp.quantizer.study:changed_by:1:before",
    "fgmp.quantizer.choose.energy:Columns:1:before",
    "fgmp.quantizer.choose.weights:scale_codes:1:before",
    "fgmp.quantizer.choose.weights:scale_codes:9:after",
    "fgmp.quantizer.study:choose_by_energy:1:after",
    "fgmp.quantizer.choose.weights:compensated:12:before",
    "fgmp.quantizer.model.save:copy_side_files:1:before",
    "fgmp.quantizer.model.shards:save_file:1:before",
    "fgmp.quantizer.model.shards:save_file:2:after",
    "fgmp.quantizer.model.save:file_digest:2:before",
    "fgmp.quantizer.commands.quantize:check_written:1:before",
    "fgmp.quantizer.commands.quantize:check_written:1:after",
    "fgmp.quantizer.commands.quantize:describe_folder:1:before",
]


@pytest.mark.long
@QUANTIZED
def test_kill_in_every_phase_and_restart(quantized, texts, tmp_path, request):
    """One run, killed again and again where it had not been yet: the bytes of an undisturbed one, and nothing else."""
    expected = digests(quantized[0])
    script = tmp_path / "killing.py"
    script.write_text(KILLING)
    out = tmp_path / "place" / "model"
    whole = request.config.getoption("--whole-matrix")
    for moment in MOMENTS if whole else MOMENTS[3::4]:
        if whole:  # each from the beginning; otherwise the next kill meets what the last one left
            shutil.rmtree(out.parent, ignore_errors=True)
        shards = ["--max-shard-mib", "1"] if "save_file:2" in moment else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        arguments = [sys.executable, str(script), moment, *command(out, texts, *shards)]
        done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
        assert done.returncode == -signal.SIGKILL, (moment, done.stderr)
        if out.exists():
            assert digests(out) == expected, moment
        if whole:
            finish(start(command(out, texts)))
            assert digests(out) == expected, moment
            assert [p.name for p in out.parent.iterdir()] == ["model"], moment
    finish(start(command(out, texts)))
    assert digests(out) == expected
    assert [p.name for p in out.parent.iterdir()] == ["model"]


@QUANTIZED
def test_evaluation_of_the_folder_and_of_the_format_agree(quantized, texts, capsys):
    """The same FP4 shares, counted once a site, the same FP8, the same sizes, by either way."""
    out, _, _ = quantized
    base = ["--text", str(texts / "test.txt"), "--window", "128", "--json"]
    assert main(["evaluate", str(out), *base]) == 0
    folder = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    more = ["--calibration", str(texts / "train.txt"), "--samples", str(SAMPLES), "--threshold-samples", "2",
            "--calibration-window", "128", "--formats", "fp8", "--formats", "nvfp4", "fgmp:0.7"]  # fmt: skip
    assert main(["evaluate", str(SHIPPED_MODEL), *base, *more]) == 0
    formats = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert set(folder) == set(formats) == {"float32", "FP8", "NVFP4", "FGMP 0.7"}
    same = ("weight_fp4_share", "activation_fp4_share", "weight_bytes", "bits_per_weight", "weight_bytes_vs_fp8")
    for key in same:
        assert folder["FGMP 0.7"][key] == formats["FGMP 0.7"][key], key
    for key in (*same, "perplexity", "kl"):
        assert folder["FP8"][key] == formats["FP8"][key], key
    assert 0.4 < formats["FGMP 0.7"]["activation_fp4_share"] < 0.8
    assert 0.65 < folder["FGMP 0.7"]["weight_bytes_vs_fp8"] < 0.703  # the memory of 70 % is a limit
    assert folder["FP8"]["weight_bytes_vs_fp8"] == 8.0625 / 8


def test_the_table_names_what_it_compares_with(texts, capsys):
    base = ["evaluate", str(SHIPPED_MODEL), "--text", str(texts / "test.txt"), "--window", "64", "--max-tokens", "200"]
    base += ["--calibration", str(texts / "train.txt"), "--samples", "2", "--calibration-window", "64"]
    assert main([*base, "--formats", "nvfp4"]) == 0
    text = capsys.readouterr().out
    assert "ppl. vs float32" in text
    assert text.count("vs FP8") == 1
    assert main(base) == 0
    text = capsys.readouterr().out
    assert "ppl. vs FP8" in text
    assert "\nFGMP 0.7 paper " in text
    assert "\nFGMP 0.7  " in text


@QUANTIZED
def test_started_again_when_finished_it_says_so(quantized, texts, capsys):
    out, _, _ = quantized
    before = digests(out)
    assert main(command(out, texts)) == 0
    assert "is there already" in capsys.readouterr().err
    assert main(command(out, texts, "--fp4-fraction", "0.5")) == 2
    assert "exists and was made otherwise" in capsys.readouterr().err
    assert digests(out) == before
    assert [p.name for p in out.parent.iterdir()] == ["model"]


def test_calibration_continues_where_it_was_killed(texts, tmp_path):
    """Not from the beginning, and to the same bits; what does not belong to this job is not taken."""
    language_model = load_model(SHIPPED_MODEL)
    samples = windows(language_model, (texts / "train.txt").read_text(), 4, "text", window=64)
    whole = Study(language_model.model, samples, progress=False).calibration(FGMPConfig.paper())
    path = tmp_path / "calibration.safetensors"

    class Killed(BaseException):
        pass

    def run(fail_after, fingerprint="job"):
        study = Study(language_model.model, samples, progress=False, checkpoint=Checkpoint(path, fingerprint, 0))
        own, calls = study.loss, []

        def loss(sample):
            calls.append(sample)
            if len(calls) > fail_after:
                raise Killed
            return own(sample)

        study.loss = loss
        try:
            return study.calibration(FGMPConfig.paper()), len(calls)
        except Killed:
            return None, len(calls)

    assert run(2)[0] is None
    again, calls = run(9)
    assert calls == 2
    assert all(torch.equal(again.weights[n], w) for n, w in whole.weights.items())
    assert all(torch.equal(again.channels[n], w) for n, w in whole.channels.items())
    assert again.exponents == whole.exponents
    assert run(9)[1] == 0
    assert run(9, "another job")[1] == 4
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # nor is one that a power cut has spoiled
    path.write_bytes(content)
    assert run(9, "another job")[1] == 4
    path.write_bytes(path.read_bytes()[:-100])  # a broken file is not continued from
    assert run(9, "another job")[1] == 4


@pytest.mark.long
def test_two_processes_measure_what_one_does(texts, tmp_path):
    """torchrun shards the samples; the sums are those of all, and only one process writes."""
    out = {}
    script = tmp_path / "measure.py"
    script.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from fgmp.quantizer import FGMPConfig, Study\n"
        "from fgmp.quantizer.calibrate import distributed\n"
        "from fgmp.quantizer.model.language_model import SHIPPED_MODEL, load_model, windows\n"
        "torch.set_num_threads(1)\n"
        "distributed.join('cpu')\n"
        "model = load_model(SHIPPED_MODEL)\n"
        "samples = windows(model, Path(sys.argv[1]).read_text(), 5, 'text', window=64)\n"
        "c = Study(model.model, samples, progress=False).calibration(FGMPConfig())\n"
        "if distributed.is_main():\n"
        "    torch.save((dict(c.weights), c.channels, c.squares, c.exponents), sys.argv[2])\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    for name, runner in (("one", [sys.executable]), ("two", torchrun)):
        path = tmp_path / name
        done = subprocess.run(
            [*runner, str(script), str(texts / "train.txt"), str(path)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        out[name] = torch.load(path)
    for alone, together in zip(out["one"][:3], out["two"][:3], strict=True):
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, rtol=1e-6, atol=0)
    assert out["one"][3] == out["two"][3]
    # The command itself under torchrun.
    model = tmp_path / "model"
    command_line = [*torchrun, "-m", "fgmp", *command(model, texts)]
    done = subprocess.run(command_line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("21 linears") == 1
    load(model)


@QUANTIZED
def test_inspect_of_a_folder(quantized, capsys):
    out, _, _ = quantized
    assert main(["inspect", str(out)]) == 0
    text = capsys.readouterr().out
    assert "model.layers.2.mlp.down_proj" in text
    assert "all checksums match" in text
    assert main(["inspect", str(out), "--json"]) == 0
    description = json.loads(capsys.readouterr().out)
    assert description["bits_per_weight"] == pytest.approx(description["expected"]["bits"], abs=0.01)
    assert description["linears"][0]["mode"] == "dynamic"
    assert len(section_of(description["schema"], description, "").parts) == 4
    for kind, shares in description["expected"]["scores"].items():
        assert sum(shares) == pytest.approx(1), kind
        assert min(shares) >= 0
    # Those above their thresholds are FP8.
    above = sum(description["expected"]["scores"]["weights"][SCORE_EDGES.index(0) + 1 :])
    blocks = {la["name"]: la["shape"][0] * -(-la["shape"][1] // 16) for la in description["linears"]}
    fp8 = sum(la["fp8_share"] * blocks[la["name"]] for la in description["linears"]) / sum(blocks.values())
    assert above == pytest.approx(fp8, abs=0.01)
    assert description["file_bytes"] < description["bytes"] * 2


@QUANTIZED
def test_evaluate_a_quantized_folder_beside_its_original(quantized, texts, capsys):
    out, _, _ = quantized
    arguments = ["evaluate", str(out), "--text", str(texts / "test.txt"), "--window", "128", "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    rows = {r["name"]: r for r in result["rows"]}
    assert list(rows) == ["float32", "FP8", "NVFP4", "FGMP 0.7"]
    assert rows["FP8"]["kl"]["value"] < rows["FGMP 0.7"]["kl"]["value"] < rows["NVFP4"]["kl"]["value"]
    assert 0.4 < rows["FGMP 0.7"]["weight_fp4_share"] < 0.8
    assert result["window"] == result["stride"] == 128
    # Exactly as the hardware computes: nearly, but not, the same.
    assert main([*arguments, "--exact"]) == 0
    exact = {r["name"]: r for r in json.loads(capsys.readouterr().out)["rows"]}
    fast, bits = rows["FGMP 0.7"]["perplexity"], exact["FGMP 0.7"]["perplexity"]
    assert abs(fast["value"] - bits["value"]) < fast["error"] / 10


@QUANTIZED
def test_evaluate_without_the_original(quantized, texts, tmp_path, capsys):
    out, _, _ = quantized
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)
    from fgmp.quantizer.model.manifest import json_digest

    settings = json.loads((moved / "config.json").read_text())
    settings["quantization_config"]["base_model"] = "/nowhere"
    settings["quantization_config"]["sha256"] = json_digest(settings["quantization_config"])
    (moved / "config.json").write_text(json.dumps(settings))
    arguments = ["evaluate", str(moved), "--text", str(texts / "test.txt"), "--window", "128"]
    assert main(arguments) == 0
    assert "--original" in capsys.readouterr().out
    assert main([*arguments, "--original", "/nowhere"]) == 2
    assert main([*arguments, "--original", str(SHIPPED_MODEL)]) == 0
    assert "FGMP 0.7" in capsys.readouterr().out
    other = tmp_path / "other"
    shutil.copytree(SHIPPED_MODEL, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] *= 0.7
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    capsys.readouterr()
    assert main([*arguments, "--original", str(other)]) == 2
    assert "model.norm.weight differs from that of" in capsys.readouterr().err


def test_evaluate_what_is_in_the_folder(texts, tmp_path, capsys):
    """OPT calls its linears in another order than it lists them; and windows of no tokens are refused."""
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OPTConfig(**sizes, word_embed_proj_dim=32, vocab_size=1024, max_position_embeddings=128)
    OPTForCausalLM(config).save_pretrained(tmp_path / "opt")
    for path in SHIPPED_MODEL.glob("token*"):
        shutil.copy(path, tmp_path / "opt")
    out = tmp_path / "out"
    calibration = ["--calibration", str(texts / "train.txt"), "--samples", "2", "--window", "64"]
    assert main(["quantize", str(tmp_path / "opt"), str(out), *calibration]) == 0
    arguments = ["evaluate", str(out), "--text", str(texts / "test.txt"), "--max-tokens", "300"]
    capsys.readouterr()
    assert main([*arguments, "--json", "--window", "64"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]][-1] == "FGMP 0.7"
    assert main([*arguments, "--window", "0"]) == 2
    assert "window: 0, expected at least 2" in capsys.readouterr().err


def test_evaluate_formats_side_by_side_with_a_plot(texts, tmp_path, capsys):
    base = ["evaluate", str(SHIPPED_MODEL), "--text", str(texts / "test.txt"), "--window", "128", "--stride", "64"]
    base += [
        "--max-tokens",
        "700",
        "--calibration",
        str(texts / "train.txt"),
        "--samples",
        "2",
        "--calibration-window",
        "64",
    ]
    plot = tmp_path / "plots" / "main.svg"
    assert main([*base, "--formats", "fp8", "nvfp4", "fgmp:0.7", "fgmp:0.7,static,noclip", "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    assert "700 tokens" in text
    assert "stride 64" in text
    for name in ("FP8", "NVFP4", "FGMP 0.7", "FGMP 0.7 static noclip"):
        assert f"\n{name}" in text
    assert "<svg" in plot.read_text()
    assert main([*base, "--formats", "fp8", "--plot", str(tmp_path / "x.nothing")]) == 2
    assert main([*base, "--ablation", "0.7", "--formats", "fp8"]) == 2
    assert "both given" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.long
def test_ablation_prints_every_policy_with_and_without_clipping(texts, capsys):
    base = ["evaluate", str(SHIPPED_MODEL), "--text", str(texts / "test.txt"), "--max-tokens", "200", "--window", "100"]
    base += ["--calibration", str(texts / "train.txt"), "--samples", "2", "--calibration-window", "64"]
    assert main([*base, "--ablation", "0.7", "--json"]) == 0
    names = [r["name"] for r in json.loads(capsys.readouterr().out)["rows"]]
    for policy in ("", " quantization-error", " output-error", " random"):
        assert {f"FGMP 0.7 paper{policy}", f"FGMP 0.7 paper{policy} noclip"} <= set(names)
    for step in (
        "",
        " paper gptq",
        " paper energy",
        " paper energy gptq",
        " four-over-six",
        " static",
        " paper static",
    ):
        assert f"FGMP 0.7{step}" in names
    assert {f"FGMP 0.7 paper {extra}" for extra in ("per-layer", "factored", "four-over-six")} <= set(names)


def bad(texts, quantized, tmp_path):
    model, train = str(SHIPPED_MODEL), str(texts / "train.txt")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(SHIPPED_MODEL / "config.json", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    new = str(tmp_path / "new")
    return {
        "no model": (["quantize", "/nowhere", new, "--calibration", train], "model folder /nowhere: not found"),
        "pickle": (["quantize", str(pickled), new, "--calibration", train], "pytorch_model.bin, a pickle"),
        "no text": (["quantize", model, new, "--calibration", "/no/text"], "calibration /no/text: not found"),
        "empty text": (["quantize", model, new, "--calibration", str(empty)], "is empty, expected text"),
        "short text": (["quantize", model, new, "--calibration", str(texts / "test.txt")], "do not hold 128 windows"),
        "fraction": (["quantize", model, new, "--calibration", train, "--fp4-fraction", "2"], "fp4_weights: 2.0"),
        "policy": (["quantize", model, new, "--calibration", train, "--policy", "x"], "policy: 'x', expected one of"),
        "budget": (["quantize", model, new, "--calibration", train, "--budget", "fp4=1"], "expected energy=NUMBER"),
        "small budget": (["quantize", model, new, "--calibration", train, "--budget", "bits=4.5"], "least bits=4.562"),
        "no choice": (["quantize", model, new, "--calibration", train, "--budget", "pj=90", "--policy", "random"],
                      "expected none where blocks are not chosen by energy"),
        "paper": (["quantize", model, new, "--calibration", train, "--policy", "paper", "--rounding", "gptq"],
                  "--rounding: given with --policy paper"),
        "paper too": (["quantize", model, new, "--calibration", train, "--policy", "paper", "--no-permutation"],
                      "--no-permutation: given with --policy paper"),
        "prices": (["quantize", model, new, "--calibration", train, "--prices", train], "no prices in it"),
        "format": (["evaluate", model, "--text", train, "--calibration", train, "--formats", "fgmp:watts=3"],
                   "budget: 'watts=3'"),
        "window": (["quantize", model, new, "--calibration", train, "--window", "9999"], "512 positions, expected"),
        "taken": (["quantize", model, str(texts), "--calibration", train], "exists already"),
        "device": (["quantize", model, new, "--calibration", train, "--device", "cuda"], "device: 'cuda'"),
        "quantized": (["quantize", str(quantized), new, "--calibration", train], "is quantized already"),
        "formats": (["evaluate", str(quantized), "--text", train, "--formats", "fp8"], "--formats: "),
        "stride": (["evaluate", model, "--text", train, "--stride", "9999"], "stride: 9999, expected 1 to"),
        "calibration": (["evaluate", model, "--text", train, "--formats", "fp8"], "--calibration: not given"),
        "original": (["evaluate", model, "--text", train, "--original", model], "--original: "),
        "inspect": (["inspect", str(texts)], "no config.json"),
        "inspect plain": (["inspect", model], "quant_method None, expected 'fgmp'"),
    }  # fmt: skip


@QUANTIZED
def test_bad_input_gets_one_line_and_leaves_nothing(texts, quantized, tmp_path, capsys):
    cases = bad(texts, quantized[0], tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    for name, (arguments, message) in cases.items():
        assert main(arguments) == 2, name
        error = capsys.readouterr().err
        assert message in error, (name, error)
        assert error.count("\n") == 1, (name, error)
        assert sorted(p.name for p in tmp_path.iterdir()) == before, name


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_tasks_without_the_harness(texts, capsys):
    arguments = ["evaluate", str(SHIPPED_MODEL), "--text", str(texts / "test.txt"), "--tasks", "lambada_openai"]
    assert main(arguments) == 2
    assert "pip install 'fgmp[harness]'" in capsys.readouterr().err


@QUANTIZED
def test_tasks_of_the_harness(texts, quantized, tmp_path):
    """Where lm-evaluation-harness is installed (0.4.13 was tried), on a task of our own, as it needs no download."""
    tasks = pytest.importorskip("lm_eval.tasks")
    from fgmp.quantizer.evaluate.lm_eval_tasks import run_tasks

    document = (texts / "test.txt").read_text()[:800]
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": document}))
    (tmp_path / "task.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'data.jsonl'}}}}}\n"
        "output_type: loglikelihood_rolling\ntest_split: test\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list: [{metric: byte_perplexity}]\n"
    )
    model = load_model(quantized[0], quantized=True)
    numbers = run_tasks(model, ["own"], task_manager=tasks.TaskManager(include_path=str(tmp_path)))
    assert 1 < numbers["own"]["byte_perplexity"] < 20
    with pytest.raises(InputError, match="no_such_task"):
        run_tasks(model, ["no_such_task"])


def test_help_teaches(capsys):
    for name in ("quantize", "evaluate", "inspect"):
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        assert len(capsys.readouterr().out) > 200
