"""Whole models: what is found in them, quantized layers, folders that transformers loads, evaluation."""

import copy
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from fgmp.errors import InputError
from fgmp.golden.blocks import MixedTensor
from fgmp.golden.matrix import quantize_matrix
from fgmp.golden.packing import unpack
from fgmp.golden.selector import SiteSettings, Threshold, select
from fgmp.quantizer import FGMPConfig, FGMPLinear, Study, dequantize, load, quantize, save
from fgmp.quantizer.evaluate.format_names import ablation, parse_formats
from fgmp.quantizer.evaluate.losses import evaluate, text_windows
from fgmp.quantizer.model.folder import file_digest, read_folder
from fgmp.quantizer.model.layers import install, set_exact
from fgmp.quantizer.model.manifest import json_digest, read_manifest
from fgmp.quantizer.model.site import SiteQuantizer
from fgmp.quantizer.prepare.linears import prepare, restore, target_linears

_SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_SMALL |= {"num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 64}
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 128}
_OPT = {"hidden_size": 40, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 40}
_OPT |= {"vocab_size": 128, "max_position_embeddings": 64}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SMALL)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**_GPT2, bos_token_id=1, eos_token_id=2)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**_OPT)),  # K = 40 is not a multiple of 16
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SMALL, head_dim=16, tie_word_embeddings=True)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**_SMALL, num_local_experts=4)),
}
CONFIGS = {
    "llama": {"activations": "static"},
    "gpt2": {},
    "opt": {"channel_codes": True, "four_over_six": True},
    "qwen3": {"activations": "none"},
    "mixtral": {"sensitivity": "factored"},
}
SAMPLES = torch.randint(0, 128, (4, 32), generator=torch.Generator().manual_seed(1))


def make(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def logits(model, exact=None):
    if exact is not None:
        set_exact(model, exact)
    with torch.no_grad():
        return model(input_ids=SAMPLES[:2]).logits


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every model, quantized and saved in several shards, and its logits before saving."""
    root = tmp_path_factory.mktemp("models")
    for name in MODELS:
        model = quantize(make(name), FGMPConfig(**CONFIGS[name]), SAMPLES, progress=False)
        torch.save((logits(model, False), logits(model, True)), root / f"{name}.pt")
        save(model, root / name, max_shard_bytes=60_000, base_model="none")
    return root


FRESH = """
import sys, torch
from dataclasses import replace
from pathlib import Path
import fgmp.quantizer.model.transformers_plugin
from fgmp.quantizer import load
from transformers import AutoModelForCausalLM
root, ids = Path(sys.argv[1]), torch.load(sys.argv[1] + "/ids.pt")
for name in sys.argv[2:]:
    fast, exact = torch.load(root / f"{name}.pt")
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(root / name)(input_ids=ids).logits, fast), name
        model = load(root / name, exact=True)
        assert torch.equal(model(input_ids=ids).logits, exact), name
    assert model.generate(ids[:1, :4], min_new_tokens=6, max_new_tokens=6, do_sample=False).shape == (1, 10), name
"""


def test_a_fresh_process_loads_what_was_saved_bit_for_bit(folders):
    torch.save(SAMPLES[:2], folders / "ids.pt")
    code = f"import torch; torch.set_num_threads(1)\n{FRESH}"
    done = subprocess.run([sys.executable, "-c", code, str(folders), *MODELS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_our_import_transformers_refuses_the_folder(folders):
    code = "import sys, transformers; transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])"
    for name in ("llama", "mixtral"):
        done = subprocess.run([sys.executable, "-c", code, str(folders / name)], capture_output=True, text=True)
        assert done.returncode != 0
        assert "RuntimeError" in done.stderr


@pytest.mark.parametrize("name", MODELS)
def test_dequantize_gives_a_plain_model_that_can_be_saved(folders, name, tmp_path):
    model = load(folders / name)
    stored = {n: unpack(m.packed).dequantize() for n, m in model.named_modules() if isinstance(m, FGMPLinear)}
    plain = dequantize(model)
    assert not any(isinstance(m, FGMPLinear) for m in plain.modules())
    assert {n for n, _ in plain.named_parameters()} == {n for n, _ in make(name).named_parameters()}
    plain.save_pretrained(tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert torch.equal(logits(again), logits(plain))
    prepare(again)
    assert stored
    for linear, expected in stored.items():
        assert torch.equal(again.get_submodule(linear).weight, expected)


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_prepared_models_compute_the_same_and_can_be_restored(name):
    model = make(name)
    before, names = logits(model), list(model.state_dict())
    weights = copy.deepcopy(model.state_dict())
    prepare(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-6)
    restore(model)
    assert list(model.state_dict()) == names
    assert all(torch.equal(model.state_dict()[n], weights[n]) for n in names)


class StrangeExperts(nn.Module):
    """Fused weights without transformers 5's description of them."""

    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(2, 16, 8))
        self.down_proj = nn.Parameter(torch.randn(2, 8, 16))

    def forward(self, x):
        return torch.relu(x @ self.gate_up_proj[0].T) @ self.down_proj[0].T


