"""Models whose blocks lie in files: the same bytes as in one piece, one block in memory, whatever the architecture."""

import json
import os
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.quantizer import FGMPConfig, Pages, Study, load_model, quantize
from fgmp.quantizer.calibrate import lockstep
from fgmp.quantizer.calibrate.measure import calibrate
from fgmp.quantizer.model.language_model import SHIPPED_MODEL
from fgmp.quantizer.prepare.pages import blocks_of, in_memory, page_of, written

from .test_models import ARCHITECTURES, IDS, MIXED, SEQ2SEQ, error, inputs, llama, made, quantized


def same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    return [name for name in one if name not in other or not torch.equal(one[name], other[name])] or set(one) == set(
        other
    )


@pytest.mark.filterwarnings("ignore:.*linears had no gradient", "ignore:left as they are")
@pytest.mark.parametrize("name", [*(name for name in ARCHITECTURES if name != "zamba"), *SEQ2SEQ])
def test_the_same_model_as_in_one_piece(name, tmp_path):
    make = {**ARCHITECTURES, **SEQ2SEQ}[name]
    whole, paged = quantized(made(make), MIXED), made(make)
    pages = Pages(paged, tmp_path / "pages", MIXED.ignore)
    assert all(p.isnan().all() for page in pages.pages for p in page.parameters.values())
    quantized(paged, MIXED, pages=pages)
    assert same_state(whole, paged) is True
    if name in SEQ2SEQ:  # gradients of what all blocks of a decoder read are summed in another order
        assert paged.fgmp_expected["pj"] == pytest.approx(whole.fgmp_expected["pj"], rel=1e-6)
    else:
        assert whole.fgmp_expected == paged.fgmp_expected
    assert not any((tmp_path / "pages").iterdir())
    with torch.no_grad():
        given = {"input_ids": IDS[:2], **inputs(paged)}
        assert torch.equal(paged(**given).logits, whole(**given).logits)


@pytest.mark.parametrize("limit", [1, 1 << 15])
def test_however_many_samples_go_together(limit, tmp_path, monkeypatch):
    """One by one, or several: sums are of one sample after the other."""
    config = FGMPConfig(samples=6, window=24, threshold_samples=5)
    samples = torch.randint(3, 256, (6, 24), generator=torch.Generator().manual_seed(2))
    whole, paged = llama(), llama()
    quantize(whole, config, samples, progress=False)
    monkeypatch.setattr(lockstep, "_KEPT_BYTES", limit)
    sizes = []
    run = lockstep._run
    monkeypatch.setattr(lockstep, "_run", lambda pages, runners: (sizes.append(len(runners)), run(pages, runners)))
    quantize(paged, config, samples, pages=Pages(paged, tmp_path, config.ignore), progress=False)
    assert same_state(whole, paged) is True
    assert (max(sizes) > 1) == (limit > 1)


@pytest.mark.parametrize("sensitivity", ["fisher", "factored", None])
def test_the_sums_are_those_of_one_piece(sensitivity, tmp_path):
    found = []
    for paged in (False, True):
        model = made(SEQ2SEQ["t5"])
        config = FGMPConfig.paper(samples=3, window=24)
        pages = Pages(model, tmp_path, config.ignore) if paged else None

        def loss(sample, model=model):
            return model(input_ids=sample[None], labels=sample[None, :12], use_cache=False).loss

        study = Study(model, IDS, loss=loss, pages=pages, progress=False)
        folder = tmp_path / "sums" if paged else None
        found.append(
            calibrate(model, study.linears, study.sites, IDS, loss, sensitivity=sensitivity, factors=True,
                      pages=pages, folder=folder, progress=False)
        )  # fmt: skip
    one, other = found
    assert (one.rows, one.exponents, one.unreached) == (other.rows, other.exponents, other.unreached)
    for what in ("weights", "channels", "squares", "factors"):
        mine, its = getattr(one, what), getattr(other, what)
        assert list(mine) == list(its)
        for name, values in mine.items():
            assert error(its[name], values) < 1e-4  # attention has other kernels where its bias wants no gradient


