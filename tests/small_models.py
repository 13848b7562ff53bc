"""Small models of several architectures, and how each is quantized."""

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from fgmp.quantizer.model.layers import set_exact

_SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_SMALL |= {"num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 64}
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 128}
OPT = {"hidden_size": 40, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 40}
OPT |= {"vocab_size": 128, "max_position_embeddings": 64}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SMALL)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**_GPT2, bos_token_id=1, eos_token_id=2)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**OPT)),  # K = 40 is not a multiple of 16
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SMALL, head_dim=16, tie_word_embeddings=True)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**_SMALL, num_local_experts=4)),
}
CONFIGS = {
    "llama": {"activations": "static"},
    "gpt2": {},
    "opt": {"channel_codes": True, "four_over_six": True},
    "qwen3": {"activations": "none"},
    "mixtral": {"sensitivity": "factored"},
}
SAMPLES = torch.randint(0, 128, (4, 32), generator=torch.Generator().manual_seed(1))


def make(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def logits(model, exact=None):
    if exact is not None:
        set_exact(model, exact)
    with torch.no_grad():
        return model(input_ids=SAMPLES[:2]).logits