def test_unknown_experts_are_named_and_can_be_ignored(tmp_path):
    module = nn.Sequential(nn.Linear(8, 8), StrangeExperts())
    x = torch.randn(2, 3, 8)

    def loss(sample):
        return module(sample).square().mean()

    with pytest.raises(InputError, match="experts 1: StrangeExperts is not known"):
        quantize(module, FGMPConfig(), x, loss=loss, progress=False)
    quantize(module, FGMPConfig(ignore=("1",)), x, loss=loss, progress=False)
    save(module, tmp_path / "m")
    again = load(tmp_path / "m", nn.Sequential(nn.Linear(8, 8), StrangeExperts()))
    assert torch.equal(again(x), module(x))


def test_experts_share_sites_and_routers_stay():
    study = Study(make("mixtral"), SAMPLES, progress=False)
    shared = [s for s in study.sites if "experts" in s.name and s.name.startswith("model.layers.0.")]
    assert [(len(s.linears), s.watched == s.linears) for s in shared] == [(4, True), (4, True)]
    assert not any("router" in n or n.endswith(".gate") for n in study.linears)
    # An expert's tokens count in its site: as many rows as routed tokens.
    scores = study.scores(FGMPConfig())
    assert scores.read(shared[0].name).size == 4 * 32 * 2 * 4  # samples, tokens, experts each, blocks of 64 channels


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_calibration_measures_what_autograd_says(name):
    """The factored estimate from rows and columns, second moments, and ranges, on the whole model at once."""
    model = make(name)
    study = Study(model, SAMPLES[:1], progress=False)
    linear = "model.layers.1.self_attn.o_proj"
    kept = {}
    module = model.get_submodule(linear)
    handles = [module.register_forward_pre_hook(lambda m, i: kept.update(x=i[0])),
               module.register_forward_hook(lambda m, i, o: kept.update(y=o))]  # fmt: skip
    loss = study.loss(SAMPLES[0])
    gradient, own = torch.autograd.grad(loss, [kept["y"], module.weight])
    for handle in handles:
        handle.remove()
    factored = study.calibration(FGMPConfig(sensitivity="factored"))
    x, g = kept["x"][0], gradient[0]
    expected = torch.outer(g.square().sum(0), x.square().mean(0))
    torch.testing.assert_close(factored.weights[linear], expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(factored.squares[linear], x.square().mean(0), rtol=1e-4, atol=0)
    exact = study.calibration(FGMPConfig()).weights[linear]
    torch.testing.assert_close(exact, own.square(), rtol=1e-3, atol=own.square().mean().item() * 1e-3)


def test_gradient_checkpointing_changes_nothing_but_memory():
    from fgmp.quantizer.calibrate.recompute import checkpointed

    model = make("gpt2")  # has dropout, which must stay off
    plain = Study(model, SAMPLES, progress=False).calibration(FGMPConfig())
    checkpointed(model)
    calls = []
    model.transformer.h[0].mlp.act.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    measured = Study(model, SAMPLES, progress=False).calibration(FGMPConfig())
    assert calls.count(True) == 2 * len(SAMPLES)  # forward, and once more in backward
    for name, value in plain.weights.items():
        torch.testing.assert_close(measured.weights[name], value, rtol=1e-4, atol=value.mean().item() * 1e-4)
    for name, value in plain.squares.items():
        torch.testing.assert_close(measured.squares[name], value)
    for name, value in plain.channels.items():
        torch.testing.assert_close(measured.channels[name], value, rtol=1e-4, atol=value.mean().item() * 1e-4)


def test_quantize_takes_any_module_and_loss(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 33), nn.ReLU(), nn.Linear(33, 7, bias=False))
    original = copy.deepcopy(module)
    x = torch.randn(8, 5, 20)

    def loss(sample):
        return module(sample).square().mean()

    quantize(module, FGMPConfig(fp4_weights=0.5, fp4_activations=0.5), x, loss=loss, exact=True, progress=False)
    fp4 = sum(m.fp4_blocks for m in module if isinstance(m, FGMPLinear))
    assert fp4 == math.floor(0.5 * (33 * 2 + 7 * 3) + 0.5)
    save(module, tmp_path / "module")
    again = load(tmp_path / "module", copy.deepcopy(original), exact=True)
    assert torch.equal(again(x), module(x))
    with pytest.raises(InputError, match="architecture 'Sequential' is not known to transformers"):
        load(tmp_path / "module")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fast_path_multiplies_the_same_values(dtype):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(24, 48, generator=generator)
    mask = torch.rand(24, 3, generator=generator) < 0.4
    x = torch.randn(2, 5, 48, generator=generator).to(dtype)
    median = select(x.reshape(-1, 48), SiteSettings(-4, Threshold(0, 0))).score.median().item()
    settings = SiteSettings(-4, Threshold.nearest(median))
    linear = nn.Linear(48, 24)
    linear.weight.data, linear.bias.data = weight, torch.randn(24, generator=generator).to(dtype).float()
    holder = nn.ModuleDict({"q": linear.to(dtype)})
    mixed = quantize_matrix(weight, mask)
    from fgmp.golden.packing import pack

    layer = install(holder, "q", pack(mixed), SiteQuantizer(settings), exact=False)
    chosen = select(x.reshape(-1, 48), settings)
    assert 0 < chosen.fp8.sum() < chosen.fp8.numel()
    values = chosen.tensor((10, 48), settings.exponent).dequantize()
    expected = nn.functional.linear(values.to(dtype), mixed.dequantize().to(dtype), layer.bias).view(2, 5, 24)
    assert torch.equal(layer(x), expected)
    assert torch.equal(mixed.dequantize().to(torch.bfloat16).float(), mixed.dequantize())  # bfloat16 holds them all
    layer.exact = True
    torch.testing.assert_close(layer(x), expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=2e-2)
    # Compiled quantization of activations: the same bits.
    fresh = SiteQuantizer(settings)
    fresh.compiled = True
    assert torch.equal(fresh(x), chosen.tensor((10, 48), -4).stored())


