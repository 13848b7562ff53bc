"""The torch selector against the scalar reference, and the threshold register."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgmp.errors import InputError
from fgmp.formats import E4M3, MAX_BLOCK_SCALE_CODE
from fgmp.golden import exact
from fgmp.golden.codec import decode_e4m3
from fgmp.golden.selector import SiteSettings, Threshold, select

value = st.one_of(
    st.floats(width=32),
    st.sampled_from([0.0, -0.0, 448.0, 449.0, 2.0**-149, float("nan"), float("inf"), -float("inf")]),
    st.floats(-500, 500, width=32),
    st.integers(-4000, 4000).map(lambda i: i / 256),
)


def arbiter_values(row):
    return [None if x != x else x if abs(x) == float("inf") else Fraction(x) for x in row]


@settings(max_examples=400)
@given(
    st.lists(value, min_size=16, max_size=16),
    st.integers(-47, 47),
    st.integers(0, 255),
    st.integers(0, 40),
    st.sampled_from(["dynamic", "static", "all_fp4", "all_fp8"]),
    st.booleans(),
    st.lists(st.integers(0, 15), min_size=16, max_size=16),
    st.booleans(),
)
def test_select_equals_reference(row, exponent, significand, shift, mode, static, channel, four_over_six):
    threshold = Threshold(significand, shift)
    settings = SiteSettings(
        exponent,
        threshold,
        mode,
        static_fp8=torch.tensor([[static]]),
        channel_codes=torch.tensor([channel]),
        four_over_six=four_over_six,
    )
    x = torch.tensor([row])
    got = select(x, settings)
    values = arbiter_values(x[0].tolist())
    want = exact.select_block(values, exponent, threshold.value, mode, static, channel, four_over_six=four_over_six)
    assert (
        exact.ExactBlock(
            bool(got.fp8[0, 0]),
            int(got.scales[0, 0]),
            tuple(got.codes[0, 0].tolist()),
            int(got.score[0, 0]),
            bool(got.nan[0, 0]),
        )
        == want
    )


def test_four_over_six_by_hand():
    """The largest element at 6 and at 4; of equal scores the first; the wider scale ends at 72."""
    settings = SiteSettings(0, mode="all_fp4", four_over_six=True)
    x = torch.zeros(4, 16)
    x[0, :2] = torch.tensor([8.0, 6.0])  # scale 2: 4 and 3; scale 1.375: 8.25 and 5.5
    x[1, :2] = torch.tensor([6.0, 3.0])  # exact at scale 1 as 6 and 3, at 1.5 as 4 and 2
    x[2, 0] = 448.0  # 112 is beyond the legal scales: both are 72
    selected = select(x, settings)
    assert decode_e4m3(selected.scales[:, 0]).tolist() == [2.0, 1.0, 72.0, 2.0**-9]
    assert selected.codes[0, 0, :2].tolist() == [6, 5]
    assert selected.score[0, 0] == 0
    assert decode_e4m3(select(x, SiteSettings(0, mode="all_fp4")).scales[0, 0]) == 1.375


def test_scores_equal_to_the_threshold_stay_fp4():
    x = torch.zeros(1, 16)
    x[0, 0], x[0, 1] = 6.0, 1.125
    score = int(select(x, SiteSettings(0, Threshold(0, 0))).score)
    exponent = max(score.bit_length() - 8, 0)
    significand = score >> exponent
    assert significand << exponent == score > 0
    assert not select(x, SiteSettings(0, Threshold(significand, exponent))).fp8.item()
    assert select(x, SiteSettings(0, Threshold(significand - 1, exponent))).fp8.item()


def test_error_is_cut_to_three_bits():
    x = torch.zeros(1, 16)
    x[0, 0], x[0, 1] = 6.0, 0.9375  # Q4 gives 1, Q8 0.9375: an error of 64 units
    assert int(select(x, SiteSettings(0, Threshold(0, 0))).score) == 64**2
    x[0, 1] = 1.1875  # Q4 1, Q8 1.125 or 1.25 (tie to even: 1.25): 256 units
    assert int(select(x, SiteSettings(0, Threshold(0, 0))).score) == 256**2
    # Scale 1.375: 8.25 is E4M3 8 (256 units); 0.40625 is Q4 0.6875, off by 288 = 0b100100000 units, cut to 256.
    x[0, 0], x[0, 1] = 8.25, 0.40625
    assert int(select(x, SiteSettings(0, Threshold(0, 0))).score) == 2 * 256**2


def test_error_bound_holds_over_every_scale():
    """|Q4 - Q8| < 2**17 units: what makes the score 38 bits wide."""
    top = 0.0
    for code in range(1, MAX_BLOCK_SCALE_CODE + 1):
        s = E4M3.magnitude(code)
        amax = min(6 * (s + E4M3.magnitude(code + 1)) / 2, 448)
        x = torch.linspace(0, amax, 15 * 400).view(-1, 15)
        x = torch.cat((x, torch.full((len(x), 1), amax)), 1)
        # With one element's error in a block at a time, the cut square is the score: its root bounds the error.
        alone = torch.diag_embed(x[:, :15])[..., :15].flatten(0, 1)
        alone = torch.cat((alone, torch.full((len(alone), 1), amax)), 1)
        score = select(alone, SiteSettings(0, Threshold(0, 0))).score
        top = max(top, score.max().item())
    # Two elements at most err here (the anchor is the other); a cut error is at least 4/7 of the true one.
    assert top**0.5 * 1.25 < 2**17


def test_nan_forces_fp8_in_every_mode():
    x = torch.zeros(1, 16)
    x[0, 7] = float("nan")
    for mode in ("dynamic", "static", "all_fp4", "all_fp8"):
        got = select(x, SiteSettings(0, Threshold(255, 63), mode, static_fp8=torch.tensor([[False]])))
        assert got.fp8.item()
        assert got.nan.item()
        assert got.codes[0, 0].tolist() == [0] * 7 + [0x7F] + [0] * 8


def test_static_mode_needs_a_pattern():
    with pytest.raises(InputError, match="static_fp8"):
        select(torch.zeros(1, 16), SiteSettings(0, Threshold(0, 0), "static"))


@given(st.floats(0, 2.0**70))
def test_threshold_nearest(x):
    t = Threshold.nearest(x)
    if x < 255:
        assert (t.significand, t.exponent) == (round(x), 0)
    elif x < 255.5 * 2.0**63:
        assert 128 <= t.significand <= 255
        assert abs(t.value - x) <= 2.0**t.exponent / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((256, 0), "threshold significand: 256"), ((0, 64), "threshold exponent: 64"), ((-1, 0), "significand: -1")],
)
def test_init_wrong_threshold(arguments, message):
    with pytest.raises(InputError, match=message):
        Threshold(*arguments)


def test_init_wrong_settings():
    with pytest.raises(InputError, match="selector mode: 'fast'"):
        SiteSettings(0, Threshold(0, 0), "fast")
    with pytest.raises(InputError, match="tensor exponent: 48"):
        SiteSettings(48, Threshold(0, 0))
    with pytest.raises(InputError, match="threshold: nan"):
        Threshold.nearest(float("nan"))
