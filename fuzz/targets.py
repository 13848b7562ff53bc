"""What is fuzzed: every reader of files. A target has seeds, a mutation that keeps digests right, and a reader, which
must return or raise InputError, in time."""

import contextlib
import hashlib
import json
import random
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fgmp.errors import InputError
from fgmp.golden import load_packed, pack, quantize_matrix, save_packed, unpack
from fgmp.quantizer.exchange.convert import convert
from fgmp.quantizer.model.folder import read_folder
from fgmp.quantizer.model.manifest import json_digest
from fgmp.quantizer.prices import Prices
from fgmp.report.build import report
from fgmp.synth.liberty.find import read_liberty
from fgmp.synth.liberty.text import parse_liberty
from fgmp.synth.sweep.spec import read_spec

from .mutate import bytes_changed, safetensors_changed, text_changed, tree_changed

__all__ = ["TARGETS", "Target", "attempt"]

DATA = Path(__file__).parent / "seeds"


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
        name: of the command line.
        seeds: makes files that are read without complaint.
        mutate: another file of one, by a random state.
        read: what a user's call does with the file's bytes; raises InputError or returns.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    mutate: Callable[[bytes, random.Random], bytes]
    read: Callable[[bytes], object]


def _written(data: bytes, name: str, read: Callable[[Path], object]) -> object:
    with tempfile.TemporaryDirectory(prefix="fgmp-fuzz-") as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        return read(path)


# Packed files


def _packed_seeds() -> list[bytes]:
    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, shapes in enumerate([{"a": (3, 40), "b": (2, 16)}, {"x.y": (1, 200)}]):
            torch.manual_seed(seed)
            tensors = {
                name: pack(quantize_matrix(torch.randn(n, k), torch.rand(n, -(-k // 16)) > 0.5))
                for name, (n, k) in shapes.items()
            }
            path = Path(folder) / f"{seed}.safetensors"
            save_packed(path, tensors)
            seeds.append(path.read_bytes())
    return seeds


def _seal_packed(header: dict[str, Any], body: bytes) -> None:
    metadata = header["__metadata__"]
    index = json.loads(metadata["tensors"])
    for name, entry in index.items():
        digest = hashlib.sha256()
        for part in ("weight_mask", "weight_scale", "weight"):
            tensor = header[f"{name}.{part}"]
            begin, end = tensor["data_offsets"]
            digest.update(f"{part} torch.uint8 {tuple(tensor['shape'])}\n".encode())
            digest.update(body[begin:end])
        entry["sha256"] = digest.hexdigest()
    text = json.dumps(index, sort_keys=True)
    metadata |= {"tensors": text, "tensors_sha256": hashlib.sha256(text.encode()).hexdigest()}


def _read_packed(data: bytes) -> object:
    def read(path: Path) -> None:
        for name, packed in load_packed(path).items():
            values = unpack(packed, name).stored()
            # Whatever passes every check computes.
            assert torch.isfinite(values.nan_to_num(0.0)).all()

    return _written(data, "packed.safetensors", read)


# Quantized folders: config.json and one shard behind it


def _folder_seeds() -> list[bytes]:
    from transformers import LlamaConfig, LlamaForCausalLM

    from fgmp.quantizer import FGMPConfig, quantize, save

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    samples = torch.randint(64, (2, 16))
    seeds = []
    for options in ({}, {"activations": "static"}, {"channel_codes": True}):
        model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=64)).eval()
        config = FGMPConfig(samples=2, threshold_samples=2, window=16, **options)
        with tempfile.TemporaryDirectory() as folder:
            save(quantize(model, config, samples, progress=False), Path(folder) / "m")
            settings = (Path(folder) / "m" / "config.json").read_bytes()
            shard = (Path(folder) / "m" / "model.safetensors").read_bytes()
        seeds.append(_sealed_folder(json.loads(settings), shard))
    return seeds


def _split(data: bytes) -> tuple[bytes, bytes]:
    size = struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0]
    return data[8 : 8 + size], data[8 + size :]


def _mutate_folder(data: bytes, chance: random.Random) -> bytes:
    settings, shard = _split(data)
    tree = json.loads(settings)
    if chance.random() < 0.6:
        tree["quantization_config"] = tree_changed(tree["quantization_config"], chance)
    elif chance.random() < 0.5:
        tree = tree_changed(tree, chance)
    else:
        shard = safetensors_changed(shard, chance, lambda header, body: None)
    return _sealed_folder(tree, shard)


def _sealed_folder(tree: Any, shard: bytes) -> bytes:
    """With the digests that whoever wrote this would have put."""
    with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
        manifest = tree["quantization_config"]
        manifest["files"] = {"model.safetensors": hashlib.sha256(shard).hexdigest()}
        manifest["settings"] = json_digest({k: v for k, v in tree.items() if k != "quantization_config"})
        manifest["sha256"] = json_digest({k: v for k, v in manifest.items() if k != "sha256"})
    text = json.dumps(tree).encode()
    return struct.pack("<Q", len(text)) + text + shard


def _read_folder(data: bytes) -> object:
    settings, shard = _split(data)

    def read(path: Path) -> object:
        path.unlink()
        (path.parent / "config.json").write_bytes(settings)
        (path.parent / "model.safetensors").write_bytes(shard)
        return read_folder(path.parent)

    return _written(b"", "x", read)


# Checkpoints of others


def _foreign_seeds() -> list[bytes]:
    from safetensors.torch import save

    torch.manual_seed(0)
    codes, scales = torch.randint(256, (4, 16), dtype=torch.uint8), torch.rand(4, 2).to(torch.float8_e4m3fn)
    eight = torch.randn(4, 32).to(torch.float8_e4m3fn)
    plain = {"norm.weight": torch.ones(4)}
    cases: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = [
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4"},
            {"a.weight": codes, "a.weight_scale": scales, "a.weight_scale_2": torch.tensor(0.5)},
        ),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, {"a.weight": eight, "a.weight_scale": torch.tensor(0.5)}),
        (
            {"quant_method": "fp8", "weight_block_size": [2, 16]},
            {"a.weight": eight, "a.weight_scale_inv": torch.rand(2, 2)},
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "nvfp4-pack-quantized",
                "config_groups": {"g": {"weights": {"num_bits": 4, "type": "float"}}},
            },
            {"a.weight_packed": codes, "a.weight_scale": scales, "a.weight_global_scale": torch.tensor([2.0])},
        ),
    ]
    seeds = []
    for settings, tensors in cases:
        text = json.dumps({"model_type": "llama", "dtype": "bfloat16", "quantization_config": settings}).encode()
        seeds.append(struct.pack("<Q", len(text)) + text + save({**tensors, **plain}))
    return seeds


