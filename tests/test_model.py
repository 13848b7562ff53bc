"""The shipped model, calibration, and the quantized model, against straightforward references."""

import json
import math

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from fgmp.errors import InputError
from fgmp.golden import exact
from fgmp.golden.packing import unpack
from fgmp.quantizer.config import FGMPConfig
from fgmp.quantizer.evaluate.comparison import FP8, NVFP4, compare, uniform
from fgmp.quantizer.evaluate.losses import evaluate, jackknife, whole_windows
from fgmp.quantizer.model.default_text import read_corpus
from fgmp.quantizer.model.language_model import SHIPPED_MODEL, load_model, windows
from fgmp.quantizer.model.variant import apply
from fgmp.quantizer.prepare.linears import target_linears
from fgmp.quantizer.prepare.sites import find_sites
from fgmp.quantizer.study import Study
from fgmp.quantizer.tinylm.bigram import bigram_bits
from fgmp.quantizer.tinylm.train import held_out_bits


@pytest.fixture(scope="module")
def model():
    return load_model(SHIPPED_MODEL)


@pytest.fixture(scope="module")
def corpus():
    return read_corpus()


@pytest.fixture(scope="module")
def samples(model, corpus):
    return windows(model, corpus.train, 4, "training text")


@pytest.fixture(scope="module")
def study(model, samples):
    return Study(model.model, samples, progress=False)


@pytest.fixture(scope="module")
def calibration(study):
    return study.calibration(FGMPConfig.paper())


@pytest.fixture(scope="module")
def variant(study):
    return study.variant(FGMPConfig.paper(), "FGMP")


def test_shipped_model_is_small_and_has_a_card():
    assert (SHIPPED_MODEL / "model.safetensors").stat().st_size <= 4_000_000
    card = json.loads((SHIPPED_MODEL / "card.json").read_text())
    text = (SHIPPED_MODEL / "README.md").read_text()
    for key in ("text_digest", "held_out_bits_per_byte", "bigram_tokens_bits_per_byte"):
        assert (f"{card[key]:.3f}" if isinstance(card[key], float) else card[key]) in text
    assert f"fgmp train -o DIR --steps {card['steps']} --seed {card['seed']}" in text


def test_shipped_model_has_learned(model, corpus):
    """On text that it never saw: better than 0.7 of a bigram model on the same tokens."""
    tokens = model.tokens(corpus.held_out[:60_000])
    train = model.tokens(corpus.train[:1_000_000])
    bits = held_out_bits(model.model, tokens[: 16 * 512])
    bigram = bigram_bits(train.numpy(), tokens[: 16 * 512].numpy(), len(model.tokenizer))
    assert bits < 0.7 * bigram


def test_tokenizer_is_lossless(model, corpus):
    text = corpus.held_out[:20_000] + " \t\n\n  çé中🙂 .,  'quoted' n't"
    assert model.tokenizer.decode(model.tokens(text).tolist()) == text


def test_corpus_parts_share_no_document_and_have_a_digest(corpus):
    assert len(corpus.digest) == 64
    assert len(corpus.held_out) > 100_000
    assert corpus.held_out[:500] not in corpus.train


def test_windows_are_unpadded_and_spread(model, corpus):
    rows = windows(model, corpus.train, 3, "text")
    assert rows.shape == (3, 512)
    with pytest.raises(InputError, match="short: 100 characters do not hold 1 windows"):
        windows(model, "word " * 20, 1, "short")


def test_sites_are_shared_by_the_linears_that_read_one_tensor(model, samples):
    linears = target_linears(model.model)
    sites = find_sites(model.model, linears, [lambda: model.model(input_ids=samples[:1])])
    readers = [tuple(n.split(".", 3)[3] for n in s.linears) for s in sites[:4]]
    assert readers == [
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    ]
    assert len(sites) == 12
    assert "lm_head" not in target_linears(model.model)


def test_sensitivities_equal_autograd(model, samples, calibration):
    """Squared gradients of every sample's mean loss; at a site, of all its readers together."""
    net = model.model
    weights = {n: torch.zeros_like(m.weight, dtype=torch.float64) for n, m in target_linears(net).items()}
    channel = torch.zeros(256, dtype=torch.float64)
    layer = net.model.layers[1]
    kept = []
    handle = layer.post_attention_layernorm.register_forward_hook(lambda m, i, o: kept.append(o))
    for sample in samples:
        loss = net(input_ids=sample[None], labels=sample[None]).loss
        names = list(weights)
        gradients = torch.autograd.grad(loss, [net.get_submodule(n).weight for n in names] + [kept[-1]])
        for name, g in zip(names, gradients, strict=False):
            weights[name] += g.double() ** 2 / len(samples)
        channel += (gradients[-1][0].double() ** 2).sum(0) / (len(samples) * 512)
    handle.remove()
    for name, expected in weights.items():
        torch.testing.assert_close(calibration.weights[name].double(), expected, rtol=1e-4, atol=expected.mean() * 1e-4)
    got = calibration.channels["model.layers.1.mlp.gate_proj"].double()
    torch.testing.assert_close(got, channel, rtol=1e-4, atol=0)


def test_calibration_leaves_the_model_as_it_was(model, calibration):
    assert all(p.requires_grad and p.grad is None for p in model.model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.model.modules())
    assert not any(p._post_accumulate_grad_hooks for p in model.model.parameters())


