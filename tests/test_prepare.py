"""Quantizing whole models: what is found in them, what calibration measures, which blocks are chosen."""

import copy
import json
import math

import pytest
import torch
from torch import nn
from transformers import (
    OPTConfig,
    OPTForCausalLM,
)

from fgmp.errors import InputError
from fgmp.quantizer import FGMPConfig, FGMPLinear, Study, load, quantize, save
from fgmp.quantizer.prepare.linears import prepare, restore, target_linears

from .small_models import OPT, SAMPLES, logits, make


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_prepared_models_compute_the_same_and_can_be_restored(name):
    model = make(name)
    before, names = logits(model), list(model.state_dict())
    weights = copy.deepcopy(model.state_dict())
    prepare(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-6)
    restore(model)
    assert list(model.state_dict()) == names
    assert all(torch.equal(model.state_dict()[n], weights[n]) for n in names)


class StrangeExperts(nn.Module):
    """Fused weights without transformers 5's description of them."""

    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(2, 16, 8))
        self.down_proj = nn.Parameter(torch.randn(2, 8, 16))

    def forward(self, x):
        return torch.relu(x @ self.gate_up_proj[0].T) @ self.down_proj[0].T


def test_unknown_experts_are_named_and_can_be_ignored(tmp_path):
    module = nn.Sequential(nn.Linear(8, 8), StrangeExperts())
    x = torch.randn(2, 3, 8)

    def loss(sample):
        return module(sample).square().mean()

    with pytest.raises(InputError, match="experts 1: StrangeExperts is not known"):
        quantize(module, FGMPConfig(), x, loss=loss, progress=False)
    quantize(module, FGMPConfig(ignore=("1",)), x, loss=loss, progress=False)
    save(module, tmp_path / "m")
    again = load(tmp_path / "m", nn.Sequential(nn.Linear(8, 8), StrangeExperts()))
    assert torch.equal(again(x), module(x))


def test_experts_share_sites_and_routers_stay():
    study = Study(make("mixtral"), SAMPLES, progress=False)
    shared = [s for s in study.sites if "experts" in s.name and s.name.startswith("model.layers.0.")]
    assert [(len(s.linears), s.watched == s.linears) for s in shared] == [(4, True), (4, True)]
    assert not any("router" in n or n.endswith(".gate") for n in study.linears)
    # An expert's tokens count in its site: as many rows as routed tokens.
    scores = study.scores(FGMPConfig())
    assert scores.read(shared[0].name).size == 4 * 32 * 2 * 4  # samples, tokens, experts each, blocks of 64 channels


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_calibration_measures_what_autograd_says(name):
    """The factored estimate from rows and columns, second moments, and ranges, on the whole model at once."""
    model = make(name)
    study = Study(model, SAMPLES[:1], progress=False)
    linear = "model.layers.1.self_attn.o_proj"
    kept = {}
    module = model.get_submodule(linear)
    handles = [module.register_forward_pre_hook(lambda m, i: kept.update(x=i[0])),
               module.register_forward_hook(lambda m, i, o: kept.update(y=o))]  # fmt: skip
    loss = study.loss(SAMPLES[0])
    gradient, own = torch.autograd.grad(loss, [kept["y"], module.weight])
    for handle in handles:
        handle.remove()
    factored = study.calibration(FGMPConfig.paper(sensitivity="factored"))
    x, g = kept["x"][0], gradient[0]
    expected = torch.outer(g.square().sum(0), x.square().mean(0))
    torch.testing.assert_close(factored.weights[linear], expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(factored.squares[linear], x.square().mean(0), rtol=1e-4, atol=0)
    exact = study.calibration(FGMPConfig.paper()).weights[linear]
    torch.testing.assert_close(exact, own.square(), rtol=1e-3, atol=own.square().mean().item() * 1e-3)


def test_gradient_checkpointing_changes_nothing_but_memory():
    from fgmp.quantizer.calibrate.recompute import checkpointed

    model = make("gpt2")  # has dropout, which must stay off
    plain = Study(model, SAMPLES, progress=False).calibration(FGMPConfig.paper())
    checkpointed(model)
    calls = []
    model.transformer.h[0].mlp.act.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    measured = Study(model, SAMPLES, progress=False).calibration(FGMPConfig.paper())
    assert calls.count(True) == 2 * len(SAMPLES)  # forward, and once more in backward
    for name, value in plain.weights.items():
        torch.testing.assert_close(measured.weights[name], value, rtol=1e-4, atol=value.mean().item() * 1e-4)
    for name, value in plain.squares.items():
        torch.testing.assert_close(measured.squares[name], value)
    for name, value in plain.channels.items():
        torch.testing.assert_close(measured.channels[name], value, rtol=1e-4, atol=value.mean().item() * 1e-4)


def test_quantize_takes_any_module_and_loss(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 33), nn.ReLU(), nn.Linear(33, 7, bias=False))
    original = copy.deepcopy(module)
    x = torch.randn(8, 5, 20)

    def loss(sample):
        return module(sample).square().mean()

    quantize(module, FGMPConfig.paper(fp4_weights=0.5, fp4_activations=0.5), x, loss=loss, exact=True, progress=False)
    fp4 = sum(m.fp4_blocks for m in module if isinstance(m, FGMPLinear))
    assert fp4 == math.floor(0.5 * (33 * 2 + 7 * 3) + 0.5)
    save(module, tmp_path / "module")
    again = load(tmp_path / "module", copy.deepcopy(original), exact=True)
    assert torch.equal(again(x), module(x))
    with pytest.raises(InputError, match="architecture 'Sequential' is not known to transformers"):
        load(tmp_path / "module")


