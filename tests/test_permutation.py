"""Channels in another order: which may move, that nothing changes by it, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from fgmp.quantizer.config import FGMPConfig
from fgmp.quantizer.evaluate.comparison import uniform
from fgmp.quantizer.model.variant import apply
from fgmp.quantizer.prepare.axes import Atom, AxisTrace, whole
from fgmp.quantizer.prepare.channels import Channels, changed_by, find_groups
from fgmp.quantizer.study import Study, quantize

from .small_models import MODELS, SAMPLES
from .test_models import ARCHITECTURES, IDS, SEQ2SEQ, made, seq2seq_loss

# What moves in each architecture: sites whose channels may, of how many, and in how many groups.
MOVES = {
    "llama": (6, 8, 3), "gpt2": (6, 8, 3), "opt": (6, 8, 3), "qwen3": (6, 8, 3), "mixtral": (6, 8, 9),
    "qwen3_moe": (6, 8, 9), "gemma3_text": (6, 8, 3), "deepseek_v3": (10, 14, 9), "deepseek_v32": (10, 14, 9),
    "falcon": (4, 6, 3), "mamba2": (2, 4, 1), "mamba": (2, 6, 1), "dbrx": (2, 4, 1), "bart_decoder": (0, 8, 0),
    "zamba": (17, 24, 5), "t5": (4, 21, 4), "bart": (4, 21, 4),
}  # fmt: skip


def study_of(model, ids=IDS):
    loss = seq2seq_loss(model) if model.config.is_encoder_decoder else None
    return Study(model, ids, loss=loss, progress=False)


def first_of(study):
    return lambda: study.loss(study.samples[0])


def found_in(study):
    return find_groups(study.model, study.sites, study.linears, first_of(study))


def shuffled(study, groups, seed=1):
    generator = torch.Generator().manual_seed(seed)
    keys = {n: torch.rand(s.channels, generator=generator) for s in study.sites for n in s.linears}
    channels = Channels()
    channels.order(groups, keys)
    return channels


def state(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", MOVES)
def test_any_order_gives_the_same_answers(name):
    """Random orders, not delicate ones: answers stay within float32's rounding, and everything goes back."""
    own = name in MODELS
    model = made({**MODELS, **ARCHITECTURES, **SEQ2SEQ}[name])
    study = study_of(model, SAMPLES if own else IDS)
    before = state(model)
    groups, refused = found_in(study)
    moved = {s.name for s in study.sites for g in groups for n in s.linears if n in g.linears}
    assert (len(moved), len(study.sites), len(groups)) == MOVES[name]
    assert set(refused) | moved == {site.name for site in study.sites}
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    channels = shuffled(study, groups)
    for sample in study.samples[1:]:
        channels.set(False)
        assert changed_by(model, channels, [lambda sample=sample: study.loss(sample)]) is None
        assert channels.permuted
    if groups:
        assert any(not torch.equal(before[n], p) for n, p in model.named_parameters())
    channels.set(False)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def wide_llama(**more):
    sizes = {"hidden_size": 256, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 64}
    return made(lambda: LlamaForCausalLM(LlamaConfig(**sizes | more)))


def test_heads_that_share_values_share_an_order_and_others_have_their_own():
    """32 value channels in 2 groups of 4 heads: an order for each group, the same for its heads; queries stay."""
    model = wide_llama()
    study = study_of(model)
    before = state(model)
    groups, refused = found_in(study)
    assert not refused
    values = [g for g in groups if g.outer]
    assert [(g.size, g.outer, len(g.parameters)) for g in values] == [(32, (2,), 2)] * 2
    assert [list(g.linears) for g in values] == [[f"model.layers.{i}.self_attn.o_proj"] for i in (0, 1)]
    channels = shuffled(study, groups)
    assert changed_by(model, channels, [first_of(study)]) is None
    attention = "model.layers.0.self_attn"
    after = state(model)
    # Columns move with the residual stream; rows of queries and keys stay where they are.
    for name in ("q_proj", "k_proj"):
        old, new = before[f"{attention}.{name}.weight"], after[f"{attention}.{name}.weight"]
        assert torch.equal(old.sort(1).values, new.sort(1).values)
    rows = before[f"{attention}.v_proj.weight"].sort(1).values, after[f"{attention}.v_proj.weight"].sort(1).values
    orders = []
    for head in range(2):
        old, new = (r[32 * head : 32 * head + 32] for r in rows)
        order = [int((old == row).all(1).nonzero()) for row in new]
        assert sorted(order) == list(range(32))
        orders.append(order)
    assert orders[0] != orders[1]


