"""Models as people have them: architectures, shared and special layers, adapters, training, what stays as it is."""

import copy
import json
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ZambaConfig,
    ZambaForCausalLM,
)

from fgmp.__main__ import main
from fgmp.errors import InputError
from fgmp.quantizer import FGMPConfig, FGMPLinear, dequantize, load, quantize, save
from fgmp.quantizer.model.language_model import SHIPPED_MODEL, load_model
from fgmp.quantizer.model.layers import set_exact
from fgmp.quantizer.prepare.linears import left_alone, target_linears

IDS = torch.randint(3, 256, (3, 24), generator=torch.Generator().manual_seed(1))
FP8 = FGMPConfig(fp4_weights=0, fp4_activations=0, clip=False, samples=3, window=24)
MIXED = FGMPConfig(samples=3, window=24, threshold_samples=2)
_SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_SMALL |= {"num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 64}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_MLA = {"q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}
_DEEPSEEK = {**_MLA, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1}
_DEEPSEEK |= {"topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4}
_INDEXER = {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 8}
ONE_SAMPLE = ("--samples", "1", "--window", "32")


def from_config(kind, **sizes):
    return lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))


ARCHITECTURES = {
    "qwen3_moe": from_config("qwen3_moe", **_SMALL, **_MOE, head_dim=16),
    "gemma3_text": from_config("gemma3_text", **_SMALL, head_dim=16),
    "deepseek_v3": from_config("deepseek_v3", **_SMALL | _DEEPSEEK),
    "deepseek_v32": from_config("deepseek_v32", **_SMALL | _DEEPSEEK | _INDEXER),
    "falcon": from_config("falcon", hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=256),
    "mamba2": from_config(
        "mamba2", hidden_size=64, num_hidden_layers=2, vocab_size=256, num_heads=8, head_dim=16, state_size=16,
        n_groups=1, chunk_size=8,
    ),
    "mamba": from_config("mamba", hidden_size=64, num_hidden_layers=2, vocab_size=256, state_size=8),
    "dbrx": from_config(
        "dbrx", d_model=64, n_heads=4, n_layers=2, max_seq_len=64, vocab_size=256,
        ffn_config={"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
        attn_config={"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
    ),
    "bart_decoder": from_config("bart", d_model=64, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=96,
                                vocab_size=256, max_position_embeddings=64),
    "zamba": lambda: ZambaForCausalLM(
        ZambaConfig(hidden_size=64, attention_hidden_size=128, intermediate_size=96, num_hidden_layers=7,
                    vocab_size=256, num_attention_heads=4, num_key_value_heads=4, mamba_d_state=8, n_mamba_heads=2,
                    attn_layer_period=3,
                    attn_layer_offset=2, use_mamba_kernels=False, max_position_embeddings=64)
    ),
}  # fmt: skip
SEQ2SEQ = {
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, vocab_size=1024, decoder_start_token_id=0)
    ),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
                   encoder_ffn_dim=96, decoder_ffn_dim=96, vocab_size=256, max_position_embeddings=64)
    ),
}  # fmt: skip


def made(make):
    torch.manual_seed(0)
    return make().eval()


def llama(**more):
    return made(lambda: LlamaForCausalLM(LlamaConfig(**_SMALL | more)))


def inputs(model):
    return {"decoder_input_ids": IDS[:2, :12]} if model.config.is_encoder_decoder else {}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS[:2], **inputs(model)).logits


def seq2seq_loss(model):
    return lambda sample: model(input_ids=sample[None], labels=sample[None, :12], use_cache=False).loss


def error(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


def quantized(model, config, **kwargs):
    if model.config.is_encoder_decoder:
        kwargs.setdefault("loss", seq2seq_loss(model))
    return quantize(model, config, IDS, progress=False, **kwargs)


def expected_logits(model):
    """What a quantized model must give: its dequantized linears, fed with inputs that are quantized one by one."""
    plain = copy.deepcopy(model)
    for name, layer in model.named_modules():
        if isinstance(layer, FGMPLinear):
            linear = layer.to_linear()
            quantizer, exponent = layer.quantizer, layer.quantizer.settings.exponent

            def quantize_input(_, args, quantizer=quantizer, exponent=exponent):
                rows = args[0].reshape(-1, args[0].shape[-1])
                values = quantizer.select(rows).tensor(tuple(rows.shape), exponent).stored() * 2.0**exponent
                return (values.view(args[0].shape),)

            linear.register_forward_pre_hook(quantize_input)
            plain.set_submodule(name, linear)
    return logits(plain)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *SEQ2SEQ])
