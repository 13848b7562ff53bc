"""Other people's checkpoints: what theirs stand for, by their own libraries where there are any, and ours for them."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.golden import pack, quantize_matrix, unpack
from fgmp.quantizer import FGMPConfig, FGMPLinear, dequantize, load, quantize, save
from fgmp.quantizer.exchange.convert import convert
from fgmp.quantizer.exchange.foreign import nibbles
from fgmp.quantizer.model.language_model import load_model

E2M1 = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def make_model(**more):
    torch.manual_seed(3)
    more = {**SIZES, "vocab_size": 128, "num_key_value_heads": 2, "tie_word_embeddings": False, **more}
    return LlamaForCausalLM(LlamaConfig(**more)).eval()


@pytest.fixture
def plain(tmp_path):
    """A small model's folder, and its linears' weights by name."""
    model = make_model(dtype=torch.bfloat16)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "plain")
    linears = {n: m.weight.detach().float() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    linears.pop("lm_head")
    return tmp_path / "plain", linears


def rewrite(folder, out, parts, settings, *, beside=None):
    """A copy of a plain folder whose linears have other tensors: `parts(name, weight)`; returns what was written."""
    shutil.copytree(folder, out)
    tensors = load_file(out / "model.safetensors")
    written = {}
    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        made = parts(name, tensors.pop(name).float())
        written |= {f"{name.removesuffix('.weight')}.{part}": tensor for part, tensor in made.items()}
    save_file({**tensors, **written}, out / "model.safetensors", {"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    if beside is None:
        config["quantization_config"] = settings
    else:
        (out / beside).write_text(json.dumps(settings))
    (out / "config.json").write_text(json.dumps(config))
    return written


def e4m3(values):
    return values.clamp(-448, 448).to(torch.float8_e4m3fn)


def nvfp4_parts(weight, divides):
    """Codes, block scales and a scale of the whole weight, by which values are divided or multiplied."""
    whole = torch.tensor(0.0371)  # no power of two
    blocks = weight.unflatten(1, (-1, 16))
    scales = e4m3(blocks.abs().amax(-1) / 6 / whole)
    real = scales.float() * whole
    codes = ((blocks / real[..., None].clamp_min(1e-9))[..., None] - E2M1).abs().argmin(-1).to(torch.uint8).flatten(1)
    packed = codes[:, ::2] | codes[:, 1::2] << 4
    return packed, scales, 1 / whole if divides else whole


def modelopt_nvfp4(name, weight):
    packed, scales, second = nvfp4_parts(weight, divides=False)
    return {"weight": packed, "weight_scale": scales, "weight_scale_2": second, "input_scale": torch.tensor(0.5)}


def modelopt_fp8(name, weight):
    scale = weight.abs().amax() / 448
    return {"weight": e4m3(weight / scale), "weight_scale": scale, "input_scale": torch.tensor(0.5)}


def blocks_fp8(name, weight):
    scales = torch.rand(-(-weight.shape[0] // 32), -(-weight.shape[1] // 48)) / 448 + 1e-4
    wide = scales.repeat_interleave(32, 0).repeat_interleave(48, 1)[: weight.shape[0], : weight.shape[1]]
    return {"weight": e4m3(weight / wide), "weight_scale_inv": scales}


def value_of(parts):
    """By hand: element by element, in float32 like the producers' own code."""
    if parts["weight"].dtype == torch.uint8:
        low_high = torch.stack((parts["weight"] & 15, parts["weight"] >> 4), -1).flatten(1).long()
        scale = (parts["weight_scale"].float() * parts["weight_scale_2"]).repeat_interleave(16, 1)
        return E2M1[low_high] * scale
    if "weight_scale_inv" in parts:
        wide = parts["weight_scale_inv"].repeat_interleave(32, 0).repeat_interleave(48, 1)
        rows, columns = parts["weight"].shape
        return parts["weight"].float() * wide[:rows, :columns]
    return parts["weight"].float() * parts["weight_scale"]