def test_site_is_quantized_once_for_all_its_readers_and_then_let_go():
    site = SiteQuantizer(SiteSettings(0, Threshold(1, 0)), readers=3)
    x = torch.ones(2, 16)
    first = site(x)
    assert site(x) is first
    assert site(x) is first
    assert site._last is None
    x.mul_(2)
    assert not torch.equal(site(x), first)
    kept = site(x)
    x.mul_(2)  # changed in place between two readers: quantized again
    assert not torch.equal(site(x), kept)


def test_four_over_six_never_scores_worse_and_static_takes_whole_columns():
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(2))
    settings = SiteSettings(-4, Threshold(0, 0))
    plain, better = select(x, settings), select(x, replace(settings, four_over_six=True))
    assert (better.score <= plain.score).all()
    assert (better.score < plain.score).any()
    study = Study(make("llama"), SAMPLES, progress=False)
    plans = study.site_settings(FGMPConfig(activations="static", fp4_activations=0.5))
    columns = torch.cat([p.static_fp8 for p in plans.values()])
    assert abs(columns.double().mean() - 0.5) < 0.05
    assert all(p.mode == "static" for p in plans.values())


def test_per_layer_thresholds_leave_the_fraction_in_every_layer():
    study = Study(make("llama"), SAMPLES, progress=False)
    variant = study.variant(FGMPConfig(threshold="per-layer"), "x")
    for packed in variant.weights.values():
        blocks = packed.shape[0] * packed.shape[1] // 16
        assert packed.scale.numel() == math.floor(0.7 * blocks + 0.5)