def test_one_block_at_a_time_is_in_memory(tmp_path):
    model = llama()
    shapes = {name: p.shape for name, p in model.named_parameters()}
    alive = [weakref.ref(p.untyped_storage()) for p in model.model.layers.parameters()]
    pages = Pages(model, tmp_path, FGMPConfig().ignore)
    assert all(ref() is None for ref in alive)
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    first, second = (block.mlp.up_proj.weight for block in model.model.layers)
    assert page_of(first).name == "model.layers.0"
    assert page_of(model.model.embed_tokens.weight) is None
    assert first.isnan().all()
    values = in_memory(first).detach().clone()
    assert not values.isnan().any()
    in_memory(second)
    assert first.isnan().all()
    assert not second.isnan().any()
    in_memory(first).data.mul_(2)
    in_memory(second)  # what was not said to be written is not kept
    assert torch.equal(in_memory(first), values)
    first.data.mul_(2)
    written(first)
    in_memory(second)
    assert torch.equal(in_memory(first), 2 * values)
    pages.close()
    assert torch.equal(first, 2 * values)
    assert not second.isnan().any()
    assert not any(tmp_path.iterdir())
    assert "forward" not in model.model.layers[0].__dict__


def test_which_modules_are_blocks():
    model = made(ARCHITECTURES["qwen3_moe"])
    assert list(blocks_of(model)) == ["model.layers.0", "model.layers.1"]  # and no expert of theirs
    seq2seq = blocks_of(made(SEQ2SEQ["t5"]))
    assert list(seq2seq) == [f"{side}.block.{i}" for side in ("encoder", "decoder") for i in "01"]
    shared = nn.Module()
    block = nn.LayerNorm(4)
    inner = nn.ModuleList([nn.LayerNorm(4), nn.Linear(4, 4)])
    shared.layers = nn.ModuleList([block, block, nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 4), inner])
    assert list(blocks_of(shared)) == ["layers.0", "layers.3", "layers.5.0"]


def test_a_parameter_of_two_blocks_stays(tmp_path):
    model = llama()
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    Pages(model, tmp_path, FGMPConfig().ignore)
    assert page_of(model.model.layers[0].mlp.up_proj.weight) is None
    assert not model.model.layers[0].mlp.up_proj.weight.isnan().any()
    assert page_of(model.model.layers[0].mlp.gate_proj.weight) is not None


class Writer(nn.Module):
    """A block that writes to its input."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, x):
        return x.add_(self.linear(x))


def test_what_cannot_go_layer_by_layer_is_said(tmp_path):
    config = FGMPConfig.paper(samples=2)
    samples = torch.randn(2, 8, 32)
    plain = nn.Sequential(nn.Linear(32, 32))
    with pytest.raises(InputError, match="model Sequential: has no list of blocks, expected one to go through layer"):
        Pages(plain, tmp_path / "a", ())
    model = nn.Module()
    model.layers = nn.ModuleList([Writer(), Writer()])
    with pytest.raises(InputError, match=r"block layers\.0: writes to its input, expected one that can be called"):
        quantize(model, config, samples, loss=lambda x: model.layers[1](model.layers[0](x * 1.0)).square().mean(),
                 pages=Pages(model, tmp_path / "b", ()), progress=False)  # fmt: skip
    seq2seq = made(SEQ2SEQ["t5"])
    with pytest.raises(InputError, match=r"block decoder\.block\.0: given a cache, expected a loss that calls"):
        quantize(seq2seq, config, IDS, loss=lambda ids: seq2seq(input_ids=ids[None], labels=ids[None, :12]).loss,
                 pages=Pages(seq2seq, tmp_path / "c", ()), progress=False)  # fmt: skip


class Plain(nn.Module):
    """Blocks in a list, called in the order of `calls`, with what is `beside` them."""

    def __init__(self, calls, beside=()):
        super().__init__()
        self.layers = nn.ModuleList(Adder() for _ in range(2))
        self.calls, self.beside = calls, beside

    def forward(self, x):
        for index in self.calls:
            x = self.layers[index](x, *self.beside)
        return x


class Adder(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.reader = nn.Linear(32, 32), nn.Linear(32, 32)
        self.stubborn = False

    def forward(self, x, memory=None):
        x = Stubborn.apply(x) if self.stubborn else x
        return x + self.linear(x) + (self.reader(memory) if isinstance(memory, torch.Tensor) else 0)


class Box:
    """Might hold anything."""


class Stubborn(torch.autograd.Function):
    """Cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no backward here")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: Plain((0, 1, 0)), r"block layers\.0: called twice in a sample, expected blocks that are called once"),
        (lambda: Plain((0, 1), (Box(),)), r"block layers\.0: given a Box, which may carry gradients, expected blocks"),
        (lambda: Plain((0, 1), (torch.randn(8, 32),)), "a linear reads what several blocks are given, expected blocks"),
        (
            lambda: made(ARCHITECTURES["zamba"]),
            r"linear model\.layers\.2\.\S+: its weight belongs to several blocks, expected",
        ),
    ],
)
def test_gradients_that_would_come_in_parts_are_refused(model, message, tmp_path):
    model = model()
    samples = IDS if hasattr(model, "config") else torch.randn(2, 8, 32)
    loss = None if hasattr(model, "config") else lambda x: model(x).square().mean()
    with pytest.raises(InputError, match=message):
        quantize(model, FGMPConfig.paper(samples=2), samples, loss=loss, pages=Pages(model, tmp_path, ()),
                 progress=False)  # fmt: skip