def test_architectures_compute_what_their_quantized_linears_say(name, tmp_path):
    """All FP8: near the dequantized weights; then mixed: what is loaded again is equal to the last bit."""
    make = {**ARCHITECTURES, **SEQ2SEQ}[name]
    model = made(make)
    before = logits(model)
    assert torch.isfinite(before).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of experts that no linear holds: another test's
        eight = quantized(made(make), FP8)
        mixed = quantized(model, MIXED)
    found = logits(eight)
    assert torch.equal(found, expected_logits(eight))
    # Routers that change their mind (top-k of random weights) make any limit on the error loose.
    weights_only = error(logits(dequantize(copy.deepcopy(eight))), before)
    assert error(found, before) < 2 * weights_only + 0.05
    save(mixed, tmp_path / "m")
    again = load(tmp_path / "m")
    assert torch.equal(logits(again), logits(mixed))
    auto = AutoModelForSeq2SeqLM if name in SEQ2SEQ else AutoModelForCausalLM
    if name != "bart_decoder":
        assert torch.equal(logits(auto.from_pretrained(tmp_path / "m")), logits(mixed))
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_t5_is_as_near_as_other_models():
    """Its code asks a linear for its weight's dtype and casts activations to it: to integers, once."""
    model = made(SEQ2SEQ["t5"])
    before = logits(model)
    assert error(logits(quantized(model, FP8)), before) < 0.1


# What a quantized linear answers


@pytest.fixture(scope="module")
def small():
    return quantized(llama(), MIXED)


def test_a_quantized_linear_answers_as_the_linear_that_it_is(small):
    layer = small.model.layers[0].mlp.up_proj
    values = layer.dequantized()
    weight = layer.weight
    assert isinstance(layer, nn.Linear)
    assert (weight.dtype, weight.shape, weight.device, weight.ndim) == (torch.float32, (96, 64), torch.device("cpu"), 2)
    assert not weight.requires_grad
    assert weight.is_floating_point()
    for read in (weight, weight.data, weight.detach().clone(), weight.float(), weight.T.T, copy.deepcopy(weight)):
        assert torch.equal(read, values)
    assert torch.equal(torch.from_numpy(weight.numpy()), values)
    assert weight.tolist() == values.tolist()
    x = torch.randn(3, 64)
    assert torch.equal(x @ weight.T, x @ values.T)
    assert torch.equal(nn.functional.linear(x, weight), nn.functional.linear(x, values))
    assert weight.to(torch.bfloat16).dtype == torch.bfloat16
    assert "PackedWeight" in repr(weight)
    half = copy.deepcopy(layer).to(torch.bfloat16)
    assert half.weight.dtype == torch.bfloat16
    assert half.payload.dtype == torch.uint8
    assert copy.deepcopy(small).model.layers[0].mlp.up_proj.weight.dtype == torch.float32


def test_what_would_write_to_a_packed_weight_is_refused_and_changes_nothing(small):
    layer = small.model.layers[0].mlp.up_proj
    before = logits(small)
    for write in (
        lambda w: w.mul_(2),
        lambda w: w.data.add_(1),
        lambda w: setattr(w, "data", torch.zeros(96, 64)),
        lambda w: w.__setitem__((0, 0), 9.0),
        nn.init.zeros_,
        lambda _: setattr(layer, "weight", nn.Parameter(torch.zeros(96, 64))),
        lambda _: setattr(layer, "weight", torch.zeros(96, 64)),
        lambda _: delattr(layer, "weight"),
    ):
        with pytest.raises(TypeError, match="weight of a quantized linear"):
            write(layer.weight)
    layer.weight.T.mul_(2)  # of a copy
    layer.weight.numpy()[:] = 0
    assert torch.equal(logits(small), before)