def test_ignored_names_stay():
    model = make("llama")
    quantize(model, FGMPConfig(ignore=("lm_head", "*.mlp.*")), SAMPLES, progress=False)
    layers = {n for n, m in model.named_modules() if isinstance(m, FGMPLinear)}
    assert layers == {n for n in target_linears(make("llama")) if ".self_attn." in n}
    with pytest.raises(InputError, match="no linear layers found"):
        quantize(make("llama"), FGMPConfig(ignore=("*",)), SAMPLES, progress=False)


def test_packed_size_is_what_the_format_says(folders):
    manifest = read_manifest(folders / "llama")
    weights = sum(math.prod(e["shape"]) for e in manifest["linears"].values())
    fp4 = sum(e["fp4_blocks"] for e in manifest["linears"].values())
    assert fp4 == math.floor(0.7 * weights / 16 + 0.5)
    tensors = {k: v for f in manifest["files"] if f.endswith("s") for k, v in load_file(folders / "llama" / f).items()}
    packed = [n for n in tensors if n.rsplit(".", 1)[0] in manifest["linears"] and tensors[n].dtype == torch.uint8]
    size = sum(tensors[n].numel() for n in packed)
    assert len(packed) == 3 * len(manifest["linears"])
    # Masks are whole bytes a row: 4 and 6 blocks take one byte each.
    masks = sum(tensors[n].numel() for n in packed if n.endswith("weight_mask"))
    assert size == masks + 9 * fp4 + 16 * (weights // 16 - fp4)


def damaged(folders, tmp_path, name="llama"):
    shutil.copytree(folders / name, tmp_path / "m")
    return tmp_path / "m"


def edit(folder, change):
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))


def sign(settings, **changes):
    """Change settings, or keys of quantization_config, and make the digests true again."""

    manifest = settings["quantization_config"]
    for key, value in changes.items():
        (manifest if key in manifest else settings)[key] = value
    manifest["settings"] = json_digest(settings)
    manifest["sha256"] = json_digest(manifest)


def test_weights_that_are_not_its_own_are_refused(folders, tmp_path):
    """transformers would prefer model.safetensors to the shards."""
    folder = damaged(folders, tmp_path)
    shutil.copy(sorted(folder.glob("*.safetensors"))[0], folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model.safetensors is none of its files"):
        load(folder)


def test_altered_index_is_refused(folders, tmp_path):
    folder = damaged(folders, tmp_path)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("00001-of", "00002-of", 1))
    with pytest.raises(InputError, match=f"checksum of {index.name} does not match"):
        load(folder)


def test_altered_settings_are_refused_by_transformers_too(folders, tmp_path):
    import fgmp.quantizer.model.transformers_plugin  # noqa: F401

    folder = damaged(folders, tmp_path)
    edit(folder, lambda s: s.update(num_hidden_layers=3))
    with pytest.raises(InputError, match=r"checksum of config\.json"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_inspection_opens_every_tensor(folders, tmp_path):
    from fgmp.quantizer.commands.quantize import describe_folder

    folder = damaged(folders, tmp_path)
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith("weight_scale"))
    tensors[name][3] = 120
    save_file(tensors, path, {"format": "pt"})
    edit(folder, lambda s: sign(s, files=s["quantization_config"]["files"] | {path.name: file_digest(path)}))
    with pytest.raises(InputError, match=f"{name.rpartition('.')[0]}: block scale 3 has code 120"):
        describe_folder(folder)


