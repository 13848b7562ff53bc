"""The packed form: sizes, round trips, and files that were tampered with."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fgmp.errors import InputError
from fgmp.golden.blocks import Blocks
from fgmp.golden.matrix import quantize_matrix
from fgmp.golden.packed_file import load_packed, save_packed
from fgmp.golden.packing import Packed, describe, pack, unpack


def mixed(rows, columns, fp8_share=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator)
    return quantize_matrix(matrix, torch.rand(rows, -(-columns // 16), generator=generator) < fp8_share)


def same(a, b):
    return (
        a.shape == b.shape
        and a.exponent == b.exponent
        and all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("fp8", "scales", "codes"))
    )


@given(st.integers(1, 5), st.integers(1, 300), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 99))
def test_round_trip(rows, columns, share, seed):
    tensor = mixed(rows, columns, share, seed)
    packed = pack(tensor)
    assert same(unpack(packed), tensor)
    again = pack(unpack(packed))
    assert all(torch.equal(getattr(packed, n), getattr(again, n)) for n in ("mask", "scales", "payload"))


def test_layout_by_hand():
    """One FP8 block then two FP4 blocks: mask bit 0 first, even element in the low nibble."""
    tensor = mixed(1, 48)
    codes = torch.zeros(1, 3, 16, dtype=torch.uint8)
    codes[0, 0] = torch.arange(16) + 0x30
    codes[0, 1, :4] = torch.tensor([1, 2, 3, 12])
    codes[0, 2, 15] = 7
    mask = torch.tensor([[True, False, False]])
    tensor = Blocks(mask, torch.tensor([[0, 5, 105]], dtype=torch.uint8), codes).tensor((1, 48), -3)
    packed = pack(tensor)
    assert packed.mask.tolist() == [[0b001]]
    assert packed.scales.tolist() == [5, 105]
    assert packed.payload.tolist() == [*range(0x30, 0x40), 0x21, 0xC3, *[0] * 6, *[0] * 7, 0x70]


@pytest.mark.parametrize(("share", "bits"), [(0.0, 4.5625), (1.0, 8.0625)])
def test_bits_per_element(share, bits):
    assert describe({"w": mixed(64, 1024, share)})[0]["bits_per_weight"] == bits


def broken(packed, **changes):
    return Packed(**{**{n: getattr(packed, n) for n in ("shape", "exponent", "mask", "scales", "payload")}, **changes})


def test_unpack_refuses_what_is_not_a_packed_tensor():
    packed = pack(mixed(2, 40))
    scale = packed.scales.clone()
    scale[0] = 106
    for changes, message in (
        ({"exponent": 48}, "w: tensor exponent 48"),
        ({"payload": packed.payload[:-1]}, "w: payload has"),
        ({"scales": packed.scales[:-1]}, "w: scales has"),
        ({"scales": scale}, "w: block scale 0 has code 106, expected 1 to 105"),
        ({"mask": packed.mask[:1]}, "w: mask has 1 bytes, expected 2"),
        ({"mask": packed.mask | 0x80}, "w: mask has a bit set beyond block 2"),
    ):
        with pytest.raises(InputError, match=message):
            unpack(broken(packed, **changes), "w")


def test_unpack_refuses_nan_and_dirty_padding():
    packed = pack(mixed(1, 20, 1.0))
    nan, dirty = packed.payload.clone(), packed.payload.clone()
    nan[3], dirty[-1] = 0xFF, 1
    with pytest.raises(InputError, match=r"element \(0, 0, 3\) is NaN"):
        unpack(broken(packed, payload=nan), "w")
    with pytest.raises(InputError, match="padding beyond column 19"):
        unpack(broken(packed, payload=dirty), "w")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "packed.safetensors"
    save_packed(path, {"a": pack(mixed(3, 40, seed=1)), "b": pack(mixed(2, 16, 1.0, seed=2))})
    assert [p.name for p in tmp_path.iterdir()] == ["packed.safetensors"]
    return path


def test_file_round_trip(file):
    loaded = load_packed(file)
    assert list(loaded) == ["a", "b"]
    assert same(unpack(loaded["a"]), mixed(3, 40, seed=1))


def test_every_truncation_is_refused(file):
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(InputError, match="packed file"):
            load_packed(file)


@settings(max_examples=300)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path_factory, position, bit):
    path = tmp_path_factory.mktemp("flip") / "packed.safetensors"
    tensors = {"a": pack(mixed(2, 40, seed=1))}
    save_packed(path, tensors)
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        loaded = load_packed(path)
    except InputError:
        return
    assert list(loaded) == ["a"]
    assert same(unpack(loaded["a"]), unpack(tensors["a"]))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "other", "format 'other'"),
        ("version", "2", "version '2'"),
        ("tensors", "{}", "checksum of its index"),
    ],
)
def test_foreign_metadata_is_refused(file, key, value, message):
    with safe_open(file, "pt") as f:
        metadata = dict(f.metadata())
    metadata[key] = value
    save_file(load_file(file), file, metadata)
    with pytest.raises(InputError, match=message):
        load_packed(file)


def test_missing_tensor_is_refused(file):
    with safe_open(file, "pt") as f:
        metadata = dict(f.metadata())
    flat = load_file(file)
    del flat["b.weight"]
    save_file(flat, file, metadata)
    with pytest.raises(InputError, match=r"tensor b\.weight is missing"):
        load_packed(file)
    assert json.loads(metadata["tensors"])["b"]["shape"] == [2, 16]


def test_missing_file():
    with pytest.raises(InputError, match="not found"):
        load_packed(Path("/nonexistent.safetensors"))


@pytest.mark.parametrize("part", ["scales", "payload"])
def test_parts_of_another_shape_are_refused(part):
    """As many bytes, in two dimensions: found by fuzzing."""
    packed = pack(mixed(3, 64))
    bent = dataclasses.replace(packed, **{part: getattr(packed, part)[:, None]})
    with pytest.raises(InputError, match=rf"tensor: {part} has shape \(\d+, 1\), expected one dimension"):
        unpack(bent)
