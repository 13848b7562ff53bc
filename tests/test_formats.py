"""The shared constants against tables typed in by hand, and the formats against independent libraries."""

import math

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
import torch

from fgmp import formats
from fgmp.formats import BFLOAT16, E2M1, E4M3, FLOAT32
from fgmp.golden.codec import decode_e2m1, decode_e4m3
from fgmp.golden.exact import decode

# fmt: off
E2M1_TABLE = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
E4M3_TABLE = [
    0, 2**-9, 2 * 2**-9, 3 * 2**-9, 4 * 2**-9, 5 * 2**-9, 6 * 2**-9, 7 * 2**-9,
    0.015625, 0.017578125, 0.01953125, 0.021484375, 0.0234375, 0.025390625, 0.02734375, 0.029296875,
    0.03125, 0.03515625, 0.0390625, 0.04296875, 0.046875, 0.05078125, 0.0546875, 0.05859375,
    0.0625, 0.0703125, 0.078125, 0.0859375, 0.09375, 0.1015625, 0.109375, 0.1171875,
    0.125, 0.140625, 0.15625, 0.171875, 0.1875, 0.203125, 0.21875, 0.234375,
    0.25, 0.28125, 0.3125, 0.34375, 0.375, 0.40625, 0.4375, 0.46875,
    0.5, 0.5625, 0.625, 0.6875, 0.75, 0.8125, 0.875, 0.9375,
    1, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875,
    2, 2.25, 2.5, 2.75, 3, 3.25, 3.5, 3.75,
    4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5,
    8, 9, 10, 11, 12, 13, 14, 15,
    16, 18, 20, 22, 24, 26, 28, 30,
    32, 36, 40, 44, 48, 52, 56, 60,
    64, 72, 80, 88, 96, 104, 112, 120,
    128, 144, 160, 176, 192, 208, 224, 240,
    256, 288, 320, 352, 384, 416, 448,
]
# fmt: on


def test_constants():
    assert formats.BLOCK_SIZE == 16
    assert (formats.MIN_BLOCK_SCALE_CODE, formats.MAX_BLOCK_SCALE_CODE) == (1, 105)
    assert formats.MAX_STORED == 448
    assert formats.STORED_FRACTION_BITS == 10
    assert formats.ACCUMULATOR_FRACTION_BITS == 20
    assert formats.TENSOR_EXPONENT_LIMIT == 47
    assert formats.K_LIMIT == 42799
    assert (formats.FP4_BLOCK_BITS, formats.FP8_BLOCK_BITS) == (16 * 4 + 8 + 1, 16 * 8 + 1)
    assert formats.SELECTOR_MODES == ("dynamic", "static", "all_fp4", "all_fp8")
    assert (formats.THRESHOLD_SIGNIFICAND_BITS, formats.THRESHOLD_EXPONENT_BITS) == (8, 6)
    assert (formats.SCORE_BITS, formats.SCORE_BITS_WITH_CHANNEL_CODES) == (38, 53)


@pytest.mark.parametrize(("k", "bits"), [(1024, 49), (4096, 51), (11008, 53), (42799, 54)])
def test_accumulator_bits(k, bits):
    assert formats.accumulator_bits(k) == bits


def test_k_limit_is_the_last_exact_one():
    assert 42799 * 448**2 * 2**20 < 2**53 <= 42800 * 448**2 * 2**20


def test_results_are_normal_float32_at_the_exponent_limits():
    smallest, largest = -2 * 47 - 20, 2 * 47
    assert smallest >= -126
    assert (42799 * 448**2) * 2.0**largest < float(np.finfo(np.float32).max)


def test_magnitudes():
    assert list(E2M1.magnitudes) == E2M1_TABLE
    assert list(E4M3.magnitudes) == E4M3_TABLE
    assert E4M3.magnitude(105) == 72
    assert math.isnan(E4M3.magnitude(0x7F))


@pytest.mark.parametrize("code", range(256))
def test_e4m3_code_against_oracles(code):
    value = decode_e4m3(torch.tensor(code, dtype=torch.uint8)).item()
    oracles = [
        torch.tensor(code, dtype=torch.uint8).view(torch.float8_e4m3fn).float().item(),
        float(np.uint8(code).view(ml_dtypes.float8_e4m3fn)),
        gfloat.decode_float(gfloat.formats.format_info_ocp_e4m3, code).fval,
    ]
    exact = decode(E4M3, code)
    for oracle in oracles:
        assert value == oracle or (math.isnan(value) and math.isnan(oracle))
        assert (exact is None) == math.isnan(oracle)
        assert exact is None or exact == oracle


@pytest.mark.parametrize("code", range(16))
def test_e2m1_code_against_oracles(code):
    value = decode_e2m1(torch.tensor(code, dtype=torch.uint8)).item()
    assert value == float(np.uint8(code).view(ml_dtypes.float4_e2m1fn))
    assert value == gfloat.decode_float(gfloat.formats.format_info_ocp_e2m1, code).fval
    assert value == decode(E2M1, code)


def test_float32_and_bfloat16_descriptors():
    for bits in (0, 1, 0x7FFFFF, 0x800000, 0x3F800000, 0x7F7FFFFF, 0x7F800000):
        assert FLOAT32.magnitude(bits) == float(np.uint32(bits).view(np.float32))
        assert BFLOAT16.magnitude(bits >> 16) == float(np.uint32(bits >> 16 << 16).view(np.float32))
    assert math.isnan(FLOAT32.magnitude(0x7FC00000))
    assert math.isnan(BFLOAT16.magnitude(0x7FC0))