@pytest.mark.filterwarnings("ignore:left as they are")
def test_fused_layers_of_torch_do_not_read_past_the_quantizer():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(256, 64)
            self.layers = nn.ModuleList(nn.TransformerEncoderLayer(64, 4, 96, batch_first=True) for _ in range(2))

        def forward(self, ids):
            x = self.embed(ids)
            for layer in self.layers:
                x = layer(x)
            return x

    torch.manual_seed(0)
    model = Encoder().eval()
    quantize(model, FP8, IDS, loss=lambda s: model(s[None]).square().mean(), progress=False)
    sites = {m.quantizer for m in model.modules() if isinstance(m, FGMPLinear)}
    assert sites
    with torch.no_grad():
        fast = model(IDS)
    assert all(site.blocks > 0 for site in sites)
    with torch.enable_grad():
        torch.testing.assert_close(model(IDS), fast, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_residuals_written_in_place_are_other_activations(mode):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(256, 64)
            self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

        def forward(self, ids):
            x = self.embed(ids).clone()
            for layer in self.layers:
                x += 4 * layer(x)
            return x

    torch.manual_seed(0)
    model = InPlace().eval()
    with torch.no_grad():
        before = model(IDS)
    quantize(model, FP8, IDS, loss=lambda s: model(s[None]).square().mean(), progress=False)
    assert len({m.quantizer for m in model.layers}) == 4
    with mode():
        assert error(model(IDS).clone(), before) < 0.1


def test_an_activation_written_in_place_after_it_was_read_has_gradients():
    class Relu(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(256, 64)
            self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))

        def forward(self, ids):
            x = self.embed(ids)
            y = self.layers[0](x.clone())
            return self.layers[1](torch.relu_(x)) + y

    model = Relu().eval()
    quantize(model, MIXED, IDS, loss=lambda s: model(s[None]).square().mean(), progress=False)


# State


def test_state_dictionaries_carry_exponents_thresholds_and_masks():
    one = quantized(llama(), MIXED)
    two = quantized(
        llama(), FGMPConfig(fp4_weights=0.3, fp4_activations=0.4, samples=3, window=24, threshold_samples=2)
    )
    assert not torch.equal(logits(one), logits(two))
    one.load_state_dict(two.state_dict())
    assert torch.equal(logits(one), logits(two))
    set_exact(one, True)
    set_exact(two, True)
    assert torch.equal(logits(one), logits(two))
    static = quantized(llama(), replace(MIXED, activations="static"))
    one.load_state_dict(static.state_dict(), strict=False)
    set_exact(static, True)
    assert torch.equal(logits(one), logits(static))


def test_state_that_does_not_fit_is_refused_and_changes_nothing():
    model = quantized(llama(), MIXED)
    before = logits(model)
    none = quantized(llama(), replace(MIXED, activations="none"))
    spoiled = {k: v.clone() for k, v in model.state_dict().items()}
    spoiled["model.layers.0.mlp.up_proj.weight_scale"][:] = 0
    for state in (llama().state_dict(), none.state_dict(), spoiled):
        linears = {k: v for k, v in state.items() if "_proj" in k}
        with pytest.raises(RuntimeError, match=r"weight of another kind|quantized otherwise|block scale"):
            model.load_state_dict(linears, strict=False)
        kept = {k: v for k, v in model.state_dict().items() if "up_proj" in k and "layers.0" in k}
        assert kept["model.layers.0.mlp.up_proj.weight"].dtype == torch.uint8
    assert torch.equal(logits(model), before)


# What is special


class Doubled(nn.Linear):
    """Computes something else than its base class."""

    def forward(self, x):
        return 2 * super().forward(x) + 1


def test_only_what_is_known_to_be_a_linear_is_quantized():
    model = llama()
    mlp = model.model.layers[0].mlp
    doubled = Doubled(96, 64, bias=False)
    doubled.weight = mlp.down_proj.weight
    mlp.down_proj = doubled
    nn.utils.parametrizations.weight_norm(model.model.layers[0].mlp.up_proj)
    model.model.layers[1].mlp.up_proj.register_forward_hook(lambda m, i, o: 1.5 * o)
    own = model.model.layers[1].mlp.gate_proj.forward
    model.model.layers[1].mlp.gate_proj.forward = lambda x: -own(x)
    tied = nn.Linear(64, 256, bias=False)
    tied.weight = model.model.embed_tokens.weight
    model.model.layers[1].extra = tied
    before = logits(model)
    reasons = {}
    target_linears(model, reasons=reasons)
    assert reasons == {
        "lm_head": "the output embedding",
        "model.layers.0.mlp.down_proj": "class Doubled has a forward of its own",
        "model.layers.0.mlp.up_proj": "its weight is computed from other parameters",
        "model.layers.1.mlp.up_proj": "it has hooks",
        "model.layers.1.mlp.gate_proj": "its forward was replaced",
        "model.layers.1.extra": "its weight is also that of model.embed_tokens",
    }
    assert error(logits(quantized(model, FP8)), before) < 0.2