def _mutate_foreign(data: bytes, chance: random.Random) -> bytes:
    settings, shard = _split(data)
    if chance.random() < 0.5:
        settings = json.dumps(tree_changed(json.loads(settings), chance)).encode()
    else:
        shard = safetensors_changed(shard, chance, lambda header, body: None)
    return struct.pack("<Q", len(settings)) + settings + shard


def _read_foreign(data: bytes) -> object:
    settings, shard = _split(data)

    def read(path: Path) -> object:
        source = path.parent / "source"
        source.mkdir()
        (source / "config.json").write_bytes(settings)
        (source / "model.safetensors").write_bytes(shard)
        return convert(source, path.parent / "out")

    return _written(b"", "x", read)


# Texts


def _text(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.1:
        return bytes_changed(data, chance)
    return text_changed(data.decode("utf-8", "replace"), chance).encode("utf-8", "replace")


def _json(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.1:
        return bytes_changed(data, chance)
    return json.dumps(tree_changed(json.loads(data), chance)).encode()


def _files(pattern: str) -> Callable[[], list[bytes]]:
    return lambda: [path.read_bytes() for path in sorted(DATA.glob(pattern))]


def _read_liberty(data: bytes) -> object:
    def read(path: Path) -> None:
        cells = read_liberty(path).cells
        for name in cells.cell_names:
            cells.cell(name)
        library = parse_liberty(data.decode("utf-8", "replace"), "fuzz")
        for name in library.cells:
            library.cell(name)

    return _written(data, "cells.lib", read)


def _read_prices(data: bytes) -> object:
    return _written(data, "energy.json", Prices.read)


def _read_sweep(data: bytes) -> object:
    return _written(data, "sweep.toml", read_spec)


def _read_report(data: bytes) -> object:
    return _written(data, "run.json", lambda path: report([path]))


TARGETS = {
    target.name: target
    for target in (
        Target("packed", _packed_seeds, lambda d, c: safetensors_changed(d, c, _seal_packed), _read_packed),
        Target("folder", _folder_seeds, _mutate_folder, _read_folder),
        Target("foreign", _foreign_seeds, _mutate_foreign, _read_foreign),
        Target("liberty", _files("*.lib"), _text, _read_liberty),
        Target("sweep", _files("*.toml"), _text, _read_sweep),
        Target("prices", _files("energy.json"), _json, _read_prices),
        Target("report", _files("*.json"), _json, _read_report),
    )
}
"""By name."""


def attempt(target: Target, data: bytes) -> str | None:
    """The error that a user sees, None if the file was read. Whatever else is raised is a finding."""
    try:
        target.read(data)
    except InputError as error:
        return str(error)  # which the command line shortens and escapes
    return None
