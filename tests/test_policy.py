"""Impact scores, the global threshold and clipping."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgmp.errors import InputError
from fgmp.formats import MAX_BLOCK_SCALE_CODE
from fgmp.golden.blocks import scale_to_stored, stored_fp4, tensor_exponent, to_blocks
from fgmp.golden.clipping import clipped_scale_codes, tree_sum
from fgmp.golden.compiled import quantize_mixed
from fgmp.golden.matrix import mixed_blocks, scale_codes
from fgmp.golden.selector import SiteSettings, Threshold, select
from fgmp.quantizer.choose.percentile import choose_globally, find_rank
from fgmp.quantizer.choose.scores import weight_impacts
from fgmp.quantizer.config import check_fraction

scores = st.lists(st.lists(st.integers(0, 5).map(float), min_size=1, max_size=20), min_size=1, max_size=4)


@given(scores, st.floats(0, 1))
def test_exactly_the_asked_fraction_is_fp4_and_ties_go_by_position(lists, fraction):
    choice = choose_globally([np.array(values).reshape(1, -1) for values in lists], fraction)
    flat = [v for values in lists for v in values]
    mask = [m for masks in choice.masks() for m in masks.ravel().tolist()]
    count = math.floor(fraction * len(flat) + 0.5)
    order = sorted(range(len(flat)), key=lambda i: (flat[i], i))
    assert {i for i, fp8 in enumerate(mask) if not fp8} == set(order[:count])
    if count:
        assert choice.threshold == flat[order[count - 1]]


@given(st.lists(st.floats(0, allow_infinity=True, allow_nan=False), min_size=1, max_size=50), st.data())
def test_rank_equals_sorting(values, data):
    """Any floats: subnormal, huge, infinite, +0 and -0."""
    values += [-0.0, 5e-324]
    rank = data.draw(st.integers(1, len(values)))
    cut = data.draw(st.integers(0, len(values)))
    parts = [np.array(values[:cut]), np.array(values[cut:])]
    found = find_rank(lambda: parts, rank)
    assert found.value == sorted(values)[rank - 1]
    assert found.ties == rank - sum(v < found.value for v in values)


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_wrong_fraction(fraction):
    with pytest.raises(InputError, match=f"FP4 fraction: {fraction}, expected a number from 0 to 1"):
        check_fraction(fraction)


def blocks_of(weight):
    exponent = tensor_exponent(weight)
    return to_blocks(scale_to_stored(weight, exponent)).flatten(0, 1), exponent


def random_weight(shape, power=1.0, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2.0**power


def test_weight_score_is_in_real_units_and_weighted():
    w = random_weight((2, 32), 10)
    f = torch.rand(2, 32, generator=torch.Generator().manual_seed(4))
    v, exponent = blocks_of(w)
    codes = scale_codes(v, None)
    q4, q8 = (
        mixed_blocks(v.view(2, 2, 16), codes.view(2, 2), torch.full((2, 2), fp8), (2, 32), exponent)
        .dequantize()
        .double()
        for fp8 in (False, True)
    )
    expected = tree_sum(to_blocks(f.double() * (q4 - q8) ** 2)).flatten()
    assert torch.equal(weight_impacts(v, codes, to_blocks(f).flatten(0, 1), exponent), expected)


def test_scaling_a_tensor_by_a_power_of_two_scales_its_scores():
    scores = []
    for size in (0, 3):
        v, exponent = blocks_of(random_weight((4, 32), size))
        scores.append(weight_impacts(v, scale_codes(v, None), torch.ones_like(v), exponent))
    assert torch.equal(scores[0] * 64, scores[1])


@pytest.mark.parametrize("power", [-20, 0, 5])
def test_compiled_arithmetic_equals_the_plain(power):
    """Clipping, scores and codes, ties and subnormals included; the compiled quantizer equals the selector."""
    generator = torch.Generator().manual_seed(power + 100)
    w = torch.cat(
        (random_weight((64, 64), power), torch.arange(-448, 448).repeat(5)[: 64 * 64].view(64, 64) * 2.0**power)
    )
    w[0] = 0
    v, exponent = blocks_of(w)
    f = torch.rand(v.shape, generator=generator) ** 6
    codes = scale_codes(v, f)
    assert torch.equal(scale_codes(v, f, fast=True), codes)
    assert torch.equal(weight_impacts(v, codes, f, exponent, fast=True), weight_impacts(v, codes, f, exponent))
    mask = torch.rand(128, 4, generator=generator) < 0.3
    plain, fast = (
        mixed_blocks(v.view(128, 4, 16), codes.view(128, 4), mask, (128, 64), exponent, fast=fast)
        for fast in (False, True)
    )
    assert torch.equal(fast.codes, plain.codes)
    assert torch.equal(fast.scales, plain.scales)
    registers = SiteSettings(exponent, Threshold(200, 10))
    expected = select(w, registers)
    got = quantize_mixed(w, exponent, registers.threshold.value)
    assert all(
        torch.equal(a, b)
        for a, b in ((got.codes, expected.codes), (got.scales, expected.scales), (got.fp8, expected.fp8))
    )


def brute_force(blocks, sensitivity):
    """All 105 scales, ties to the smaller."""
    f = sensitivity.double()
    f = torch.where((f == 0).all(-1, keepdim=True), 1.0, f)
    costs = []
    for code in range(1, MAX_BLOCK_SCALE_CODE + 1):
        _, q4 = stored_fp4(blocks, torch.full((len(blocks),), code, dtype=torch.uint8))
        costs.append(tree_sum(f * (blocks.double() - q4) ** 2))
    return (torch.stack(costs).argmin(0) + 1).to(torch.uint8)


@given(st.integers(0, 2**32 - 1), st.floats(-14, 9), st.sampled_from([0.0, 1.0, 4.0, 12.0]))
@settings(max_examples=60)
def test_clipping_is_exact_over_all_scales(seed, size, spread):
    generator = torch.Generator().manual_seed(seed)
    blocks = (torch.randn(40, 16, generator=generator) * 2.0**size).clamp(-448, 448)
    sensitivity = torch.rand(40, 16, generator=generator) ** spread
    sensitivity[:3] = 0
    sensitivity[3:8, ::2] = 0
    blocks[8] = 0
    blocks[9, 1:] = 0
    assert torch.equal(clipped_scale_codes(blocks, sensitivity), brute_force(blocks, sensitivity))


def test_clipping_never_costs_more_than_amax_over_six():
    v, _ = blocks_of(random_weight((32, 64)) ** 3)
    f = torch.rand(v.shape, generator=torch.Generator().manual_seed(5))

    def cost(codes):
        return tree_sum(f.double() * (v - stored_fp4(v, codes)[1]).double() ** 2)

    plain, clipped = cost(scale_codes(v, None)), cost(scale_codes(v, f))
    assert (clipped <= plain).all()
    assert (clipped < plain).any()


def test_clipping_where_one_small_element_matters_most():
    """The best scale lies far below amax / 6, beyond the codes that are tried first."""
    v = torch.full((4, 16), 400.0)
    v[:, 3] = torch.tensor([0.011, 0.4, 3.1, 20.0])
    f = torch.full_like(v, 1e-30)
    f[:, 3] = 1
    assert torch.equal(clipped_scale_codes(v, f), brute_force(v, f))
    assert (clipped_scale_codes(v, f) < 60).any()
