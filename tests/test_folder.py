"""Folders of quantized models: loading, damage that must be seen, and dequantizing."""

import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
)

from fgmp.errors import InputError
from fgmp.golden.packing import unpack
from fgmp.quantizer import FGMPLinear, Study, dequantize, load, save
from fgmp.quantizer.model.folder import file_digest, read_folder
from fgmp.quantizer.model.manifest import json_digest, read_manifest
from fgmp.quantizer.prepare.linears import prepare

from .small_models import MODELS, SAMPLES, logits, make

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


def test_packed_size_is_what_the_format_says(folders):
    manifest = read_manifest(folders / "llama")
    weights = sum(math.prod(e["shape"]) for e in manifest["linears"].values())
    fp4 = sum(e["fp4_blocks"] for e in manifest["linears"].values())
    assert 0 < fp4 < weights / 16
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


def test_sites_are_named_alike_before_and_after_saving(folders):
    """OPT calls q, k and v in another order than it lists them."""
    for name in ("opt", "gpt2", "mixtral"):
        sites = {s.name for s in Study(make(name), SAMPLES, progress=False).sites}
        assert sites == set(read_manifest(folders / name)["sites"])


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
