"""Impact scores, the global threshold and clipping."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgmp.errors import InputError
from fgmp.golden.blocks import scale_to_stored, stored_fp4, to_blocks
from fgmp.golden.clipping import clipped_scale_codes, tree_sum
from fgmp.golden.codec import decode_e4m3, encode_e4m3
from fgmp.golden.formats import MAX_BLOCK_SCALE_CODE
from fgmp.golden.policy import check_fraction, choose_globally, weight_candidates, weight_scores

scores = st.lists(st.lists(st.integers(0, 5).map(float), min_size=1, max_size=20), min_size=1, max_size=4)


@given(scores, st.floats(0, 1))
def test_exactly_the_asked_fraction_is_fp4_and_ties_go_by_position(lists, fraction):
    tensors = [torch.tensor(values).view(1, -1) for values in lists]
    choice = choose_globally(tensors, fraction)
    flat = [v for values in lists for v in values]
    mask = [m for masks in choice.masks for m in masks.flatten().tolist()]
    count = math.floor(fraction * len(flat) + 0.5)
    order = sorted(range(len(flat)), key=lambda i: (flat[i], i))
    assert {i for i, fp8 in enumerate(mask) if not fp8} == set(order[:count])
    if count:
        assert choice.threshold == flat[order[count - 1]]


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_wrong_fraction(fraction):
    with pytest.raises(InputError, match=f"FP4 fraction: {fraction}, expected a number from 0 to 1"):
        check_fraction(fraction)


def test_weight_score_is_in_real_units_and_weighted():
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(2, 32, generator=generator) * 1000
    f = torch.rand(2, 32, generator=generator)
    candidates = weight_candidates(w, None)
    q4, q8 = (candidates.pick(torch.full((2, 2), fp8)).dequantize().double() for fp8 in (False, True))
    expected = tree_sum(to_blocks(f.double() * (q4 - q8) ** 2))
    assert torch.equal(weight_scores(candidates, "fisher", f, generator), expected)
    unweighted = tree_sum(to_blocks((q4 - q8) ** 2))
    assert torch.equal(weight_scores(candidates, "quantization-error", None, generator), unweighted)


def test_scaling_a_tensor_by_a_power_of_two_scales_its_scores():
    w = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    small, large = (weight_scores(weight_candidates(w * s, None), "quantization-error", None, None) for s in (1, 8))
    assert torch.equal(small * 64, large)


def test_unknown_policy_and_missing_sensitivity():
    candidates = weight_candidates(torch.ones(1, 16), None)
    with pytest.raises(InputError, match="policy: 'best'"):
        weight_scores(candidates, "best", None, torch.Generator())
    with pytest.raises(InputError, match="policy fisher: no sensitivity"):
        weight_scores(candidates, "fisher", None, torch.Generator())


def test_random_policy_is_seeded():
    candidates = weight_candidates(torch.ones(4, 64), None)
    draws = [weight_scores(candidates, "random", None, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


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
    generator = torch.Generator().manual_seed(5)
    w = torch.randn(32, 64, generator=generator) ** 3
    f = torch.rand(32, 64, generator=generator)

    def cost(sensitivity):
        c = weight_candidates(w, sensitivity)
        v = to_blocks(scale_to_stored(w, c.exponent)).double()
        q4 = stored_fp4(v.float(), c.scales)[1]
        return tree_sum(to_blocks(f).double() * (v - q4) ** 2)

    assert (cost(f) <= cost(None)).all()
    assert (cost(f) < cost(None)).any()


def test_candidates_codes_are_the_formats_own():
    w = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    candidates = weight_candidates(w, None)
    v = to_blocks(scale_to_stored(w, candidates.exponent))
    assert torch.equal(candidates.codes8, encode_e4m3(v))
    assert torch.equal(
        candidates.error.sqrt() * 2.0**-candidates.exponent,
        (stored_fp4(v, candidates.scales)[1] - decode_e4m3(candidates.codes8)).abs().double(),
    )