@pytest.mark.parametrize("policy", ["fisher", "quantization-error", "output-error"])
def test_one_threshold_leaves_the_asked_fraction_in_fp4(study, policy):
    config = FGMPConfig.paper(policy=policy)
    scores = study.scores(config)
    above = sum(
        (scores.read(n) > settings.threshold.value).sum() for n, settings in study.site_settings(config).items()
    )
    blocks = sum(scores.read(n).size for n in scores.paths)
    # The registers hold 8 bits of each site's threshold.
    assert abs(1 - above / blocks - 0.7) < 0.005


def test_weights_have_exactly_the_asked_fraction(variant):
    tensors = [unpack(packed) for packed in variant.weights.values()]
    blocks = sum(t.fp8.numel() for t in tensors)
    assert sum(int((~t.fp8).sum()) for t in tensors) == math.floor(0.7 * blocks + 0.5)


def test_sites_with_flattened_tokens_count_every_token(model, samples):
    """OPT's feed-forward linears read (tokens, channels): found by a review, when only the first token was scored."""
    sizes = {"hidden_size": 40, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OPTConfig(vocab_size=1024, max_position_embeddings=512, word_embed_proj_dim=40, **sizes)
    torch.manual_seed(0)
    study = Study(OPTForCausalLM(config), samples[:2], progress=False)
    scores = study.scores(FGMPConfig.paper())
    for site in study.sites:
        assert len(scores.read(site.name)) == 2 * 512 * -(-site.channels // 16), site.name


def test_quantized_linear_equals_the_reference(model, study, variant, samples):
    """One layer's outputs of the quantized model, computed once more in fractions."""
    name = "model.layers.0.self_attn.k_proj"
    seen = {}
    with torch.no_grad(), apply(model.model, study.sites, variant):
        layer = model.model.get_submodule(name)
        handle = layer.register_forward_hook(lambda m, i, o: seen.update(x=i[0], y=o))
        model.model(input_ids=samples[:1, :8])
        handle.remove()
    quantizer = variant.quantizers["model.layers.0.self_attn.q_proj"]
    settings, weight = quantizer.settings, unpack(variant.weights[name])
    for token in range(2):
        blocks = seen["x"][0, token].view(-1, 16).tolist()
        chosen = [
            exact.select_block(
                [exact.Fraction(v) for v in block], settings.exponent, settings.threshold.value, "dynamic"
            )
            for block in blocks
        ]
        a = [exact.StoredBlock(b.fp8, b.scale, b.codes) for b in chosen]
        for row in (0, 7, 63):
            w = [
                exact.StoredBlock(
                    bool(weight.fp8[row, b]), int(weight.scales[row, b]), tuple(weight.codes[row, b].tolist())
                )
                for b in range(16)
            ]
            got = exact.lane_row(list(zip(a, w, strict=True)), settings.exponent + weight.exponent, 4096)
            assert got.float32 == seen["y"][0, token, row].view(torch.int32).item() & 0xFFFFFFFF


def test_apply_restores_the_model(model, study, variant):
    before = dict(model.model.named_modules())
    with pytest.raises(RuntimeError, match="stop"), apply(model.model, study.sites, variant):
        raise RuntimeError("stop")
    assert dict(model.model.named_modules()) == before


def test_compare_ranks_the_formats(model, study, corpus):
    held_out = whole_windows(windows(model, corpus.held_out, 4, "held-out text"))
    formats = {FP8: uniform(False), NVFP4: uniform(True), "fisher": FGMPConfig.paper()}
    others = ("quantization-error", "output-error", "random")
    formats |= {policy: FGMPConfig.paper(policy=policy) for policy in others}
    comparison, variants = compare(study, formats, held_out, against=dict.fromkeys(others, "fisher"))
    rows = {r.name: r for r in comparison.rows}
    fisher = rows["fisher"]
    assert rows[FP8].kl.value < fisher.kl.value < rows[NVFP4].kl.value
    assert fisher.recovered.value > 0.65
    assert all(e.value > 2 * e.error > 0 for e in comparison.kl_above.values())
    weights = sum(linear.weight.numel() for linear in study.linears.values())
    assert rows[FP8].weight_bytes == weights * 8.0625 / 8
    fp4 = math.floor(0.7 * weights / 16 + 0.5)
    assert fisher.weight_bytes == weights // 128 + 9 * fp4 + 16 * (weights // 16 - fp4)
    json.dumps(comparison.as_json())
    assert variants[FP8].activation_fp4_share == 0
    # One at a time instead of all together: the same numbers.
    alone, _ = compare(study, {FP8: uniform(False)}, held_out, together=False)
    assert alone.rows[1].perplexity == rows[FP8].perplexity


def test_perplexity_is_the_mean_loss(model, samples):
    losses = evaluate(model.model, [], [], whole_windows(samples[:2]), progress=False)["float32"]
    with torch.no_grad():
        reference = [model.model(input_ids=s[None], labels=s[None]).loss.item() for s in samples[:2]]
    assert (losses.nll / losses.tokens).tolist() == pytest.approx(reference, rel=1e-5)
    assert losses.kl.tolist() == [0, 0]


def test_jackknife_of_a_mean_is_the_standard_error():
    values = torch.randn(30, generator=torch.Generator().manual_seed(0)).double().numpy()
    resampled = jackknife(lambda m: m, values)
    assert resampled.value == pytest.approx(values.mean())
    assert resampled.error == pytest.approx(values.std(ddof=1) / math.sqrt(len(values)))
