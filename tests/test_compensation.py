"""Rounding with error compensation: by hand, against exact arithmetic, and what it does for a linear's output."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

from fgmp.errors import InputError
from fgmp.formats import E2M1, E4M3
from fgmp.golden import exact
from fgmp.golden.blocks import scale_to_stored, tensor_exponent, to_blocks
from fgmp.golden.matrix import mixed_blocks, scale_codes
from fgmp.golden.packing import unpack
from fgmp.quantizer.calibrate.error_factor import error_factor
from fgmp.quantizer.choose.compensation import compensated
from fgmp.quantizer.config import FGMPConfig
from fgmp.quantizer.study import Study


def dyadic(shape, generator, unit):
    """Small multiples of `unit`: sums of their products are exact in float32, in any order."""
    return torch.randint(-8, 9, shape, generator=generator).float() * unit


def by_fractions(weights, fp8, factor):
    """The recipe of docs/numerics.md, one number after the other; scales from amax / 6. Stored values (N, K)."""
    found = []
    for row, mask in zip(weights.tolist(), fp8.tolist(), strict=True):
        values, rounded = [Fraction(x) for x in row], []
        for j in range(len(values)):
            if j % 16 == 0:
                amax = max(min(abs(x), Fraction(448)) for x in values[j : j + 16])
                scale = exact.block_scale_code(amax)
            value = min(max(values[j], Fraction(-448)), Fraction(448))
            if mask[j // 16]:
                code = exact.encode(E4M3, value)
                sign, size = code >> 7, Fraction(E4M3.magnitude(code & 0x7F))
            else:
                code = exact.quantize_e2m1(value, scale)
                sign, size = code >> 3, Fraction(E2M1.magnitude(code & 7)) * Fraction(E4M3.magnitude(scale))
            rounded.append(-size if sign else size)
            error = (values[j] - rounded[j]) / Fraction(factor[j][j])
            for k in range(j + 1, len(values)):
                values[k] -= error * Fraction(factor[j][k])
        found.append([float(x) for x in rounded])
    return torch.tensor(found)


@pytest.mark.parametrize("seed", range(4))
def test_codes_equal_exact_arithmetic(seed):
    """Numbers for which float32 does not round, so that the order of sums is nobody's business."""
    generator = torch.Generator().manual_seed(seed)
    weights = dyadic((5, 48), generator, 1.0) + dyadic((5, 48), generator, 2.0**-3)
    weights[0, :3] = torch.tensor([447.0, -448.0, 448.0])  # what is made up for may go beyond 448
    fp8 = torch.rand(5, 3, generator=generator) < 0.5
    factor = torch.triu(dyadic((48, 48), generator, 2.0**-4), 1) + torch.eye(48)
    factor[torch.rand(48, 48, generator=generator) < 0.8] = 0
    factor += torch.diag((factor.diagonal() == 0).float()) * 2.0
    blocks = compensated(to_blocks(weights), fp8, factor, clip=False)
    assert torch.equal(blocks.values().flatten(1).float(), by_fractions(weights, fp8, factor.tolist()))
    assert torch.equal(blocks.fp8, fp8)
    assert not blocks.scales[fp8].any()


def correlated(channels, generator):
    mix = torch.eye(channels) + torch.randn(channels, channels, generator=generator) / channels**0.5
    return torch.randn(8 * channels, channels, generator=generator) @ mix


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("channels", [64, 200])
def test_output_error_shrinks(clip, channels):
    generator = torch.Generator().manual_seed(channels)
    x = correlated(channels, generator)
    weight = torch.randn(96, channels, generator=generator)
    exponent = tensor_exponent(weight)
    blocks = to_blocks(scale_to_stored(weight, exponent, "weight"))
    fp8 = torch.rand(blocks.shape[:2], generator=generator) < 0.3
    factor = error_factor(x.T @ x / len(x))
    better = compensated(blocks, fp8, factor, clip=clip).tensor((96, channels), exponent)
    scales = scale_codes(blocks.flatten(0, 1), torch.ones_like(blocks).flatten(0, 1) if clip else None)
    plain = mixed_blocks(blocks, scales.view(fp8.shape), fp8, (96, channels), exponent)
    errors = [(x @ (m.stored().float() * 2.0**exponent - weight).T).square().sum() for m in (better, plain)]
    assert errors[0] < 0.85 * errors[1]
    assert torch.equal(better.fp8, plain.fp8)


