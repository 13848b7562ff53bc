"""What is read may be anything: each mutation of a file is refused in one line, or read as its bytes say."""

import copy
import gzip
import hashlib
import json
import random
import resource
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.golden.blocks import MixedTensor
from fgmp.golden.exact import StoredBlock, lane_row
from fgmp.golden.matrix import quantize_matrix
from fgmp.golden.packed_file import _PARTS, _digest, load_packed, save_packed
from fgmp.golden.packing import pack, unpack
from fgmp.quantizer import FGMPConfig, load, quantize, save
from fgmp.quantizer.model.folder import read_folder
from fgmp.quantizer.model.manifest import json_digest
from fgmp.synth.liberty.expression import compile_expression, truth_table
from fgmp.synth.liberty.find import read_liberty
from fgmp.synth.liberty.text import parse_liberty
from fgmp.synth.sweep.spec import read_spec

IDS = torch.randint(0, 128, (2, 16), generator=torch.Generator().manual_seed(1))
ODD_VALUES = [
    None, True, False, 0, -1, 1, 0.5, 1e308, -47, 48, 10**6, 10**18, 10**30, "", "x", "\x1b[2J", "a\nb", [], [1], [[1]],
    {}, {"a": 1}, [1, 2, 3], ["x", "y"], "NaN", "../../etc/passwd", "/etc/passwd",
]  # fmt: skip


@pytest.fixture(autouse=True)
def bounded():
    """No reader takes long or much: 10 s and 1 GB, over all that a test reads."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
    assert time.process_time() - started < 60


def one_line(error):
    text = str(error)
    assert text.isprintable(), repr(text)
    assert len(text) < 2000
    return text


# Packed files


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, shape in (("a", (3, 40)), ("b", (2, 16))):
        matrix = torch.randn(shape, generator=generator)
        mask = torch.rand(shape[0], -(-shape[1] // 16), generator=generator) > 0.5
        tensors[name] = pack(quantize_matrix(matrix, mask))
    path = tmp_path_factory.mktemp("packed") / "packed.safetensors"
    save_packed(path, tensors)
    return path


def sealed(path, flat, index):
    """Write a packed file whose every checksum is right, whatever is in it."""
    for name, entry in index.items():
        if isinstance(entry, dict):
            parts = {part: flat[f"{name}.{part}"] for part in _PARTS if f"{name}.{part}" in flat}
            if len(parts) == len(_PARTS) and "sha256" in entry:
                entry["sha256"] = _digest({n: t.view(torch.uint8) for n, t in parts.items()})
    text = json.dumps(index)
    metadata = {"format": "fgmp", "version": "1", "tensors": text}
    save_file(flat, path, {**metadata, "tensors_sha256": hashlib.sha256(text.encode()).hexdigest()})


def says(tensor):
    """What a packed matrix's bytes mean, element by element, by the scalar reference: sums with one weight of 1."""
    one = StoredBlock(True, 0, tuple([0x38] + [0] * 15))  # 1.0 as E4M3
    assert isinstance(tensor, MixedTensor)
    values = []
    for row in range(tensor.shape[0]):
        for block in range(tensor.fp8.shape[1]):
            codes = tensor.codes[row, block].tolist()
            for element in codes:
                stored = StoredBlock(bool(tensor.fp8[row, block]), int(tensor.scales[row, block]),
                                     tuple([element] + [0] * 15))  # fmt: skip
                values.append(lane_row([(stored, one)], 0, 4096).float32)
    return values


def check_packed(path):
    """Refused in one line, or the values that the bytes say."""
    try:
        tensors = {name: unpack(tensor, name) for name, tensor in load_packed(path).items()}
    except InputError as error:
        one_line(error)
        return False
    for tensor in tensors.values():
        bits = tensor.stored()
        padded = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 16))
        assert [v & 0xFFFFFFFF for v in padded.flatten().view(torch.int32).tolist()] == says(tensor)
    return True


def test_bytes_of_packed_files(packed, tmp_path):
    """Flipped, cut, inserted and repeated bytes, anywhere: never another result."""
    content = packed.read_bytes()
    chance = random.Random(1)
    path = tmp_path / "m.safetensors"
    for _ in range(300):
        kind = chance.randrange(4)
        at = chance.randrange(len(content))
        changed = {
            0: content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :],
            1: content[:at],
            2: content[:at] + chance.randbytes(chance.randrange(1, 40)) + content[at:],
            3: content[:at] + content[max(at - 30, 0) :],
        }[kind]
        path.write_bytes(changed)
        # The header's padding may change and still mean the same; nothing else may pass.
        if check_packed(path):
            assert {n: unpack(t).codes.tolist() for n, t in load_packed(path).items()} == {
                n: unpack(t).codes.tolist() for n, t in load_packed(packed).items()
            }