MODELOPT = {
    "producer": {"name": "modelopt", "version": "0.33"},
    "quantization": {"quant_algo": "NVFP4", "group_size": 16},
}
CASES = {
    "modelopt-nvfp4": (modelopt_nvfp4, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, None),
    "modelopt-fp8": (modelopt_fp8, {"quant_method": "modelopt", "quant_algo": "FP8"}, None),
    "modelopt-beside": (modelopt_nvfp4, MODELOPT, "hf_quant_config.json"),
    "fp8-blocks": (blocks_fp8, {"quant_method": "fp8", "weight_block_size": [32, 48]}, None),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("limit", [4 << 30, 20_000])
def test_foreign_weights_are_what_their_tensors_stand_for(case, limit, plain, tmp_path):
    parts, settings, beside = CASES[case]
    folder, linears = plain
    written = rewrite(folder, tmp_path / "foreign", parts, settings, beside=beside)
    result = convert(tmp_path / "foreign", tmp_path / "out", dtype="float32", max_shard_bytes=limit)
    assert result["linears"] == len(linears)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == (1 if limit > 1 << 20 else pytest.approx(20, abs=12))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    state = model.state_dict()
    original = load_file(folder / "model.safetensors")
    for name in linears:
        own = {part.removeprefix(f"{name}."): t for part, t in written.items() if part.startswith(f"{name}.")}
        assert torch.equal(state[f"{name}.weight"], value_of(own)), name
    for name in original.keys() - {f"{name}.weight" for name in linears}:
        assert torch.equal(state[name], original[name].float()), name
    assert getattr(model.config, "quantization_config", None) is None
    assert not (tmp_path / "out" / "hf_quant_config.json").exists()


def compressed(weight, scheme, kind):
    """The library's own compressed tensors of a weight, and what it decompresses them to."""
    library = pytest.importorskip("compressed_tensors")
    del library
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    made = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**scheme))
    compressor = BaseCompressor.get_value_from_registry(kind)
    if kind == "nvfp4-pack-quantized":
        whole = torch.tensor([2688.0 / weight.abs().amax()])
        scale = e4m3(weight.unflatten(1, (-1, 16)).abs().amax(-1) / 6 * whole).float()
        given = {"weight": weight, "weight_scale": scale, "weight_global_scale": whole}
    else:
        amax = weight.abs().amax() if scheme["strategy"] == "tensor" else weight.abs().amax(1, keepdim=True)
        given = {"weight": weight, "weight_scale": (amax / 448).reshape((-1, 1) if amax.dim() else (1,))}
    packed = compressor.compress(dict(given), made)
    return packed, compressor.decompress(dict(packed), made)["weight"]  # NVFP4 in bfloat16, whatever it was


SCHEMES = {
    "nvfp4-pack-quantized": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,
                             "symmetric": True, "dynamic": False},
    "float-quantized": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False},
    "naive-quantized": {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False},
}  # fmt: skip