def test_channels_that_have_nothing_to_do_with_each_other_round_to_nearest():
    """Uncorrelated, silent and padded channels: the factor is diagonal, and nothing is made up for."""
    generator = torch.Generator().manual_seed(3)
    moments = torch.diag(torch.rand(40, generator=generator) + 0.1)
    moments[5], moments[17] = 0, 0
    factor = error_factor(moments)
    assert factor.shape == (48, 48)
    assert torch.equal(factor, factor.diagonal().diag())
    weight = torch.randn(7, 40, generator=generator)
    blocks = to_blocks(scale_to_stored(weight, -6, "weight"))
    fp8 = torch.rand(7, 3, generator=generator) < 0.5
    found = compensated(blocks, fp8, factor, clip=False)
    plain = mixed_blocks(blocks, scale_codes(blocks.flatten(0, 1), None).view(7, 3), fp8, (7, 48), 0)
    assert torch.equal(found.codes, plain.codes)
    assert torch.equal(found.scales, plain.scales)
    assert torch.equal(error_factor(torch.zeros(16, 16)), torch.eye(16))  # no calibration text came here


def test_a_silent_channel_changes_nothing_else():
    generator = torch.Generator().manual_seed(4)
    x = correlated(32, generator)
    x[:, 9] = 0
    factor = error_factor(x.T @ x / len(x))
    blocks = to_blocks(torch.randn(6, 32, generator=generator) * 50)
    fp8 = torch.zeros(6, 2, dtype=torch.bool)
    fp8[:, 0] = True  # whose elements share no scale
    other = blocks.clone()
    other[:, 0, 9] = 17.3
    found, changed = (compensated(b, fp8, factor, clip=True).codes for b in (blocks, other))
    found[:, 0, 9] = changed[:, 0, 9] = 0
    assert torch.equal(found, changed)


def test_the_factor_is_that_of_the_damped_inverse():
    generator = torch.Generator().manual_seed(5)
    x = correlated(32, generator)
    moments = x.T @ x / len(x)
    factor = error_factor(moments).double()
    damped = moments.double() + 0.01 * moments.double().diagonal().mean() * torch.eye(32)
    assert torch.equal(factor, factor.triu())
    assert torch.allclose(factor.T @ factor @ damped, torch.eye(32, dtype=torch.float64), atol=1e-5)


class Small(nn.Module):
    """Two linears that read one tensor, and one that reads another."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.left, self.right, self.out = (nn.Linear(32, n, bias=False) for n in (24, 32, 8))
        self.device = torch.device("cpu")

    def forward(self, x):
        return self.out(torch.relu(self.left(x).sum(-1, keepdim=True) + self.right(x)))


def test_a_models_weights_make_up_for_their_errors():
    """Moments are those of the text; both readers of a site use them; nearest stays what it was."""
    model = Small()
    generator = torch.Generator().manual_seed(7)
    samples = [correlated(32, generator)[:64] for _ in range(4)]
    study = Study(model, samples, loss=lambda x: model(x).square().mean(), ignore=(), progress=False)
    nearest = FGMPConfig.paper(fp4_weights=0.7, fp4_activations=0, threshold_samples=2)
    before = {name: packed.payload.clone() for name, packed in study.pack(nearest)}
    config = replace(nearest, rounding="gptq")
    packed = dict(study.pack(config))
    x = torch.cat(samples)
    factors = study.calibration(config).factors
    assert torch.allclose(factors["left"], error_factor(x.T @ x / len(x)), rtol=1e-3, atol=1e-4)
    assert set(factors) == {site.name for site in study.sites}
    plain = dict(study.pack(nearest))
    for name, linear in study.linears.items():
        assert torch.equal(plain[name].payload, before[name])
        assert torch.equal(plain[name].mask, packed[name].mask)
        inputs = x if name != "out" else torch.relu(model.left(x).sum(-1, keepdim=True) + model.right(x))
        errors = [
            (inputs @ (unpack(w).stored().float() * 2.0**w.exponent - linear.weight).T).square().sum()
            for w in (packed[name], plain[name])
        ]
        assert errors[0] < errors[1]


def test_one_pass_measures_all_and_a_late_wish_needs_no_gradient():
    model = Small()
    samples = [torch.randn(16, 32, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    backward = []

    def loss(x):
        backward.append(torch.is_grad_enabled())
        return model(x).square().mean()

    config = FGMPConfig.paper(fp4_activations=0, rounding="gptq")
    Study(model, samples, loss=loss, ignore=(), progress=False).calibration(config)
    assert backward.count(True) == 2
    found = backward.copy()
    study = Study(model, samples, loss=loss, ignore=(), progress=False)
    study.calibration(replace(config, rounding="nearest"))
    first = study.calibration(config).factors
    assert backward[len(found) :].count(True) == 2
    assert study.calibration(replace(config, rounding="nearest")).factors is first


def test_an_unknown_rounding_is_refused():
    with pytest.raises(InputError, match="rounding: 'stochastic', expected one of nearest, gptq"):
        FGMPConfig(rounding="stochastic")