def test_what_mixes_heads_takes_their_own_orders_away():
    """A weight of 32 channels for all heads: one order for all of them."""

    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.embed, self.layers = nn.Embedding(256, 64), nn.ModuleList([nn.Linear(64, 128), nn.Linear(128, 64)])
            self.scale, self.device = scale, torch.device("cpu")

        def forward(self, ids):
            heads = self.layers[0](self.embed(ids)).view(*ids.shape, 4, 32)
            return self.layers[1]((heads * self.scale).flatten(-2))

    for scale, outer in ((1.0, (4,)), (nn.Parameter(torch.rand(32)), ()), (nn.Parameter(torch.rand(4, 1)), (4,))):
        torch.manual_seed(0)
        model = Scaled(scale)
        study = Study(model, IDS, loss=lambda s, m=model: m(s[None]).square().mean(), ignore=(), progress=False)
        groups, _ = found_in(study)
        inner = next(g for g in groups if "layers.1" in g.linears)
        # 4 heads are not known to be 4 before the view says so, and then only it tells them apart.
        assert (inner.size, inner.outer) == (32, outer)
        assert changed_by(model, shuffled(study, groups), [first_of(study)]) is None
    fixed = Scaled(torch.rand(32))  # no parameter: its order cannot change
    study = Study(fixed, IDS, loss=lambda s: fixed(s[None]).square().mean(), ignore=(), progress=False)
    _, refused = found_in(study)
    assert refused["layers.1"] == "something else depends on the order of its channels"


class Between(nn.Module):
    """Two linears with something between them."""

    def __init__(self, between):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.between, self.device = nn.Embedding(256, 64), between, torch.device("cpu")
        self.layers = nn.ModuleList([nn.Linear(64, 96), nn.Linear(96, 32)])

    def forward(self, ids):
        return self.layers[1](self.between(self.layers[0](self.embed(ids))))


def _written(h):
    out = torch.zeros_like(h)
    out[..., 10:20] = h[..., 10:20]
    return out


FREE = {
    "elementwise": lambda h: torch.relu(h) * 2 + h.square().clamp(max=3),
    "softmax": lambda h: torch.softmax(h, -1),
    "norm": lambda h: nn.functional.layer_norm(h, (96,)) / h.norm(dim=-1, keepdim=True),
    "variance": lambda h: h - h.var(-1, keepdim=True) + h.mean((-1, -2), keepdim=True),
    "in place": lambda h: h.clone().mul_(3).add_(h),
    "through zeros": lambda h: torch.zeros_like(h).copy_(h),
    "there and back": lambda h: h.transpose(0, 1).contiguous().view(-1, 96).view(-1, len(h), 96).mT.mT.transpose(0, 1),
    "halves that meet again": lambda h: torch.cat([h[..., :48], h[..., 48:]], -1),
    "stacked tokens": lambda h: torch.cat([h, h], 1)[:, : h.shape[1]],
}  # fmt: skip
FIXED = {
    "position": lambda h: h + torch.arange(96.0),
    "sums of neighbours": lambda h: torch.cumsum(h, -1),
    "order": lambda h: h.flip(-1),
    "rolled": lambda h: h.roll(1, -1),
    "sorted": lambda h: h.sort(-1).values,
    "every second": lambda h: torch.cat([h[..., ::2], h[..., 1::2]], -1),
    "uneven pieces": lambda h: torch.cat([h[..., :32].relu(), h[..., 32:]], -1),
    "some of them": lambda h: torch.cat([h[..., :90], h[..., 90:]], -1),
    "picked": lambda h: h[..., torch.arange(95, -1, -1)],
    "convolved": lambda h: nn.functional.conv1d(h, torch.ones(h.shape[1], 1, 3), padding=1, groups=h.shape[1]),
    "blocks": lambda h: torch.softmax(h.unflatten(-1, (6, 16)), -1).flatten(-2) * torch.arange(96.0),
    "through a view": _written,
    "largest": lambda h: h * (h.argmax(-1, keepdim=True) + 1),
}  # fmt: skip


