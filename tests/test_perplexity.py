"""Formats by name, windows and perplexity."""

import math

import pytest
import torch

from fgmp.errors import InputError
from fgmp.quantizer import FGMPConfig
from fgmp.quantizer.evaluate.format_names import ablation, parse_formats
from fgmp.quantizer.evaluate.losses import evaluate, text_windows
from fgmp.quantizer.model.text import read_text

from .small_models import make


def test_formats_by_name():
    formats = parse_formats(["fp8", "nvfp4", "fgmp:0.7", "fgmp:0.6/0.8,random,noclip"], FGMPConfig(seed=9))
    assert list(formats) == ["FP8", "NVFP4", "FGMP 0.7", "FGMP 0.6/0.8 random noclip"]
    last = formats["FGMP 0.6/0.8 random noclip"]
    assert (last.fp4_weights, last.fp4_activations, last.policy, last.clip, last.seed) == (0.6, 0.8, "random", False, 9)
    assert formats["NVFP4"].clip is False
    both = parse_formats(["fgmp:energy=0.8,bits=5.6,four-over-six", "fgmp:pj=90"], FGMPConfig())
    assert list(both) == ["FGMP energy=0.8,bits=5.6 four-over-six", "FGMP pj=90"]
    assert both["FGMP energy=0.8,bits=5.6 four-over-six"].limits == {"energy": 0.8, "bits": 5.6}
    assert len(parse_formats(ablation(0.7), FGMPConfig())) == len(ablation(0.7))
    for text in ("fp4", "fgmp:x", "fgmp:0.7,best", "fgmp:2"):
        with pytest.raises(InputError, match=r"format|fp4_weights: 2"):
            parse_formats([text], FGMPConfig())


def reference_perplexity(model, tokens, window, stride):
    """As the field writes it: a loop over positions, labels of context masked, loss weighted by scored tokens."""
    total, count, previous = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + window, len(tokens))
        ids = tokens[None, begin:end]
        labels = ids.clone()
        labels[:, : len(labels[0]) - (end - previous)] = -100
        scored = int((labels[:, 1:] != -100).sum())
        if scored:
            with torch.no_grad():
                total += model(input_ids=ids, labels=labels).loss.item() * scored
            count += scored
        previous = end
        if end == len(tokens):
            break
    return math.exp(total / count), count


@pytest.mark.parametrize(
    ("window", "stride", "length"), [(32, 32, 100), (32, 8, 100), (32, 31, 97), (40, 40, 41), (8, 3, 8)]
)
def test_perplexity_is_that_of_the_field(window, stride, length):
    model = make("llama")
    tokens = torch.randint(0, 128, (length,), generator=torch.Generator().manual_seed(length))
    windows = text_windows(tokens, window, stride)
    losses = evaluate(model, [], [], windows, batch=3, progress=False)["float32"]
    expected, count = reference_perplexity(model, tokens, window, stride)
    assert losses.tokens.sum() == count
    assert math.exp(losses.nll.sum() / losses.tokens.sum()) == pytest.approx(expected, rel=1e-6)


def test_wrong_windows():
    tokens = torch.arange(10)
    for window, stride, message in ((1, 1, "window: 1"), (8, 0, "stride: 0"), (8, 9, "stride: 9, expected 1 to")):
        with pytest.raises(InputError, match=message):
            text_windows(tokens, window, stride)
    with pytest.raises(InputError, match="text: 1 tokens"):
        text_windows(tokens[:1], 8, 8)


def test_this_pythons_own_text_by_name():
    train, held_out = (read_text(f"python:{part}", "text") for part in ("train", "held-out"))
    assert len(train) > len(held_out) > 100_000
    assert train[:200] not in held_out
    for name in ("python:foo", "Python:train"):
        with pytest.raises(InputError, match="expected python:train or python:held-out, this Python's own text"):
            read_text(name, "text")