def test_weights_that_are_read_directly_are_left_alone():
    model = quantized(made(ARCHITECTURES["mamba"]), MIXED)
    reasons = {group.reason: group for group in left_alone(model, model.fgmp_left_alone)[0]}
    assert reasons["its weight is read directly"].first == "backbone.layers.0.mixer.dt_proj.weight"
    assert reasons["its weight is read directly"].tensors == 2


def test_stacks_of_experts_in_two_dimensions_are_reported():
    with pytest.warns(UserWarning, match=r"left as they are, no linear holds it: 6 tensors of [\d,]+ weights"):
        model = quantized(made(ARCHITECTURES["dbrx"]), MIXED)
    groups, total = left_alone(model, model.fgmp_left_alone)
    assert sum(g.weights for g in groups) / total > 0.5


def test_a_model_that_changes_its_weights_while_it_runs_is_refused():
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(64, 64)])

        def forward(self, x):
            with torch.no_grad():
                self.layers[0].weight.div_(2)
            return self.layers[0](x)

    model = Changing()
    with pytest.raises(InputError, match=r"linear layers.0: the model changes its weight while it runs"):
        quantize(model, FP8, torch.randn(3, 64), loss=lambda s: model(s).square().mean(), progress=False)


def shared_layer(model):
    model.model.layers[1] = model.model.layers[0]


def two_names(model):
    model.model.layers[1].mlp.up_proj = model.model.layers[0].mlp.up_proj


def two_inputs(model):
    model.model.layers[0].self_attn.o_proj = model.model.layers[0].self_attn.q_proj


def one_parameter(model):
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight


@pytest.mark.parametrize("change", [shared_layer, two_names, two_inputs, one_parameter])
def test_what_stands_in_several_places_does_so_again_when_loaded(change, tmp_path):
    model = llama()
    change(model)
    before = logits(model)
    quantized(model, MIXED)
    assert error(logits(model), before) < 0.5
    save(model, tmp_path / "m")
    for again in (load(tmp_path / "m"), AutoModelForCausalLM.from_pretrained(tmp_path / "m")):
        assert torch.equal(logits(again), logits(model))
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    assert [name for name, _ in again.named_modules(remove_duplicate=False)] == names
    assert len(list(again.modules())) == len(list(model.modules()))


def test_a_shared_parameter_has_one_sensitivity():
    model = llama()
    one_parameter(model)
    from fgmp.quantizer import Study

    weights = Study(model, IDS, progress=False).calibration(FGMPConfig()).weights
    first, second = (weights[f"model.layers.{i}.mlp.up_proj"] for i in (0, 1))
    assert first.any()
    assert torch.equal(first, second)