@pytest.mark.parametrize("name", [*FREE, *FIXED])
def test_operations(name):
    """Free ones let 96 channels move, or halves of them; all others keep their order, and the answers tell why."""
    between = {**FREE, **FIXED}[name]
    model = Between(between)
    study = Study(model, IDS, loss=lambda s: model(s[None]).square().mean(), ignore=(), progress=False)
    groups, refused = found_in(study)
    found = [g for g in groups if "layers.1" in g.linears]
    assert bool(found) == (name in FREE), (refused, [g.size for g in found])
    assert changed_by(model, shuffled(study, groups), [first_of(study)]) is None


def test_a_move_that_changes_the_answers_is_seen_and_taken_back():
    model = wide_llama()
    study = study_of(model)
    groups, _ = found_in(study)
    before = state(model)
    for missing in range(2):  # whatever parameter a group forgets
        broken = [copy.copy(g) for g in groups]
        object.__setattr__(broken[0], "parameters", [p for i, p in enumerate(groups[0].parameters) if i != missing])
        channels = shuffled(study, broken)
        apart = changed_by(model, channels, [first_of(study)])
        assert apart > 1e-3
        assert not channels.permuted
        assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def test_what_no_trace_sees_the_check_does():
    """NumPy looks at the first channel, past torch: the model keeps its order, and says why."""
    model = Between(lambda h: h * torch.tensor(h.detach().numpy()[..., :1]))
    study = Study(model, IDS, loss=lambda s: model(s[None]).square().mean(), ignore=(), progress=False)
    before = state(model)
    study.arrange(True)
    assert set(study.unordered) == {"layers.0", "layers.1"}
    assert "the model's answers would change by" in study.unordered["layers.1"]
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


class Heads(nn.Module):
    """Four heads of 32 channels between two linears, and something between them that knows the heads."""

    def __init__(self, between):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.between, self.device = nn.Embedding(256, 64), between, torch.device("cpu")
        self.layers = nn.ModuleList([nn.Linear(64, 128), nn.Linear(128, 64)])
        self.mix = nn.Parameter(torch.randn(4, 4))

    def forward(self, ids):
        h = self.layers[0](self.embed(ids)).unflatten(-1, (4, 32)) * (1 + 0 * self.mix.sum())
        return self.layers[1](self.between(self, h).flatten(-2))


def _attended(q, k, v):
    return nn.functional.scaled_dot_product_attention(q, k, v)


MIXED = {
    "softmax over heads": lambda m, h: h.softmax(-2),
    "log-softmax over heads": lambda m, h: h.log_softmax(-2),
    "attention over heads": lambda m, h: _attended(h, h, h),
    "scores by hand": lambda m, h: (h @ h.mT).softmax(-1) @ h,
    "heads added": lambda m, h: h + torch.einsum("bthd,hg->btgd", h, m.mix),
    "heads through a linear": lambda m, h: h + nn.functional.linear(h.mT, m.mix).mT,
    "beside themselves": lambda m, h: torch.cat([h, h.softmax(-2)], -2)[..., 2:6, :],
    "by batches": lambda m, h: h + (h.flatten(0, 1) @ h.flatten(0, 1).mT).softmax(-1).bmm(h.flatten(0, 1)).view_as(h),
}


@pytest.mark.parametrize("name", MIXED)
def test_heads_that_are_mixed_have_one_order(name):
    """Each kept its own before: an operation may mix heads and leave the axis as it is."""
    model = Heads(MIXED[name])
    study = Study(model, IDS, loss=lambda s: model(s[None]).square().mean(), ignore=(), progress=False)
    groups, _ = found_in(study)
    assert not [g for g in groups if g.outer]
    assert changed_by(model, shuffled(study, groups), [first_of(study)]) is None


