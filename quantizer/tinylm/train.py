"""Trains the small Llama that ships with the project, on text of the running CPython, and writes its model card."""

import io
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ...errors import InputError
from ...files import check_folder, staged, write_bytes, write_files
from ..model.default_text import Corpus, read_corpus
from .bigram import bigram_bits

__all__ = ["held_out_bits", "train"]

WINDOW = 512
_VOCAB = 1024
_BATCH = 16
_PEAK_RATE = 3e-3
_WARM_UP = 200


def train(out: Path, steps: int = 4000, seed: int = 1) -> None:
    """Train for `steps` batches of 16 windows of 512 tokens and save model, tokenizer and card to `out`.

    A run that was stopped continues from `out`/training.pt, written every 250 steps and removed at the end.
    """
    check_folder(out)
    corpus = read_corpus()
    print(f"text digest {corpus.digest}: {len(corpus.train):,} training, {len(corpus.held_out):,} held-out characters")
    run = {"steps": steps, "seed": seed, "text": corpus.digest}
    tokenizer = _tokenizer(corpus)
    tokens = torch.tensor(tokenizer(corpus.train)["input_ids"], dtype=torch.int64)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_config(tokenizer))
    _optimize(model, tokens, run, out / "training.pt")

    model = model.to(torch.bfloat16)
    with staged(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _write_card(folder, model.float().eval(), tokenizer, corpus, steps, seed)
    (out / "training.pt").unlink(missing_ok=True)


def held_out_bits(model: torch.nn.Module, tokens: torch.Tensor) -> float:
    """Total cost in bits of `tokens` (1-D int64) in unpadded windows of 512; a window's first token is free."""
    windows = tokens[: len(tokens) // WINDOW * WINDOW].view(-1, WINDOW)
    total = 0.0
    with torch.inference_mode():
        for batch in windows.split(16):
            logits = model(input_ids=batch).logits[:, :-1].flatten(0, 1)
            total += torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten(), reduction="sum").item()
    return total / float(np.log(2))


def _tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """Byte-level BPE: lossless, so that bits per byte mean the same for every model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(corpus.train.split("\n\n"), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )


def _optimize(model: LlamaForCausalLM, tokens: torch.Tensor, run: dict[str, Any], state: Path) -> None:
    """AdamW with warm-up and a linear decay to zero, bfloat16 autocast; the parameters stay float32."""
    steps, seed = run["steps"], run["seed"]
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=_PEAK_RATE, betas=(0.9, 0.95))
    first = 0
    if state.exists():
        saved: dict[str, Any] = torch.load(state, weights_only=True)
        if saved["run"] != run:
            raise InputError(f"{state}: belongs to a run with {saved['run']}, expected {run}; remove it to start anew")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    offsets = torch.arange(WINDOW)
    model.train()
    with tqdm(total=steps, initial=first, desc="train", unit="step") as progress:
        for step in range(first, steps):
            rate = _PEAK_RATE * min((step + 1) / _WARM_UP, (steps - step) / max(steps - _WARM_UP, 1))
            for group in optimizer.param_groups:
                group["lr"] = rate
            # A generator per step: the batches do not depend on where a run was interrupted.
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            starts = torch.randint(len(tokens) - WINDOW, (_BATCH, 1), generator=generator)
            batch = tokens[starts + offsets]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(input_ids=batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress.update()
            if step % 10 == 0:
                progress.set_postfix(loss=f"{loss.item():.3f}")
            if (step + 1) % 250 == 0 and step + 1 < steps:
                now = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "run": run}
                buffer = io.BytesIO()  # torch does not say why a file cannot be written
                torch.save(now, buffer)
                write_bytes(state, buffer.getvalue())


def _write_card(
    out: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    steps: int,
    seed: int,
) -> None:
    """Measure the saved model on the held-out text beside two bigram models, and write README.md and card.json."""
    train_ids = np.array(tokenizer(corpus.train)["input_ids"])
    held_out_ids = np.array(tokenizer(corpus.held_out)["input_ids"])
    held_out_bytes = len(corpus.held_out.encode())
    windows = held_out_ids[: len(held_out_ids) // WINDOW * WINDOW].reshape(-1, WINDOW)
    # A window's first token is not predicted, so its bytes do not count either.
    firsts = sum(len(tokenizer.convert_ids_to_tokens(int(i))) for i in windows[:, 0])
    scored_bytes = sum(len(t) for t in tokenizer.convert_ids_to_tokens(windows.flatten().tolist())) - firsts
    bits = held_out_bits(model, torch.from_numpy(held_out_ids))
    predicted = windows.size - len(windows)
    byte_bits = bigram_bits(
        np.frombuffer(corpus.train.encode(), np.uint8), np.frombuffer(corpus.held_out.encode(), np.uint8), 256
    )
    card = {
        "python": platform.python_version(),
        "text_digest": corpus.digest,
        "train_bytes": len(corpus.train.encode()),
        "train_tokens": len(train_ids),
        "held_out_bytes": held_out_bytes,
        "held_out_tokens": len(held_out_ids),
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "batch_tokens": _BATCH * WINDOW,
        "seed": seed,
        "held_out_loss_nats_per_token": bits * float(np.log(2)) / predicted,
        "held_out_bits_per_byte": bits / scored_bytes,
        "bigram_bytes_bits_per_byte": byte_bits / held_out_bytes,
        "bigram_tokens_bits_per_byte": bigram_bits(train_ids, held_out_ids, len(tokenizer)) / held_out_bytes,
        "written": time.strftime("%Y-%m-%d"),
    }
    card_text = json.dumps(card, indent=2) + "\n"
    write_files({out / "card.json": card_text.encode(), out / "README.md": _CARD.format(**card).encode()})


_CARD = """\
---
license: apache-2.0
library_name: transformers
---
# A small Llama that has read CPython

The language model that ships with fgmp, so that the whole flow runs without a download: {parameters:,} parameters,
`LlamaForCausalLM`, 3 layers, hidden size 256, 8 heads (2 of keys and values), byte-level BPE with 1,024 tokens,
tied embeddings, bfloat16. It is a test piece: it writes plausible Python and documentation and knows nothing.

| what | value |
|---|---|
| text | language reference topics and standard library sources of CPython {python}, read from the running interpreter |
| SHA-256 of the text | `{text_digest}` |
| training part | {train_bytes:,} bytes, {train_tokens:,} tokens |
| held-out part (one document in twenty, by name) | {held_out_bytes:,} bytes, {held_out_tokens:,} tokens |
| training | {steps:,} steps of {batch_tokens:,} tokens, AdamW, bfloat16 autocast, seed {seed} |
| held-out loss | {held_out_loss_nats_per_token:.4f} nats per token (windows of 512) |
| held-out bits per byte | **{held_out_bits_per_byte:.3f}** |
| bigram model on the same tokens | {bigram_tokens_bits_per_byte:.3f} bits per byte |
| bigram model on bytes | {bigram_bytes_bits_per_byte:.3f} bits per byte |
| command | `fgmp train -o DIR --steps {steps} --seed {seed}` |
"""
