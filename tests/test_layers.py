"""Quantized layers and sites: their values, paths and settings."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fgmp.golden.blocks import MixedTensor
from fgmp.golden.matrix import quantize_matrix
from fgmp.golden.packing import unpack
from fgmp.golden.selector import SiteSettings, Threshold, select
from fgmp.quantizer import FGMPConfig, Study, load
from fgmp.quantizer.model.layers import install
from fgmp.quantizer.model.site import SiteQuantizer

from .small_models import SAMPLES, logits, make


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fast_path_multiplies_the_same_values(dtype):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(24, 48, generator=generator)
    mask = torch.rand(24, 3, generator=generator) < 0.4
    x = torch.randn(2, 5, 48, generator=generator).to(dtype)
    median = select(x.reshape(-1, 48), SiteSettings(-4, Threshold(0, 0))).score.median().item()
    settings = SiteSettings(-4, Threshold.nearest(median))
    linear = nn.Linear(48, 24)
    linear.weight.data, linear.bias.data = weight, torch.randn(24, generator=generator).to(dtype).float()
    holder = nn.ModuleDict({"q": linear.to(dtype)})
    mixed = quantize_matrix(weight, mask)
    from fgmp.golden.packing import pack

    layer = install(holder, "q", pack(mixed), SiteQuantizer(settings), exact=False)
    chosen = select(x.reshape(-1, 48), settings)
    assert 0 < chosen.fp8.sum() < chosen.fp8.numel()
    values = chosen.tensor((10, 48), settings.exponent).dequantize()
    expected = nn.functional.linear(values.to(dtype), mixed.dequantize().to(dtype), layer.bias).view(2, 5, 24)
    assert torch.equal(layer(x), expected)
    assert torch.equal(mixed.dequantize().to(torch.bfloat16).float(), mixed.dequantize())  # bfloat16 holds them all
    layer.exact = True
    torch.testing.assert_close(layer(x), expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=2e-2)
    # Compiled quantization of activations: the same bits.
    fresh = SiteQuantizer(settings)
    fresh.compiled = True
    assert torch.equal(fresh(x), chosen.tensor((10, 48), -4).stored())


def test_site_is_quantized_once_for_all_its_readers_and_then_let_go():
    quantizer = SiteQuantizer(SiteSettings(0, Threshold(1, 0)), readers=3)
    x = torch.ones(2, 16)
    first = quantizer(x)
    assert quantizer(x) is first
    assert quantizer(x) is first
    assert quantizer._last is None
    x.mul_(2)
    assert not torch.equal(quantizer(x), first)
    kept = quantizer(x)
    x.mul_(2)  # changed in place between two readers: quantized again
    assert not torch.equal(quantizer(x), kept)


def test_four_over_six_never_scores_worse_and_static_takes_whole_columns():
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(2))
    settings = SiteSettings(-4, Threshold(0, 0))
    plain, better = select(x, settings), select(x, replace(settings, four_over_six=True))
    assert (better.score <= plain.score).all()
    assert (better.score < plain.score).any()
    study = Study(make("llama"), SAMPLES, progress=False)
    plans = study.site_settings(FGMPConfig.paper(activations="static", fp4_activations=0.5))
    columns = torch.cat([p.static_fp8 for p in plans.values()])
    assert abs(columns.double().mean() - 0.5) < 0.05
    assert all(p.mode == "static" for p in plans.values())


def test_inference_mode(folders):
    model = load(folders / "llama", exact=True)
    with torch.inference_mode():
        inside = model(input_ids=SAMPLES[:2]).logits
    assert torch.equal(inside, logits(model))


def test_mixed_tensor_of_a_loaded_layer_is_the_golden_one(folders):
    model = load(folders / "llama")
    layer = model.model.layers[0].self_attn.q_proj
    tensor = unpack(layer.packed)
    assert isinstance(tensor, MixedTensor)
    assert torch.equal(layer.dequantized(), tensor.dequantize())