def test_sealed_packed_files(packed, tmp_path):
    """The same with every checksum made right again: sizes, types, values and names are judged for themselves."""
    flat = load_file(packed)
    chance = random.Random(2)
    path = tmp_path / "m.safetensors"
    good = {"a": {"shape": [3, 40], "tensor_exponent": -5, "sha256": "0" * 64},
            "b": {"shape": [2, 16], "tensor_exponent": 3, "sha256": "0" * 64}}  # fmt: skip
    sealed(path, flat, copy.deepcopy(good))
    assert check_packed(path)
    passed = 0
    for _ in range(350):
        tensors, index = {k: v.clone() for k, v in flat.items()}, copy.deepcopy(good)
        kind = chance.randrange(5)
        name = chance.choice("ab")
        part = f"{name}.{chance.choice(_PARTS)}"
        if kind == 0:
            index[name][chance.choice(["shape", "tensor_exponent", "sha256", "more"])] = chance.choice(ODD_VALUES)
        elif kind == 1:
            index[chance.choice(["a", "b", "c", "\x1b]0;x\x07", "x" * 5000])] = chance.choice(ODD_VALUES)
        elif kind == 2:
            tensors[part] = tensors[part].flatten()[: chance.randrange(len(tensors[part].flatten()) + 1)].clone()
        elif kind == 3 and tensors[part].numel():
            tensors[part].view(-1)[chance.randrange(tensors[part].numel())] = chance.randrange(256)
        else:
            dtype = chance.choice([torch.float8_e4m3fn, torch.float8_e5m2, torch.bool, torch.int8])
            tensors[part] = tensors[part].view(dtype)
        sealed(path, tensors, index)
        passed += check_packed(path)
    assert 20 < passed < 200  # changed codes are other values, all else is refused


def test_deep_and_wide_indexes(packed, tmp_path):
    flat = load_file(packed)
    path = tmp_path / "m.safetensors"
    for text in ("[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, "[]", "5", "", '{"a": 1}', "9" * 5000):
        metadata = {"format": "fgmp", "version": "1", "tensors": text}
        save_file(flat, path, {**metadata, "tensors_sha256": hashlib.sha256(text.encode()).hexdigest()})
        assert not check_packed(path)


# Folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=128, max_position_embeddings=64)).eval()
    quantize(model, FGMPConfig(samples=2, window=16), IDS, progress=False)
    path = tmp_path_factory.mktemp("folder") / "m"
    save(model, path)
    with torch.no_grad():
        return path, model(input_ids=IDS).logits


def sealed_settings(path, settings):
    manifest = settings.get("quantization_config")
    if isinstance(manifest, dict):
        manifest["settings"] = json_digest(settings)
        manifest["sha256"] = json_digest(manifest)
    (path / "config.json").write_text(json.dumps(settings))


def mutated(value, chance, depth=0):
    """`value` with one thing in it changed: a value, a key, a type."""
    if isinstance(value, dict) and value and (depth == 0 or chance.random() < 0.8):
        key = chance.choice(sorted(value))
        kind = chance.randrange(8)
        if kind == 0:
            del value[key]
        elif kind == 1:
            value[chance.choice(["more", "\x1b[31m", "x" * 3000, ""])] = chance.choice(ODD_VALUES)
        else:
            value[key] = mutated(value[key], chance, depth + 1)
        return value
    if isinstance(value, list) and value and chance.random() < 0.6:
        at = chance.randrange(len(value))
        value[at] = mutated(value[at], chance, depth + 1)
        return value
    return chance.choice(ODD_VALUES)


def test_manifests(folder, tmp_path):
    """Mutated and sealed again: the reader that inspects and the one that loads agree."""
    source, expected = folder
    chance = random.Random(3)
    read = loaded = 0
    for index in range(300):
        path = tmp_path / f"m{index}"
        shutil.copytree(source, path)
        settings = json.loads((path / "config.json").read_text())
        if index % 3:
            settings["quantization_config"] = mutated(settings["quantization_config"], chance)
        else:
            manifest = settings.pop("quantization_config")
            settings = mutated(settings, chance) | {"quantization_config": manifest}
        sealed_settings(path, settings)
        try:
            read_folder(path)
            read += 1
            fits = True
        except InputError as error:
            one_line(error)
            fits = False
        if index % 3 == 1 or not fits:
            try:
                model = load(path)
                loaded += 1
                assert fits, "loaded what inspection refuses"
                with torch.no_grad():
                    logits = model(input_ids=IDS).logits
                assert logits.shape == expected.shape
            except InputError as error:
                one_line(error)
        shutil.rmtree(path)
    assert read > 30
    assert loaded > 5


def damaged(folder, tmp_path):
    shutil.copytree(folder[0], tmp_path / "m")
    return tmp_path / "m"


def a_site(settings):
    return next(iter(settings["quantization_config"]["sites"].values()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(num_hidden_layers=10**6), "num_hidden_layers 1000000, expected no more than"),
        (lambda s: a_site(s).update(readers=-1), "readers"),
        (
            lambda s: a_site(s).update(readers=99),
            "readers, expected at most",
        ),
        (lambda s: a_site(s).update(threshold=[1]), "threshold"),
        (lambda s: a_site(s).update(tensor_exponent=0.5), "valid integer"),
        (lambda s: s["quantization_config"]["config"].update(threshold=["global"]), "threshold"),
        (lambda s: s["quantization_config"]["linears"].update({"\x1b[2J": 1}), "u"),
        (lambda s: s["quantization_config"]["aliases"].update({"model.layers.9": "model.layers.0"}), "model.layers.9"),
    ],
)
def test_settings_that_lie(folder, tmp_path, change, message):
    path = damaged(folder, tmp_path)
    settings = json.loads((path / "config.json").read_text())
    change(settings)
    sealed_settings(path, settings)
    with pytest.raises(InputError) as caught:
        load(path)
    assert message in one_line(caught.value)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bool])