def test_a_model_that_does_not_compute_is_refused():
    model = make("llama")
    model.model.norm.weight.data[3] = float("nan")
    with pytest.raises(InputError, match="loss of calibration sample 0: nan, expected a finite number"):
        quantize(model, FGMPConfig(activations="none"), SAMPLES, progress=False)
    with pytest.raises(InputError, match="loss of calibration sample 0"):
        quantize(make("llama"), FGMPConfig(), SAMPLES[:, :1], progress=False)  # nothing to predict


def test_sites_are_named_alike_before_and_after_saving(folders):
    """OPT calls q, k and v in another order than it lists them."""
    for name in ("opt", "gpt2", "mixtral"):
        sites = {s.name for s in Study(make(name), SAMPLES, progress=False).sites}
        assert sites == set(read_manifest(folders / name)["sites"])


def test_inference_mode(folders):
    model = load(folders / "llama", exact=True)
    with torch.inference_mode():
        inside = model(input_ids=SAMPLES[:2]).logits
    assert torch.equal(inside, logits(model))


def test_checkpointing_does_not_drop_out():
    from fgmp.quantizer.calibrate.recompute import checkpointed
    from fgmp.quantizer.study import causal_loss

    torch.manual_seed(0)
    model = OPTForCausalLM(OPTConfig(**_OPT, dropout=0.5)).eval()
    plain = causal_loss(model)(SAMPLES[0])
    checkpointed(model)
    assert all(torch.equal(causal_loss(model)(SAMPLES[0]), plain) for _ in range(3))


def test_missing_shard(folders, tmp_path):
    folder = damaged(folders, tmp_path)
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(InputError, match=f"file {gone.name} is missing"):
        load(folder)


def test_every_flipped_bit_is_found(folders, tmp_path):
    folder = damaged(folders, tmp_path)
    path = sorted(folder.glob("*.safetensors"))[0]
    data = bytearray(path.read_bytes())
    for position in (3, 200, len(data) // 2, len(data) - 1):
        data[position] ^= 4
        path.write_bytes(data)
        with pytest.raises(InputError, match=f"checksum of {path.name} does not match"):
            read_folder(folder)
        with pytest.raises(InputError, match="checksum"):
            load(folder)
        data[position] ^= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["quantization_config"].update(version="3"), "version '3', expected 1 or 2"),
        (lambda s: s["quantization_config"].update(quant_method="gptq"), "quant_method 'gptq', expected 'fgmp'"),
        (lambda s: s["quantization_config"]["sites"].popitem(), "checksum of quantization_config does not match"),
        (lambda s: s.pop("quantization_config"), "quant_method None"),
        (lambda s: s.update(rms_norm_eps=1e-2), "checksum of config.json does not match"),
        (lambda s: s.update(num_hidden_layers=3), "checksum of config.json does not match"),
        (lambda s: sign(s, architectures=["Nothing"]), "architecture 'Nothing' is not known"),
        (lambda s: sign(s, architectures={"a": 1}), "architecture None is not known"),
        (lambda s: sign(s, num_hidden_layers=1), "linear model.layers.1.self_attn.q_proj: None, expected"),
        (lambda s: sign(s, hidden_size=128), "expected a linear of shape"),
        (lambda s: sign(s, linears={}), "linears: {}, Dictionary should have at least 1 item"),
        (lambda s: sign(s, files=None), "files: None, Input should be an object"),
        (lambda s: sign(s, base_model=5), "base_model: 5, Input should be a valid string"),
    ],
)
def test_wrong_settings(folders, tmp_path, change, message):
    folder = damaged(folders, tmp_path)
    edit(folder, change)
    with pytest.raises(InputError, match=message):
        load(folder)


def test_shard_of_another_model_with_true_checksums_is_refused(folders, tmp_path):
    """Whoever rewrites a shard and its checksum by hand still meets sizes that do not fit."""

    folder = damaged(folders, tmp_path)
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith("weight_scale"))
    tensors[name] = tensors[name][:-1]
    save_file(tensors, path, {"format": "pt"})

    edit(folder, lambda s: sign(s, files=s["quantization_config"]["files"] | {path.name: file_digest(path)}))
    with pytest.raises(InputError, match=r"weight_scale is U8 \(\d+,\), expected U8"):
        load(folder)


