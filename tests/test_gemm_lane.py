"""The exact GEMM and the lane's expected values, against integers and the reference oracle."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgmp.errors import InputError
from fgmp.formats import BFLOAT16, FLOAT32
from fgmp.golden import exact, gemm
from fgmp.golden.blocks import Blocks
from fgmp.golden.gemm import exact_gemm, raw_gemm, round_raw
from fgmp.golden.lane import check_k, expected_rows
from fgmp.golden.random_blocks import random_blocks


def random_stored(generator, *shape):
    units = torch.randint(-448 * 1024, 448 * 1024 + 1, shape, generator=generator)
    return units, units.double() / 1024


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(-94, 94))
@settings(max_examples=50)
def test_gemm_equals_integers(seed, k, exponent):
    generator = torch.Generator().manual_seed(seed)
    a_units, a = random_stored(generator, 3, k)
    w_units, w = random_stored(generator, 2, k)
    raw = raw_gemm(a, w)
    float32 = exact_gemm(a, w, exponent).view(torch.int32)
    bfloat16 = exact_gemm(a, w, exponent, torch.bfloat16).view(torch.int16)
    for i in range(3):
        for j in range(2):
            total = sum(x * y for x, y in zip(a_units[i].tolist(), w_units[j].tolist(), strict=True))
            assert raw[i, j].item() == total
            value = Fraction(total) * Fraction(2) ** (exponent - 20)
            assert float32[i, j].item() & 0xFFFFFFFF == exact.encode(FLOAT32, value)
            assert bfloat16[i, j].item() & 0xFFFF == exact.encode(BFLOAT16, value)


def test_gemm_of_the_longest_row_of_extremes():
    a = torch.full((1, 42799), 448.0)
    assert raw_gemm(a, a).item() == 42799 * 448**2 * 2**20
    assert raw_gemm(a, -a).item() == -42799 * 448**2 * 2**20


def test_longer_rows_are_split_and_added_exactly():
    k = 3 * 42799 + 5
    a = torch.full((1, k), 448.0)
    w = torch.full((1, k), 448.0)
    w[0, -1] = 2.0**-10
    expected = (k - 1) * 448**2 * 2**20 + 448 * 2**10
    assert raw_gemm(a, w).item() == expected
    got = exact_gemm(a, w, 0).view(torch.int32).item()
    assert got == exact.encode(FLOAT32, Fraction(expected, 2**20))


def test_the_bound_on_k_is_asserted():
    with pytest.raises(AssertionError):
        gemm._product(torch.zeros(1, 42800), torch.zeros(1, 42800))


def test_rows_that_not_even_integers_hold_are_refused():
    with pytest.raises(InputError, match="K: 21913088"):
        raw_gemm(torch.zeros(1, 1).expand(1, 42799 * 512), torch.zeros(1, 1).expand(1, 42799 * 512))


@given(st.integers(-(2**62), 2**62), st.integers(-94, 60))
def test_round_raw_rounds_once(raw, exponent):
    value = Fraction(raw) * Fraction(2) ** (exponent - 20)
    for dtype, fmt, view, bits in (
        (torch.float32, FLOAT32, torch.int32, 32),
        (torch.bfloat16, BFLOAT16, torch.int16, 16),
    ):
        got = round_raw(torch.tensor([raw]), exponent, dtype).view(view).item() & (1 << bits) - 1
        assert got == exact.encode(fmt, value)


def test_zero_is_plus_zero():
    a = torch.tensor([[0.0]], dtype=torch.float64)
    assert exact_gemm(a, torch.tensor([[-1.0]]), 3).view(torch.int32).item() == 0
    assert exact_gemm(a, torch.tensor([[-1.0]]), 3, torch.bfloat16).view(torch.int16).item() == 0


def test_mismatched_k_is_refused():
    with pytest.raises(InputError, match="K: 3 and 4"):
        exact_gemm(torch.zeros(1, 3), torch.zeros(1, 4), 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from([16, 64, 128]))
@settings(max_examples=60)
def test_expected_rows_equal_reference(seed, blocks, k_max):
    generator = torch.Generator().manual_seed(seed)
    a, w = (
        random_blocks((4, blocks), generator, illegal=0.1, nan=0.004),
        random_blocks((4, blocks), generator, illegal=0.1, nan=0.004),
    )
    exponents = torch.randint(-110, 111, (4,), generator=generator)
    expected = expected_rows(a, w, exponents, k_max)
    for row in range(4):
        pairs = [(stored(a, row, b), stored(w, row, b)) for b in range(blocks)]
        assert exact.lane_row(pairs, int(exponents[row]), k_max) == result(expected, row)


def test_illegal_scale_that_decodes_to_nan_is_not_a_nan_element():
    """Found by the RTL bench: 0x7F as an FP4 block's scale is a format error and nothing else."""
    blocks = Blocks(
        torch.tensor([[False]]), torch.tensor([[0x7F]], dtype=torch.uint8), torch.ones(1, 1, 16, dtype=torch.uint8)
    )
    got = expected_rows(blocks, blocks, torch.tensor([0]), 16)
    assert got.format_error.item()
    assert not got.nan.item()


def test_overflow_wraps_and_poisons():
    """k_max = 16 holds 16 products of 448**2, with less than twice that to spare."""
    blocks = Blocks(
        torch.ones(1, 3, dtype=torch.bool),
        torch.zeros(1, 3, dtype=torch.uint8),
        torch.full((1, 3, 16), 0x7E, dtype=torch.uint8),
    )
    got = expected_rows(blocks, blocks, torch.tensor([0]), 16)
    assert got.overflow.item()
    assert got.float32.item() == 0x7FC00000
    assert got.raw.item() == (3 * 16 * 448**2 * 2**20 + 2**42) % 2**43 - 2**42


def test_check_k():
    check_k(4096, 4096)
    for k in (0, 4097):
        with pytest.raises(InputError, match=f"K: {k}, expected 1 to 4096"):
            check_k(k, 4096)


def stored(blocks, row, b):
    fp8 = bool(blocks.fp8[row, b])
    codes = [c if fp8 else c & 15 for c in blocks.codes[row, b].tolist()]
    return exact.StoredBlock(fp8, int(blocks.scales[row, b]), tuple(codes))


def result(expected, row):
    return exact.LaneResult(
        *(int(t[row]) for t in (expected.raw, expected.float32, expected.bfloat16)),
        *(bool(t[row]) for t in (expected.nan, expected.format_error, expected.overflow)),
    )