def test_autocast_and_errors_on_the_way_back(tmp_path):
    config, samples = FGMPConfig.paper(samples=2), torch.randn(2, 8, 32)

    def cast(x):
        with torch.autocast("cpu"):
            return model(x).float().square().mean()

    model = Plain((0, 1))
    with pytest.raises(InputError, match="autocast: on, expected a loss without it layer by layer"):
        quantize(model, config, samples, loss=cast, pages=Pages(model, tmp_path / "a", ()), progress=False)
    model = Plain((0, 1))
    model.layers[1].stubborn = True
    with pytest.raises(InputError, match=r"cannot be differentiated layer by layer \(no backward here\), expected"):
        quantize(model, config, samples, loss=lambda x: model(x).square().mean(),
                 pages=Pages(model, tmp_path / "b", ()), progress=False)  # fmt: skip


def test_a_block_keeps_a_forward_of_its_own(tmp_path):
    model = Plain((0, 1))

    def own(x, *_):
        return x * 2

    model.layers[1].forward = own
    pages = Pages(model, tmp_path, ())
    pages.close()
    assert model.layers[1].forward is own


def test_an_error_of_the_model_ends_all_samples(tmp_path):
    model = llama()
    calls = []

    def loss(sample):
        calls.append(int(sample[0]))
        value = model(input_ids=sample[None], use_cache=False).logits.square().mean()
        return value * float("nan") if len(calls) > 2 else value

    with pytest.raises(InputError, match=r"loss of calibration sample 1: nan, expected a finite number"):
        quantize(model, FGMPConfig.paper(samples=3), IDS, loss=loss, pages=Pages(model, tmp_path, ()), progress=False)


# The command


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("def add(a, b):\n    return a + b  # the sum of both\n" * 200)
    return path


def arguments(model, out, text, *more):
    return ["quantize", str(model), str(out), "--calibration", str(text), "--samples", "4", "--window", "64",
            "--threshold-samples", "2", *more]  # fmt: skip