def test_existing_output_and_plain_model_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        save(load(folders / "llama"), folders / "llama")
    with pytest.raises(InputError, match="holds no quantized layer"):
        save(make("llama"), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_configuration_is_checked_and_survives_json():
    config = FGMPConfig(fp4_weights=0.5, policy="random", ignore=("a*",))
    assert FGMPConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    for values, message in (
        ({"fp4_weights": 1.2}, "fp4_weights: 1.2, expected a number from 0 to 1"),
        ({"policy": "best"}, "policy: 'best', expected one of fisher"),
        ({"activations": "maybe"}, "activations: 'maybe', expected one of dynamic"),
        ({"samples": 0}, "samples: 0, expected a whole number from 1 to"),
        ({"ignore": "lm_head"}, "ignore: lm_head, expected a tuple of globs"),
    ):
        with pytest.raises(InputError, match=message):
            FGMPConfig(**values)
    with pytest.raises(InputError, match="unknown key 'fp5'"):
        FGMPConfig.from_dict({"fp5": 1})


def test_formats_by_name():
    formats = parse_formats(["fp8", "nvfp4", "fgmp:0.7", "fgmp:0.6/0.8,random,noclip"], FGMPConfig(seed=9))
    assert list(formats) == ["FP8", "NVFP4", "FGMP 0.7", "FGMP 0.6/0.8 random noclip"]
    last = formats["FGMP 0.6/0.8 random noclip"]
    assert (last.fp4_weights, last.fp4_activations, last.policy, last.clip, last.seed) == (0.6, 0.8, "random", False, 9)
    assert formats["NVFP4"].clip is False
    assert len(parse_formats(ablation(0.7), FGMPConfig())) == len(ablation(0.7))
    for text in ("fp4", "fgmp:x", "fgmp:0.7,best", "fgmp:2"):
        with pytest.raises(InputError, match=r"format|fp4_weights: 2"):
            parse_formats([text], FGMPConfig())


def reference_perplexity(model, tokens, window, stride):
    """As the field writes it: a loop over positions, labels of context masked, loss weighted by scored tokens."""
    total, count, previous = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + window, len(tokens))
        ids = tokens[None, begin:end]
        labels = ids.clone()
        labels[:, : len(labels[0]) - (end - previous)] = -100
        scored = int((labels[:, 1:] != -100).sum())
        if scored:
            with torch.no_grad():
                total += model(input_ids=ids, labels=labels).loss.item() * scored
            count += scored
        previous = end
        if end == len(tokens):
            break
    return math.exp(total / count), count


@pytest.mark.parametrize(
    ("window", "stride", "length"), [(32, 32, 100), (32, 8, 100), (32, 31, 97), (40, 40, 41), (8, 3, 8)]
)
def test_perplexity_is_that_of_the_field(window, stride, length):
    model = make("llama")
    tokens = torch.randint(0, 128, (length,), generator=torch.Generator().manual_seed(length))
    windows = text_windows(tokens, window, stride)
    losses = evaluate(model, [], [], windows, batch=3, progress=False)["float32"]
    expected, count = reference_perplexity(model, tokens, window, stride)
    assert losses.tokens.sum() == count
    assert math.exp(losses.nll.sum() / losses.tokens.sum()) == pytest.approx(expected, rel=1e-6)


def test_wrong_windows():
    tokens = torch.arange(10)
    for window, stride, message in ((1, 1, "window: 1"), (8, 0, "stride: 0"), (8, 9, "stride: 9, expected 1 to")):
        with pytest.raises(InputError, match=message):
            text_windows(tokens, window, stride)
    with pytest.raises(InputError, match="text: 1 tokens"):
        text_windows(tokens[:1], 8, 8)


def test_mixed_tensor_of_a_loaded_layer_is_the_golden_one(folders):
    model = load(folders / "llama")
    layer = model.model.layers[0].self_attn.q_proj
    tensor = unpack(layer.packed)
    assert isinstance(tensor, MixedTensor)
    assert torch.equal(layer.dequantized(), tensor.dequantize())
