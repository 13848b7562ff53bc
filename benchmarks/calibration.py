"""Calibration against plain forward and backward passes, and the speed of quantizing weights and activations.

Everything in one process, alternating, medians of ratios. `python benchmarks/calibration.py [--layers N --width H]`.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fgmp.golden.blocks import tensor_exponent
from fgmp.golden.compiled import quantize_mixed, quantize_nvfp4
from fgmp.golden.llm.calibrate import calibrate
from fgmp.golden.llm.config import FGMPConfig
from fgmp.golden.llm.quantize import Study
from fgmp.golden.llm.weights import pack_weights, score_weights
from fgmp.golden.selector import SiteRegisters, Threshold, select


def plain_passes(model, samples, loss):
    model.requires_grad_(True)
    started = time.perf_counter()
    for sample in samples:
        loss(sample).backward()
        model.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def calibration(arguments):
    config = LlamaConfig(
        vocab_size=4096, hidden_size=arguments.width, intermediate_size=arguments.width * 11 // 4,
        num_hidden_layers=arguments.layers, num_attention_heads=8, num_key_value_heads=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    samples = torch.randint(0, 4096, (arguments.samples, 512))
    study = Study(model, samples, progress=False)
    study.calibration(FGMPConfig())
    ratios, scoring = [], []
    for _ in range(arguments.repeats):
        plain = plain_passes(model, samples, study.loss)
        started = time.perf_counter()
        calibrate(model, study.linears, study.sites, samples, study.loss, progress=False)
        ratios.append((time.perf_counter() - started) / plain)
        study._scores.clear()
        started = time.perf_counter()
        study.scores(FGMPConfig(threshold_samples=len(samples)))
        scoring.append((time.perf_counter() - started) / plain)
    print(f"calibration: {statistics.median(ratios):.2f} of plain forward and backward passes over the same samples")
    print(f"activation thresholds: {statistics.median(scoring):.2f} more, if all samples are used for them")
    return study


def weights(arguments):
    torch.manual_seed(0)
    linear = torch.nn.Linear(4096, 11008, bias=False)
    from fgmp.golden.llm.calibrate import Calibration
    from fgmp.golden.llm.sites import Site

    site = Site("w", 4096, ("w",), ("w",))
    sensitivity = torch.rand(linear.weight.shape) ** 4 * 1e-6
    measured = Calibration([site], {"w": sensitivity}, {"w": torch.ones(4096)}, {"w": torch.ones(4096)}, {"w": 0})
    rates = []
    for index in range(arguments.repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            scored = score_weights({"w": linear}, measured, FGMPConfig(), Path(folder), progress=False)
            dict(pack_weights({"w": linear}, scored, FGMPConfig(), progress=False))
            if index:  # the first compiles
                rates.append(linear.weight.numel() / (time.process_time() - started) / 1e6)
    print(f"weights, with clipping, scores and packing: {statistics.median(rates):.1f} million elements per CPU-second")


def activations(arguments):
    x = torch.randn(512, 4096, generator=torch.Generator().manual_seed(0)) * 3
    exponent = tensor_exponent(x) + 1
    scores = select(x, SiteRegisters(exponent, Threshold(0, 0))).score.flatten()
    threshold = Threshold.nearest(scores.kthvalue(int(0.7 * scores.numel())).values.item()).value
    calls = {
        "mixed, on the fly": lambda: quantize_mixed(x, exponent, threshold),
        "plain NVFP4": lambda: quantize_nvfp4(x, exponent),
    }
    try:
        from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize

        peer = torch.compile(nvfp4_quantize)
        calls["torchao plain NVFP4"] = lambda: peer(x)
    except ImportError:
        print("torchao is not installed: pip install 'fgmp[bench]'")
    times = {name: [] for name in calls}
    for index in range(arguments.repeats * 10 + 1):
        for name, call in calls.items():
            started = time.process_time()
            call()
            if index:
                times[name].append(time.process_time() - started)
    for name, seconds in times.items():
        print(
            f"activations, {name}: {x.numel() / statistics.median(seconds) / 1e6:.0f} million elements per CPU-second"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    calibration(arguments)
    torch.set_num_threads(1)
    weights(arguments)
    activations(arguments)


if __name__ == "__main__":
    main()
