"""Tensor exponent, scaling, and the mixed tensor."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fgmp.errors import InputError
from fgmp.golden import exact
from fgmp.golden.blocks import Blocks, check_no_nan, scale_to_stored, tensor_exponent, to_blocks
from fgmp.golden.matrix import quantize_matrix


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_tensor_exponent_equals_reference(x):
    assert tensor_exponent(torch.tensor([x, 0.0])) == exact.tensor_exponent(abs(Fraction(x)))


@pytest.mark.parametrize(
    ("amax", "exponent"), [(448.0, 0), (448.001, 1), (224.0, -1), (1.75, -8), (1.76, -7), (0.0, 0), (1e30, 47)]
)
def test_tensor_exponent_boundaries(amax, exponent):
    assert tensor_exponent(torch.tensor([amax])) == exponent


def test_infinities_do_not_count_and_saturate():
    x = torch.tensor([1.0, float("inf"), -float("inf")])
    assert tensor_exponent(x) == tensor_exponent(torch.tensor([1.0]))
    assert scale_to_stored(x, 0).tolist() == [1.0, 448.0, -448.0]


def test_nan_is_named_by_tensor_and_index():
    x = torch.zeros(3, 4)
    x[2, 1] = float("nan")
    with pytest.raises(InputError, match=r"tensor q_proj: NaN at index \(2, 1\)"):
        check_no_nan(x, "q_proj")
    with pytest.raises(InputError, match="tensor q_proj: NaN"):
        quantize_matrix(x, torch.ones(3, 1, dtype=torch.bool), name="q_proj")


def test_float64_is_refused():
    with pytest.raises(InputError, match=r"dtype torch\.float64, expected float32"):
        scale_to_stored(torch.zeros(2, dtype=torch.float64), 0)


def test_blocks_are_padded_with_zeros():
    blocks = to_blocks(torch.ones(2, 20))
    assert blocks.shape == (2, 2, 16)
    assert blocks[:, 1, 4:].sum() == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_stored_values_equal_reference(seed, columns):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(3, columns, generator=generator) * 10
    mask = torch.rand(3, -(-columns // 16), generator=generator) < 0.5
    tensor = quantize_matrix(w, mask)
    stored = tensor.stored()
    for row in range(3):
        for column in range(columns):
            b, i = divmod(column, 16)
            block = exact.StoredBlock(
                bool(mask[row, b]), int(tensor.scales[row, b]), tuple(tensor.codes[row, b].tolist())
            )
            assert block.value(i) == stored[row, column].item()
            v = Fraction(w[row, column].item()) / Fraction(2) ** tensor.exponent
            if mask[row, b]:
                assert block.codes[i] == exact.encode(exact.E4M3, v)
            else:
                assert block.codes[i] == exact.quantize_e2m1(v, block.scale)
    assert torch.equal(tensor.dequantize(), stored * 2.0**tensor.exponent)


def test_fp8_share():
    mask = torch.tensor([[True, False, False, False]])
    zeros = torch.zeros(1, 4, dtype=torch.uint8)
    codes = torch.zeros(1, 4, 16, dtype=torch.uint8)
    assert Blocks.merge(mask, (codes, zeros + 1), codes).fp8_share == 0.25