def test_the_command_writes_the_same_folder(tmp_path, text):
    for name, more in (("whole", []), ("paged", ["--layer-by-layer"])):
        assert main(arguments(SHIPPED_MODEL, tmp_path / name, text, *more)) == 0
    files = {p.name for p in (tmp_path / "whole").iterdir()}
    assert {p.name for p in (tmp_path / "paged").iterdir()} == files
    for name in files:
        assert (tmp_path / "paged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not list(tmp_path.glob("*.partial"))


def test_a_checkpoint_in_shards_and_of_another_dtype(tmp_path, text):
    language_model = load_model(SHIPPED_MODEL)
    language_model.model.bfloat16().save_pretrained(tmp_path / "model", max_shard_size="1MB")
    language_model.tokenizer.save_pretrained(tmp_path / "model")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    for name, more in (("whole", []), ("paged", ["--layer-by-layer"])):
        assert main(arguments(tmp_path / "model", tmp_path / name, text, *more)) == 0
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "paged" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_experts_that_are_fused_on_loading(tmp_path):
    """Each expert's tensors lie apart in the checkpoint, and in one in the model."""
    made(ARCHITECTURES["qwen3_moe"]).save_pretrained(tmp_path / "model")
    load_model(SHIPPED_MODEL).tokenizer.save_pretrained(tmp_path / "model")
    config = FGMPConfig(samples=2, window=24, threshold_samples=2)
    whole = load_model(tmp_path / "model").model
    paged = load_model(tmp_path / "model", paged=tmp_path / "pages", ignore=config.ignore)
    quantize(whole, config, IDS, progress=False)
    quantize(paged.model, config, IDS, pages=paged.pages, progress=False)
    assert same_state(whole, paged.model) is True


KILLED = """
import sys
from fgmp.quantizer.calibrate import lockstep, paged_sums
import os, signal
commit, done = paged_sums.PagedSums.commit, []
def once(self, samples):
    if len(done) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    commit(self, samples)
    print("committed", samples, flush=True)
    done.append(samples)
paged_sums.PagedSums.commit = once
lockstep._KEPT_BYTES = 1
from fgmp.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.long
def test_a_killed_run_continues_after_the_last_samples_that_came_through(tmp_path, text):
    out = tmp_path / "paged"

    def run(commits):
        command = [sys.executable, "-c", KILLED, str(commits), *arguments(SHIPPED_MODEL, out, text, "--layer-by-layer")]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, [line for line in done.stdout.splitlines() if line.startswith("committed")]

    assert run(1) == (-9, ["committed 1"])
    assert run(2) == (-9, ["committed 2", "committed 3"])
    state = json.loads(next((tmp_path / "paged.partial").glob("calibration-*/state.json")).read_text())
    assert state["samples"] == 3
    assert run(9) == (0, ["committed 4"])
    whole = [sys.executable, "-m", "fgmp", *arguments(SHIPPED_MODEL, tmp_path / "whole", text)]
    assert subprocess.run(whole, capture_output=True).returncode == 0
    for file in ("config.json", "model.safetensors"):
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--gradient-checkpointing"],
            "--gradient-checkpointing: given with --layer-by-layer, which does it",
        ),
        (["--device", "auto"], "device: auto, expected one device with --layer-by-layer"),
    ],
)
def test_options_that_do_not_go_together(more, message, tmp_path, text, capsys):
    assert main(arguments(SHIPPED_MODEL, tmp_path / "out", text, "--layer-by-layer", *more)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_without_accelerate(tmp_path, text, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert main(arguments(SHIPPED_MODEL, tmp_path / "out", text, "--layer-by-layer")) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "fgmp: layer by layer: accelerate is missing, expected it (pip install accelerate)"
    )
    assert not list(tmp_path.glob("out*"))


MEASURED = """
import sys, torch
from pathlib import Path
from torch import nn
from fgmp.quantizer import FGMPConfig, Pages, quantize
torch.set_num_threads(1)

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(256, 1024, bias=False), nn.Linear(1024, 256, bias=False)

    def forward(self, x):
        return x + self.down(self.up(x).relu())

class Model(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(count))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

def peak(count):
    model = Model(count)
    config = FGMPConfig(samples=1, threshold_samples=1)
    pages = Pages(model, Path(sys.argv[1]) / str(count), ())
    Path("/proc/self/clear_refs").write_text("5")
    quantize(model, config, torch.randn(1, 16, 256), loss=lambda x: model(x).square().mean(), pages=pages,
             progress=False)
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

peak(4)
print(peak(4), peak(16))
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_model_but_for_what_is_packed(tmp_path):
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "524288"}  # what is freed is not kept for later
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    few, many = map(float, done.stdout.split())
    # 12 blocks of 2 MiB, 2 for sums of squares and 4 for sums of products; packed they have 0.4 MiB each.
    assert many - few < 12 * 2, (few, many)