def test_what_settings_cannot_describe_is_not_saved(tmp_path):
    model = llama()
    model.model.layers[0].mlp.down_proj = Doubled(96, 64, bias=False)
    quantized(model, MIXED)
    with pytest.raises(InputError, match=r"module model.layers.0.mlp.down_proj \(Doubled\) is not the same"):
        save(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_transformers_does_not_save_a_quantized_model_by_itself(tmp_path):
    model = quantized(llama(), MIXED)
    with pytest.raises(ValueError, match="not serializable"):
        model.save_pretrained(tmp_path / "m")
    dequantize(model).save_pretrained(tmp_path / "m")


# What calibration did not reach


def test_experts_that_no_token_reached_get_the_mean_of_their_kind():
    from fgmp.quantizer import Study

    make = ARCHITECTURES["qwen3_moe"]
    model = made(make)
    nn.init.zeros_(model.model.layers[0].mlp.gate.weight)  # every token goes to the same experts
    study = Study(model, IDS, progress=False)
    with pytest.warns(UserWarning, match=r"^(\d+) of \d+ linears had no gradient on the calibration text, first "):
        calibration = study.calibration(FGMPConfig())
    assert calibration.unreached
    for name in calibration.unreached:
        assert calibration.weights[name].any(), name
    name = calibration.unreached[0]
    from fgmp.quantizer.prepare.sites import kind

    kin = [n for n, m in study.linears.items() if kind(n, m) == kind(name, study.linears[name])]
    reached = [n for n in kin if n not in calibration.unreached]
    mean = sum(calibration.weights[n] for n in reached) / len(reached)
    torch.testing.assert_close(calibration.weights[name], mean, rtol=1e-5, atol=0)


def test_a_kind_that_is_never_called_stays_as_it_is():
    model = quantized(made(ARCHITECTURES["bart_decoder"]), MIXED)
    reasons = {group.reason: group for group in left_alone(model, model.fgmp_left_alone)[0]}
    assert "encoder_attn" in reasons["never called while the calibration text ran"].first


# Globs


def test_globs_that_match_nothing_are_an_error_and_add_to_the_defaults(capsys, tmp_path):
    with pytest.raises(InputError, match=r"ignore: '\*nosuch\*' matches no linear of LlamaForCausalLM"):
        quantized(llama(), FGMPConfig(ignore=("*nosuch*",)))
    reasons = {}
    target_linears(llama(), ("*.q_proj",), reasons)
    assert reasons["model.layers.0.self_attn.q_proj"] == "ignored by a glob"
    assert reasons["lm_head"] == "the output embedding"
    text = tmp_path / "text.txt"
    text.write_text("def f(x):\n    return x + 1\n" * 400)
    base = ["quantize", str(SHIPPED_MODEL), str(tmp_path / "out"), "--calibration", str(text), *ONE_SAMPLE]
    assert main([*base, "--ignore", "nothing", "--ignore", "*.q_proj"]) == 2
    assert "ignore: 'nothing' matches no linear" in capsys.readouterr().err
    assert main([*base, "--ignore", "*.q_proj", "--ignore", "*.k_proj"]) == 0
    assert "left as they are, ignored by a glob: 6 tensors" in capsys.readouterr().err
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["config"]
    assert config["ignore"][0] == "lm_head"
    assert config["ignore"][-2:] == ["*.q_proj", "*.k_proj"]


# Gradients


def gradient_of_the_embeddings(model, exact=False):
    set_exact(model, exact)
    model.requires_grad_(False)
    embedded = model.get_input_embeddings()(IDS[:1]).detach().requires_grad_(True)
    more = {"labels": IDS[:1]} if not model.config.is_encoder_decoder else {"labels": IDS[:1, :12]}
    model(inputs_embeds=embedded, **more).loss.backward()
    return embedded.grad.flatten()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("make", [llama, lambda: made(SEQ2SEQ["t5"])], ids=["llama", "t5"])
def test_gradients_pass_straight_through(make, exact):
    model = quantized(make(), FP8)
    plain = dequantize(copy.deepcopy(model))
    cosine = torch.cosine_similarity(gradient_of_the_embeddings(model, exact), gradient_of_the_embeddings(plain), dim=0)
    assert cosine > 0.95


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_lora_and_prompt_tuning_learn_beside_packed_weights(tmp_path):
    peft = pytest.importorskip("peft")
    save(quantized(llama(), MIXED), tmp_path / "m")
    for config in (
        peft.LoraConfig(target_modules=["q_proj", "up_proj"], r=4, task_type="CAUSAL_LM"),
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    ):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
        packed = {k: v.clone() for k, v in model.state_dict().items()}
        torch.manual_seed(0)
        model = peft.get_peft_model(model, config)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 5e-2)
        losses = []
        for _ in range(30):
            loss = model(input_ids=IDS, labels=IDS).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] - 0.03
        base = model.get_base_model().state_dict()
        for name, tensor in packed.items():
            if "embed" not in name:
                assert torch.equal(base.get(name, base.get(name.replace("_proj.", "_proj.base_layer."))), tensor), name
        if isinstance(config, peft.LoraConfig):
            with pytest.raises(TypeError, match="weight of a quantized linear"):
                model.merge_and_unload()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_trainer_evaluates_and_trains_adapters(tmp_path):
    from transformers import Trainer, TrainingArguments

    peft = pytest.importorskip("peft")
    save(quantized(llama(), MIXED), tmp_path / "m")
    data = [{"input_ids": row, "labels": row} for row in IDS]
    arguments = TrainingArguments(
        str(tmp_path / "t"), report_to=[], use_cpu=True, max_steps=2, save_strategy="no", disable_tqdm=True,
        per_device_train_batch_size=1, dataloader_pin_memory=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert Trainer(model, arguments, eval_dataset=data).evaluate()["eval_loss"] > 0
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], r=2, task_type="CAUSAL_LM"))
    Trainer(adapted, arguments, train_dataset=data).train()
    assert any(p.abs().sum() > 0 for n, p in adapted.named_parameters() if "lora_B" in n)


# Code that comes with a model