STRANGE = {
    "outer product": lambda h: (h[..., :32, None] * h[..., None, :32]).flatten(-2)[..., :96],
    "transposed in place": lambda h: (h.clone().transpose_(1, 2) * torch.arange(96.0)[:, None]).transpose_(1, 2),
    "into a buffer": lambda h: torch.add(h, torch.arange(96.0), out=torch.empty_like(h)),
    "several answers": lambda h: h + 0 * torch.frexp(h)[0],
    "nothing": lambda h: h + h[..., :0] @ torch.zeros(0, 96),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_strange_changes_nothing(name):
    """Free or fixed, the answers stay, and nothing is raised."""
    model = Between(STRANGE[name])
    study = Study(model, IDS, loss=lambda s: model(s[None]).square().mean(), ignore=(), progress=False)
    groups, _ = found_in(study)
    assert changed_by(model, shuffled(study, groups), [first_of(study)]) is None


def test_an_answer_without_tensors_forbids_it():
    """A class of its own hides what the model answers, so that nothing could be pinned or compared."""

    class Answer:
        def __init__(self, features):
            self.features = features

    inner = wide_llama()

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.device = inner, torch.device("cpu")

        def forward(self, ids):
            return Answer(self.inner(input_ids=ids).logits)

    model = Wrapped()
    study = Study(model, IDS, loss=lambda s: model(s[None]).features.square().mean(), progress=False)
    groups, refused = found_in(study)
    assert not groups
    assert set(refused.values()) == {"the model was not called, or its answer holds no tensor"}


def test_other_text_is_looked_at_too():
    """A branch that the traced sample does not take: the check on further samples sees it."""

    class Branch(Between):
        def forward(self, ids):
            h = self.layers[0](self.embed(ids))
            return self.layers[1](h if ids[0, 0] == IDS[0, 0] else h.flip(-1))

    model = Branch(None)
    study = Study(model, IDS, loss=lambda s: model(s[None]).square().mean(), ignore=(), progress=False)
    before = state(model)
    study.arrange(True)
    assert "the model's answers would change by" in study.unordered["layers.1"]
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def test_variants_made_before_and_after_stand_beside_each_other():
    """One made before anything moved is applied to the order that it was made in."""
    model = wide_llama()
    study = study_of(model)
    with torch.no_grad():
        before = model(input_ids=IDS).logits
    eight = study.variant(uniform(False), "FP8", exact=False)
    mixed = study.variant(FGMPConfig(), "FGMP", exact=False)
    with torch.no_grad():
        for variant in (mixed, eight, mixed, eight):
            with apply(model, study.sites, variant):
                own = model(input_ids=IDS).logits
            assert (own - before).norm() / before.norm() < (0.1 if variant is eight else 0.6)


def test_experts_keep_sharing_memory_with_what_they_came_from():
    model = made(MODELS["mixtral"])
    study = study_of(model, SAMPLES)
    experts = model.model.layers[0].mlp.experts
    study.arrange(True)
    own = experts.down_proj[1].weight
    assert own.data_ptr() == experts.fused.down_proj.data[1].data_ptr()


def test_parameters_that_were_not_used_forbid_it():
    model = wide_llama()
    model.extra = nn.Parameter(torch.zeros(256))
    study = study_of(model)
    groups, refused = found_in(study)
    assert not groups
    assert set(refused.values()) == {"extra was not used, expected all parameters in use"}


def test_a_loss_past_the_model_forbids_it():
    model = wide_llama()
    study = Study(model, IDS, loss=lambda s: model.model(s[None]).last_hidden_state.square().mean(), progress=False)
    groups, refused = found_in(study)
    assert not groups
    assert set(refused.values()) == {"the model was not called, or its answer holds no tensor"}


def test_atoms_split_and_join():
    six, (two, three) = Atom(6), (Atom(2), Atom(3))
    trace = AxisTrace(nn.Linear(1, 1))
    from fgmp.quantizer.prepare.axes import _join

    _join([six], [two, three])
    assert [a.find() for a in whole([six])] == [two.find(), three.find()]
    three.pin()
    assert [a.pinned for a in whole([six])] == [False, True]
    odd, four = Atom(6), Atom(4)
    _join([odd, Atom(2)], [Atom(3), four])
    assert all(a.pinned or a.size for a in whole([odd]))
    assert trace.parameters


def test_quantized_models_are_ordered_and_say_so():
    """Delicate channels come first; the model without quantization would answer as before."""
    model = wide_llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[70:72] *= 8
        before = model(input_ids=IDS).logits
    study = study_of(model)
    known = study.arrange(True)
    with torch.no_grad():
        after = model(input_ids=IDS).logits
    assert (after - before).norm() / before.norm() < 1e-5
    rows = model.model.layers[0].mlp.up_proj.weight.norm(dim=1)
    assert rows[:2].min() > 4 * rows[2:].median()
    assert known is study.arrange(True) is not study.arrange(False)
    plain = quantize(wide_llama(), FGMPConfig(permutation=False), IDS, progress=False)
    moved = quantize(wide_llama(), FGMPConfig(), IDS, progress=False)
    assert torch.equal(plain.model.norm.weight, moved.model.norm.weight)  # all ones
    assert not torch.equal(plain.model.embed_tokens.weight, moved.model.embed_tokens.weight)
    assert torch.equal(plain.model.embed_tokens.weight.sort(1).values, moved.model.embed_tokens.weight.sort(1).values)