def test_per_layer_thresholds_leave_the_fraction_in_every_layer():
    study = Study(make("llama"), SAMPLES, progress=False)
    variant = study.variant(FGMPConfig(threshold="per-layer"), "x")
    for packed in variant.weights.values():
        blocks = packed.shape[0] * packed.shape[1] // 16
        assert packed.scales.numel() == math.floor(0.7 * blocks + 0.5)


def test_ignored_names_stay():
    model = make("llama")
    quantize(model, FGMPConfig(ignore=("lm_head", "*.mlp.*")), SAMPLES, progress=False)
    layers = {n for n, m in model.named_modules() if isinstance(m, FGMPLinear)}
    assert layers == {n for n in target_linears(make("llama")) if ".self_attn." in n}
    with pytest.raises(InputError, match="no linear layers found"):
        quantize(make("llama"), FGMPConfig(ignore=("*",)), SAMPLES, progress=False)


def test_a_model_that_does_not_compute_is_refused():
    model = make("llama")
    model.model.norm.weight.data[3] = float("nan")
    with pytest.raises(InputError, match="loss of calibration sample 0: nan, expected a finite number"):
        quantize(model, FGMPConfig(activations="none"), SAMPLES, progress=False)
    with pytest.raises(InputError, match="loss of calibration sample 0"):
        quantize(make("llama"), FGMPConfig(), SAMPLES[:, :1], progress=False)  # nothing to predict


def test_checkpointing_does_not_drop_out():
    from fgmp.quantizer.calibrate.recompute import checkpointed
    from fgmp.quantizer.study import causal_loss

    torch.manual_seed(0)
    model = OPTForCausalLM(OPTConfig(**OPT, dropout=0.5)).eval()
    plain = causal_loss(model)(SAMPLES[0])
    checkpointed(model)
    assert all(torch.equal(causal_loss(model)(SAMPLES[0]), plain) for _ in range(3))


def test_configuration_is_checked_and_survives_json():
    config = FGMPConfig(fp4_weights=0.5, policy="random", ignore=("a*",))
    assert FGMPConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    for values, message in (
        ({"fp4_weights": 1.2}, "fp4_weights: 1.2, expected a number from 0 to 1"),
        ({"policy": "best"}, "policy: 'best', expected one of fisher"),
        ({"activations": "maybe"}, "activations: 'maybe', expected one of dynamic"),
        ({"samples": 0}, "samples: 0, expected a whole number from 1 to"),
        ({"ignore": "lm_head"}, "ignore: lm_head, expected a tuple of globs"),
    ):
        with pytest.raises(InputError, match=message):
            FGMPConfig(**values)
    with pytest.raises(InputError, match="unknown key 'fp5'"):
        FGMPConfig.from_dict({"fp5": 1})