def test_code_of_a_model_runs_only_when_it_may(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "custom"
    shutil.copytree(SHIPPED_MODEL, folder)
    (folder / "modeling_own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own_llama'\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": "own_llama", "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    text = tmp_path / "text.txt"
    text.write_text("def f(x):\n    return x + 1\n" * 400)
    out = tmp_path / "out"
    base = ["quantize", str(folder), str(out), "--calibration", str(text), *ONE_SAMPLE]
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a terminal was asked"))
    assert main(base) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--trust-remote-code" in said
    assert not (tmp_path / "ran").exists()
    assert main([*base, "--trust-remote-code"]) == 0
    assert (tmp_path / "ran").exists()
    assert (out / "modeling_own.py").is_file()
    with pytest.raises(InputError, match="comes with code of its own"):
        load(out)
    assert load(out, trust_remote_code=True).config.model_type == "own_llama"


# The first command of a newcomer


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("def f(x):\n    return x + 1\n" * 2000)
    return path


def test_a_model_of_few_positions_needs_no_flag(tmp_path, text, capsys):
    folder = tmp_path / "short"
    shutil.copytree(SHIPPED_MODEL, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 256}))
    base = ["quantize", str(folder), str(tmp_path / "out"), "--calibration", str(text), "--samples", "1"]
    assert main([*base, "--window", "300"]) == 2
    assert "256 positions, expected at least 300, one window (see --window)" in capsys.readouterr().err
    assert main(base) == 0
    assert "1 windows of 256 tokens, all that the model can read" in capsys.readouterr().err


def test_what_is_not_quantized_keeps_the_dtype_of_the_checkpoint(tmp_path, text):
    from safetensors.torch import load_file

    (tmp_path / "m").mkdir()
    language_model = load_model(SHIPPED_MODEL)
    assert language_model.stored_dtype == torch.bfloat16
    base = ["quantize", str(SHIPPED_MODEL)]
    more = ["--calibration", str(text), *ONE_SAMPLE]
    assert main([*base, str(tmp_path / "a"), *more]) == 0
    assert main([*base, str(tmp_path / "b"), *more, "--dtype", "float32"]) == 0
    kinds = {n: load_file(tmp_path / n / "model.safetensors")["model.embed_tokens.weight"].dtype for n in ("a", "b")}
    assert kinds == {"a": torch.bfloat16, "b": torch.float32}
    assert json.loads((tmp_path / "a" / "config.json").read_text())["dtype"] == "bfloat16"
    one, two = (load(tmp_path / n, dtype=torch.float32) for n in ("a", "b"))
    assert torch.equal(logits(one), logits(two))


def test_side_files_travel_along_and_every_file_is_covered(tmp_path, text, capsys):
    folder = tmp_path / "m"
    shutil.copytree(SHIPPED_MODEL, folder)
    for name in ("LICENSE.txt", "preprocessor_config.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    (folder / "training_args.bin").write_bytes(b"pickle")
    out = tmp_path / "out"
    assert main(["quantize", str(folder), str(out), "--calibration", str(text), *ONE_SAMPLE]) == 0
    names = {p.name for p in out.iterdir()}
    assert {"LICENSE.txt", "preprocessor_config.json", "chat_template.jinja", "tokenizer.json"} <= names
    assert "training_args.bin" not in names
    assert main(["inspect", str(out)]) == 0
    capsys.readouterr()
    tokenizer = (out / "tokenizer.json").read_text()
    for change, message in (
        (
            lambda: (out / "tokenizer.json").write_text(tokenizer.replace('"def":', '"fed":', 1)),
            "checksum of tokenizer",
        ),
        ((out / "tokenizer.json").unlink, "file tokenizer.json is missing"),
        (lambda: (out / "added_tokens.json").write_text("{}"), "added_tokens.json is none of its files"),
    ):
        change()
        assert main(["inspect", str(out)]) == 2
        assert message in capsys.readouterr().err
        with pytest.raises(InputError, match=message):
            load(out)
        (out / "tokenizer.json").write_text(tokenizer)


def test_special_tokens_are_the_tokenizers_own_unless_told_otherwise(tmp_path, text, capsys):
    from transformers import AutoTokenizer

    folder = tmp_path / "m"
    shutil.copytree(SHIPPED_MODEL, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    from tokenizers.processors import TemplateProcessing

    end = tokenizer.convert_tokens_to_ids("<|end|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", end)]
    )
    tokenizer.save_pretrained(folder)
    with_bos, without = load_model(folder), load_model(folder, special_tokens=False)
    assert with_bos.tokens("def").tolist() == [end, *without.tokens("def").tolist()]
    base = ["evaluate", str(folder), "--text", str(text), "--max-tokens", "50"]
    assert main(base) == 0
    assert "special tokens as in <|end|> a" in capsys.readouterr().out
    assert main([*base, "--no-special-tokens"]) == 0
    assert "no special tokens" in capsys.readouterr().out
