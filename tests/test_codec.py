"""Rounding: every named tie, exhaustive bfloat16 inputs, and the reference oracle on random ones."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fgmp.formats import BFLOAT16, E2M1, E4M3, FLOAT32
from fgmp.golden import exact
from fgmp.golden.blocks import block_scale_codes
from fgmp.golden.codec import (
    decode_e2m1,
    decode_e4m3,
    encode_e2m1,
    encode_e4m3,
    pack_nibbles,
    round_to_bfloat16,
    unpack_nibbles,
)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def e4m3(x):
    return encode_e4m3(torch.tensor([x], dtype=torch.float32)).item()


def e2m1(x, scale=1.0):
    return encode_e2m1(torch.tensor([x], dtype=torch.float32), torch.tensor([scale])).item()


@pytest.mark.parametrize(
    ("tie", "magnitude"),
    [(0.25, 0), (0.75, 1), (1.25, 1), (1.75, 2), (2.5, 2), (3.5, 4), (5, 4)],
)
def test_e2m1_ties_go_to_even(tie, magnitude):
    assert E2M1.magnitude(e2m1(tie)) == magnitude
    assert E2M1.magnitude(e2m1(-tie)) == magnitude
    for scale in (2.0**-9, 0.6875, 72.0):
        assert E2M1.magnitude(e2m1(tie * scale, scale)) == magnitude


@pytest.mark.parametrize("code", range(0x7E))
def test_e4m3_tie_above_every_code_goes_to_even(code):
    tie = (E4M3.magnitude(code) + E4M3.magnitude(code + 1)) / 2
    assert e4m3(tie) == (code if code % 2 == 0 else code + 1)
    assert e4m3(float(np.nextafter(np.float32(tie), np.float32(1e9)))) == code + 1
    assert e4m3(float(np.nextafter(np.float32(tie), np.float32(0)))) == code


@pytest.mark.parametrize(("x", "code"), [(449, 0x7E), (464, 0x7E), (480, 0x7E), (1e38, 0x7E), (-1e38, 0xFE)])
def test_e4m3_saturates(x, code):
    assert e4m3(x) == code


@pytest.mark.parametrize("zero", [0.0, -0.0, 2.0**-11, -(2.0**-11), 1e-40, -1e-45])
def test_what_rounds_to_zero_is_plus_zero(zero):
    assert e4m3(zero) == 0
    assert e2m1(zero) == 0


def test_e2m1_saturates():
    assert (e2m1(6.0), e2m1(7.0), e2m1(1e9), e2m1(-1e9)) == (7, 7, 7, 15)


def test_e4m3_encode_inverts_decode():
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 0x7F) != 0x7F]
    assert torch.equal(encode_e4m3(decode_e4m3(codes)), torch.where(codes == 0x80, 0, codes))


@given(finite)
def test_e4m3_equals_reference(x):
    assert e4m3(x) == exact.encode(E4M3, Fraction(x))


@given(finite, st.integers(1, 105))
def test_e2m1_equals_reference(x, scale):
    assert e2m1(x, E4M3.magnitude(scale)) == exact.quantize_e2m1(Fraction(x), scale)


def test_e4m3_of_all_bfloat16_equals_ml_dtypes():
    x = all_bfloat16()
    oracle = np.clip(x.numpy(), -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    oracle = np.where(oracle == 0x80, 0, oracle)
    assert np.array_equal(encode_e4m3(x).numpy(), oracle)


@pytest.mark.parametrize("codes", [range(1, 53), range(53, 106)], ids=["small", "large"])
def test_e2m1_of_all_bfloat16_under_every_block_scale(codes):
    """Against ml_dtypes: float32's quotient of 8 by 4 significant bits cannot reach a tie that is none."""
    x = all_bfloat16()
    for code in codes:
        scale = E4M3.magnitude(code)
        quotient = np.clip(x.double().numpy() / scale, -6, 6).astype(np.float32)
        oracle = quotient.astype(ml_dtypes.float4_e2m1fn).view(np.uint8) & 15
        oracle = np.where(oracle == 8, 0, oracle)
        assert np.array_equal(encode_e2m1(x, torch.tensor(scale)).numpy(), oracle), code


def all_bfloat16():
    bits = torch.arange(1 << 16, dtype=torch.int32) << 16
    x = bits.view(torch.float32)
    return x[~torch.isnan(x)]


@pytest.mark.parametrize("code", range(106))
def test_block_scale_at_every_boundary(code):
    """amax at six times the midpoint above `code`, and its float32 neighbours."""
    tie = np.float32(6 * (E4M3.magnitude(code) + E4M3.magnitude(code + 1)) / 2)
    for amax in (np.nextafter(tie, np.float32(0)), tie, np.nextafter(tie, np.float32(1e9))):
        block = torch.zeros(1, 16)
        block[0, 3] = -float(amax)
        assert block_scale_codes(block).item() == exact.block_scale_code(Fraction(float(amax)))


def test_zero_block_has_the_smallest_scale():
    assert block_scale_codes(torch.zeros(1, 16)).item() == 1


@given(st.floats(min_value=2.0**-100, max_value=2.0**100) | st.just(0.0), st.booleans())
def test_bfloat16_is_rounded_once(x, negative):
    x = -x if negative else x
    got = round_to_bfloat16(torch.tensor([x], dtype=torch.float64)).view(torch.int16).item() & 0xFFFF
    assert got & 0x7FFF == exact.encode(BFLOAT16, abs(Fraction(x)))


def test_bfloat16_rounded_twice_would_differ():
    x = 1 + 2.0**-8 + 2.0**-30  # just above a bfloat16 tie, by less than float32 sees
    assert round_to_bfloat16(torch.tensor([x], dtype=torch.float64)).item() == 1 + 2.0**-7
    assert torch.tensor([x], dtype=torch.float64).float().bfloat16().item() == 1.0


@given(st.floats(min_value=2.0**-100, max_value=2.0**100))
def test_arbiter_float32_equals_numpy(x):
    assert exact.encode(FLOAT32, Fraction(x)) == int(np.float32(x).view(np.uint32))


def test_nibbles_round_trip_even_element_low():
    codes = torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8)
    assert pack_nibbles(codes).tolist() == [[0x21, 0x0F]]
    assert torch.equal(unpack_nibbles(pack_nibbles(codes)), codes)


def test_all_products_are_exact():
    """Every product of two stored values of unit block scale, as the golden model computes it, in fractions."""
    wide = [decode_e4m3(torch.tensor(c, dtype=torch.uint8)).double().item() for c in range(256)]
    narrow = [decode_e2m1(torch.tensor(c, dtype=torch.uint8)).double().item() for c in range(16)]
    values = [(v, E4M3, c) for c, v in enumerate(wide) if v == v] + [(v, E2M1, c) for c, v in enumerate(narrow)]
    x = torch.tensor([v for v, _, _ in values], dtype=torch.float64)
    products = x[:, None] * x
    fractions = [exact.decode(fmt, code) for _, fmt, code in values]
    for i, a in enumerate(fractions):
        assert products[i].tolist() == [a * b for b in fractions]