@pytest.mark.parametrize("kind", SCHEMES)
def test_compressed_tensors_are_what_its_library_decompresses(kind, plain, tmp_path):
    folder, linears = plain
    expected = {}

    def parts(name, weight):
        packed, values = compressed(weight, SCHEMES[kind], kind)
        expected[name] = values
        return packed

    settings = {
        "quant_method": "compressed-tensors", "format": kind,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": SCHEMES[kind]}},
    }  # fmt: skip
    rewrite(folder, tmp_path / "foreign", parts, settings)
    convert(tmp_path / "foreign", tmp_path / "out", dtype="float32")
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert len(expected) == len(linears)
    for name, values in expected.items():
        assert torch.equal(state[name].to(values.dtype), values), name


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder of ours with linears all in FP4, all in FP8 and mixed."""
    folder = tmp_path_factory.mktemp("own") / "model"
    model = make_model()
    samples = torch.randint(128, (4, 64), generator=torch.Generator().manual_seed(1))
    quantize(model, FGMPConfig(samples=4, threshold_samples=4, window=64), samples, progress=False)
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "up_proj")):
            values = module.dequantized()
            fp8 = torch.full((values.shape[0], values.shape[1] // 16), name.endswith("up_proj"))
            replace_packed(module, pack(quantize_matrix(values, fp8)))
    save(model, folder)
    return folder


def replace_packed(module, packed):
    module.load_state_dict(
        {**module.state_dict(), "weight": packed.payload, "weight_mask": packed.mask, "weight_scale": packed.scales},
        strict=False,
    )
    module.weight_exponent = packed.exponent


def test_ours_becomes_plain(own, tmp_path):
    result = convert(own, tmp_path / "out")
    assert (result["from"], result["to"], result["linears"]) == ("fgmp", "plain", 14)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    expected = dequantize(load(own)).state_dict()
    state = model.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


def test_ours_becomes_compressed_tensors_and_comes_back(own, tmp_path):
    result = convert(own, tmp_path / "ct", to="compressed-tensors")
    assert result["fp8"] >= 2
    assert result["nvfp4"] >= 2
    assert result["fp8"] + result["nvfp4"] < result["linears"]
    convert(tmp_path / "ct", tmp_path / "back", dtype="float32")
    back = load_file(tmp_path / "back" / "model.safetensors")
    for name, tensor in dequantize(load(own)).state_dict().items():
        assert torch.equal(back[name].float(), tensor), name


@pytest.mark.parametrize("kind", ["fp8", "nvfp4"])
def test_transformers_reads_our_compressed_tensors(own, tmp_path, kind):
    """Of one format: with two in a model, transformers 5.24 decompresses all linears as the first."""
    pytest.importorskip("compressed_tensors")
    from transformers import CompressedTensorsConfig

    model = load(own)
    for module in model.modules():
        if isinstance(module, FGMPLinear):
            mask = unpack(module.packed).fp8
            if mask.all() != mask.any() or bool(mask.all()) == (kind == "fp8"):
                continue
            mask[0] = ~mask[0]  # mixed
            replace_packed(module, pack(quantize_matrix(module.dequantized(), mask)))
    save(model, tmp_path / "own")
    assert convert(tmp_path / "own", tmp_path / "ct", to="compressed-tensors")[kind] >= 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the model's own settings are used
        read = AutoModelForCausalLM.from_pretrained(
            tmp_path / "ct", dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False)
        )
    ids = torch.arange(32)[None]
    with torch.no_grad():
        assert torch.equal(read(ids).logits, dequantize(load(tmp_path / "own"))(ids).logits)


def test_the_library_decompresses_each_of_our_linears(own, tmp_path):
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    convert(own, tmp_path / "ct", to="compressed-tensors")
    recipe = QuantizationConfig(**json.loads((tmp_path / "ct" / "config.json").read_text())["quantization_config"])
    tensors = load_file(tmp_path / "ct" / "model.safetensors")
    expected = dequantize(load(own)).state_dict()
    seen = 0
    for scheme in recipe.config_groups.values():
        for name in scheme.targets:
            parts = {n.removeprefix(f"{name}."): t for n, t in tensors.items() if n.startswith(f"{name}.")}
            values = BaseCompressor.get_value_from_registry(scheme.format).decompress(parts, scheme)["weight"]
            assert torch.equal(values.float(), expected[f"{name}.weight"]), name
            seen += 1
    assert seen >= 4


def test_plain_models_of_others_are_quantized(plain, tmp_path, capsys):
    rewrite(plain[0], tmp_path / "foreign", modelopt_fp8, CASES["modelopt-fp8"][1])
    with pytest.raises(InputError, match="is quantized by 'modelopt', expected a model in its own precision"):
        load_model(tmp_path / "foreign")
    assert main(["convert", str(tmp_path / "foreign"), str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "from": "modelopt", "to": "plain", "linears": 14, "dtype": "bfloat16", "tensors": 21,
    }  # fmt: skip
    assert main(["convert", str(tmp_path / "out"), str(tmp_path / "again")]) == 2
    assert "is not quantized, expected a model that is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "gptq"}, "quantized by 'gptq', expected one of compressed-tensors, modelopt, fp8"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "quant_algo 'W4A8_AWQ' of ModelOpt, expected one of"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"}, "scales of input channels"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "format 'pack-quantized'"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}}}},
            "weights of 8 bits, int, expected FP4 or FP8",
        ),
        ("compressed", "quantization_config 'compressed', expected an object"),
    ],
)
def test_what_is_not_known_is_said(plain, tmp_path, settings, message):
    rewrite(plain[0], tmp_path / "foreign", lambda name, weight: {"weight": weight}, settings)
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "foreign", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.partial"))


def spoiled(change):
    def parts(name, weight):
        return change(modelopt_nvfp4(name, weight))

    return parts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: {**p, "weight_scale": p["weight_scale"][:, 1:].contiguous()},
            r"linear model.*: scales of shape \(.*\), expected",
        ),
        (lambda p: {k: v for k, v in p.items() if k != "weight_scale_2"}, "no weight_scale_2"),
        (lambda p: {**p, "weight_scale_2": torch.tensor(float("nan"))}, "NaN or infinity in its weight"),
        (lambda p: {**p, "pre_quant_scale": torch.ones(3)}, "pre_quant_scale, expected weights that need none"),
    ],
)
def test_tensors_that_do_not_fit_leave_nothing(plain, tmp_path, capsys, change, message):
    rewrite(plain[0], tmp_path / "foreign", spoiled(change), CASES["modelopt-nvfp4"][1])
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "foreign", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["foreign", "plain"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "model folder nowhere: not found"),
        (["plain", "plain"], "output plain: exists already"),
        (["plain", "out", "--to", "gguf"], "to: 'gguf', expected plain or compressed-tensors"),
        (["plain", "out", "--dtype", "int8"], "dtype: 'int8', expected one of float32"),
        (["plain", "out", "--max-shard-mib", "0"], "max-shard-mib: 0, expected at least 1"),
    ],
)
def test_wrong_arguments(plain, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_mixed_model_has_nothing_for_compressed_tensors(own, tmp_path):
    model = load(own)
    for module in model.modules():
        if isinstance(module, FGMPLinear):
            values = module.dequantized()
            fp8 = torch.zeros(values.shape[0], values.shape[1] // 16, dtype=torch.bool)
            fp8[0] = True
            replace_packed(module, pack(quantize_matrix(values, fp8)))
            assert unpack(module.packed).fp8.any()
    save(model, tmp_path / "mixed")
    with pytest.raises(InputError, match="no linear is all FP4 or all FP8"):
        convert(tmp_path / "mixed", tmp_path / "ct", to="compressed-tensors")
    assert not (tmp_path / "ct").exists()


def test_nibbles_are_in_order():
    assert nibbles(torch.tensor([[0x21, 0xFA]], dtype=torch.uint8)).tolist() == [[0.5, 1.0, -1.0, -6.0]]


# What a review found


def refusal(plain, tmp_path, parts, settings, message, change=lambda folder: None):
    rewrite(plain[0], tmp_path / "foreign", parts, settings)
    change(tmp_path / "foreign")
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "foreign", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scales_of_blocks_that_are_as_many_as_rows(tmp_path):
    """K = 16,384 in blocks of 128 x 128 has as many scales as rows."""
    weight, scale = torch.randn(4, 256).to(torch.float8_e4m3fn), torch.rand(1, 4)
    settings = {"quant_method": "compressed-tensors", "format": "float-quantized"}
    group = {"weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [64, 64]}}
    for where in (settings | {"config_groups": {"g": group}}, {"quant_method": "fp8", "weight_block_size": [64, 64]}):
        folder = tmp_path / where["quant_method"]
        folder.mkdir()
        name = "weight_scale" if "config_groups" in where else "weight_scale_inv"
        save_file({"a.weight": weight, f"a.{name}": scale}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "x", "quantization_config": where}))
        convert(folder, tmp_path / f"{folder.name}-out", dtype="float32")
        found = load_file(tmp_path / f"{folder.name}-out" / "model.safetensors")["a.weight"]
        assert torch.equal(found, weight.float() * scale.repeat_interleave(64, 1))
    (folder / "config.json").write_text(
        json.dumps({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}})
    )
    save_file({"a.weight": weight, "a.weight_scale": scale}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"FP8 scales of shape \(1, 4\), expected one, or one for each row"):
        convert(folder, tmp_path / "x")


def test_fp8_with_one_scale_as_auto_fp8_writes_it(plain, tmp_path):
    written = rewrite(
        plain[0], tmp_path / "foreign", modelopt_fp8, {"quant_method": "fp8", "activation_scheme": "static"}
    )
    convert(tmp_path / "foreign", tmp_path / "out", dtype="float32")
    state = load_file(tmp_path / "out" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    assert torch.equal(state[f"{name}.weight"], written[f"{name}.weight"].float() * written[f"{name}.weight_scale"])
    assert not [key for key in state if "scale" in key]


@pytest.mark.parametrize(
    ("parts", "tensor"),
    [
        (lambda n, w: {"weight": e4m3(w)}, "F8_E4M3"),
        (lambda n, w: {"weight": w.to(torch.float8_e5m2), "weight_scale_inv": torch.ones(1, 1)}, "F8_E5M2"),
        (lambda n, w: {"weight": w.to(torch.int8), "weight_scale": torch.ones(1)}, "I8"),
        (lambda n, w: {"weight": w, "weight_scale_inv": torch.ones(1, 1)}, "weight_scale_inv"),
        (lambda n, w: {"weight": w, "gate_up_proj_scale_inv": torch.ones(1, 1)}, "gate_up_proj_scale_inv"),
    ],
)
def test_nothing_that_stands_for_a_weight_is_left_over(plain, tmp_path, parts, tensor):
    def some(name, weight):
        return blocks_fp8(name, weight) if "down_proj" in name else parts(name, weight)

    settings = {"quant_method": "fp8", "weight_block_size": [32, 48]}
    refusal(plain, tmp_path, some, settings, f"tensor .*{tensor}.*: nothing of fp8 that is known here")


def test_a_checkpoint_without_quantized_linears_is_refused(plain, tmp_path):
    refusal(plain, tmp_path, lambda n, w: {"weight": w}, {"quant_method": "fp8"}, "no weights of fp8")


def test_files_are_those_that_the_index_names(plain, tmp_path):
    rewrite(plain[0], tmp_path / "foreign", modelopt_fp8, CASES["modelopt-fp8"][1])
    folder = tmp_path / "foreign"
    # Another program's copy beside it changes nothing.
    save_file({"layers.0.wq.weight": torch.ones(2, 2).to(torch.float8_e4m3fn)}, folder / "consolidated.safetensors")
    convert(folder, tmp_path / "out")
    assert "layers.0.wq.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    names = list(load_file(folder / "model.safetensors"))
    index = {"weight_map": dict.fromkeys(names, "model.safetensors") | {"lm_head.weight": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"shard model-2.safetensors is missing"):
        convert(folder, tmp_path / "other")
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    with pytest.raises(InputError, match=r"no weights, expected model\.safetensors"):
        convert(folder, tmp_path / "other")


def test_settings_of_the_text_model_count_and_go(plain, tmp_path):
    rewrite(plain[0], tmp_path / "foreign", modelopt_fp8, CASES["modelopt-fp8"][1])
    path = tmp_path / "foreign" / "config.json"
    config = json.loads(path.read_text())
    settings = config.pop("quantization_config")
    for outer in ({}, {"quantization_config": settings}):
        inner = {"dtype": "bfloat16", "quantization_config": settings}
        path.write_text(json.dumps({**config, **outer, "text_config": inner}))
        out = tmp_path / f"out{len(outer)}"
        convert(tmp_path / "foreign", out, dtype="float32")
        written = json.loads((out / "config.json").read_text())
        assert "quantization_config" not in written
        assert written["text_config"] == {"dtype": "float32"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"transform_config": {"config_groups": {}, "x": 1}}, "transform_config: weights that are half of a transform"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity 'sparse-24-bitmask', expected dense"),
        (
            {"config_groups": {"g": {"weights": {"num_bits": 4, "type": "float", "symmetric": False}}}},
            "weights with zero points",
        ),
    ],
)
def test_settings_that_change_what_weights_mean_are_refused(plain, tmp_path, more, message):
    settings = {"quant_method": "compressed-tensors", "format": "float-quantized", **more}
    refusal(plain, tmp_path, modelopt_fp8, settings, message)


def test_values_beyond_the_dtype_are_refused(plain, tmp_path):
    def large(name, weight):
        return {"weight": e4m3(weight * 1000), "weight_scale": torch.tensor(1000.0)}

    rewrite(plain[0], tmp_path / "foreign", large, CASES["modelopt-fp8"][1])
    with pytest.raises(InputError, match=r"beyond torch.float16, expected numbers"):
        convert(tmp_path / "foreign", tmp_path / "out", dtype="float16")
    convert(tmp_path / "foreign", tmp_path / "out", dtype="bfloat16")


def test_new_folders_go_again_and_cache_scales_do_not_stay(plain, tmp_path):
    infinite = spoiled(lambda parts: {**parts, "weight_scale_2": torch.tensor(float("inf"))})
    rewrite(plain[0], tmp_path / "bad", infinite, CASES["modelopt-nvfp4"][1])
    with pytest.raises(InputError):
        convert(tmp_path / "bad", tmp_path / "p" / "q" / "out")
    assert not (tmp_path / "p").exists()

    def with_scales(name, weight):
        return {**modelopt_fp8(name, weight), "kv_scale": torch.ones(1), "kv_cache_scaling_factor": torch.ones(1)}

    rewrite(plain[0], tmp_path / "good", with_scales, {"quant_method": "modelopt_fp4", "quant_algo": "FP8"})
    convert(tmp_path / "good", tmp_path / "out")
    assert not [name for name in load_file(tmp_path / "out" / "model.safetensors") if "scal" in name]