def test_payloads_of_another_type(folder, tmp_path, dtype):
    path = damaged(folder, tmp_path)
    file = path / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith("up_proj.weight"))
    tensors[name] = tensors[name].view(dtype)
    save_file(tensors, file, {"format": "pt"})
    settings = json.loads((path / "config.json").read_text())
    settings["quantization_config"]["files"]["model.safetensors"] = hashlib.sha256(file.read_bytes()).hexdigest()
    sealed_settings(path, settings)
    for read in (read_folder, load):
        with pytest.raises(InputError, match=r"up_proj.weight is (F8|BOOL).*, expected U8"):
            read(path)


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, "[]", "", "{", '"x"'])
def test_settings_that_are_none(folder, tmp_path, text, capsys):
    path = damaged(folder, tmp_path)
    (path / "config.json").write_text(text)
    for command in (["inspect", str(path)], ["evaluate", str(path), "--text", __file__]):
        assert main(command) == 2
        assert capsys.readouterr().err.count("\n") == 1


# Liberty


def read_all(text):
    library = parse_liberty(text, "x.lib")
    for name in library.cells:
        library.cell(name)


def test_liberty_that_never_ends():
    start = time.process_time()
    for text in (
        "a" * 100_000 + " library (x) {",
        "library (x) { " + "a" * 100_000 + " { }",
        "/*" * 50_000,
        "library (x) { cell (y) {" + "pin (z) {" * 5000,
        "library (x) { cell (y) { " + "(" * 100_000,
        '"' * 99_999,
        "library (" * 20_000,
        "library (x) {" + "\\ \n" * 50_000,
    ):
        with pytest.raises(InputError) as caught:
            read_all(text)
        one_line(caught.value)
    assert time.process_time() - start < 10


def test_liberty_that_grows(tmp_path):
    path = tmp_path / "bomb.lib.gz"
    with gzip.open(path, "wb", 9) as file:
        for _ in range(300):
            file.write(b" " * (1 << 20))
    with pytest.raises(InputError, match="times larger when decompressed"):
        read_liberty(path)


def test_functions_of_cells_are_bounded():
    for text in ("(" * 3000 + "A" + ")" * 3000, "!" * 3000 + "A", "A" + "'" * 3000, "+".join(["A"] * 5000)):
        with pytest.raises(InputError, match="Liberty expression") as caught:
            compile_expression(text)
        one_line(caught.value)
    names = tuple(f"A{i}" for i in range(40))
    with pytest.raises(InputError, match="40 inputs, expected at most 16"):
        truth_table("&".join(names), names)
    assert truth_table("((A) & !(B'))", ("A", "B")) == 0b1000


# Sweeps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid]\nk_max = [16]\npipeline = [1]\nsharing = [1]\n", "sharing"),
        ('unit = [["lane"]]\n', "expected the name of a preset"),
        ("unit = 5\n", "expected the name of a preset"),
        ("x = " + "[" * 5000 + "]" * 5000, "no TOML"),
        ("grid = 5\n", "expected a table"),
        ('flow = ["asic"]\n', "flow"),
    ],
)
def test_sweeps_that_are_none(tmp_path, text, message):
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_spec(path)
    one_line(caught.value)


def test_a_sweep_of_too_many_points_is_refused_before_they_are_made(tmp_path):
    numbers = ", ".join(map(str, range(2000)))
    path = tmp_path / "s.toml"
    path.write_text(f"[grid]\nk_max = [{numbers}]\npipeline = [{numbers}]\nsharing = [{numbers}]\n")
    with pytest.raises(InputError, match="8,000,000,000 points, expected at most 100,000"):
        read_spec(path)
