"""Calibration against plain forward and backward passes over the same samples, and the speed of quantizing weights.

Everything in one process, alternating, medians of ratios. `python benchmarks/calibration.py [--layers N --width H]`.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fgmp.quantizer.calibrate.calibration import Calibration
from fgmp.quantizer.calibrate.measure import calibrate
from fgmp.quantizer.choose.weights import pack_weights, score_weights
from fgmp.quantizer.config import FGMPConfig
from fgmp.quantizer.prepare.sites import Site
from fgmp.quantizer.study import Study


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
    study.calibration(FGMPConfig.paper())
    ratios, scoring = [], []
    for _ in range(arguments.repeats):
        plain = plain_passes(model, samples, study.loss)
        started = time.perf_counter()
        calibrate(model, study.linears, study.sites, samples, study.loss, progress=False)
        ratios.append((time.perf_counter() - started) / plain)
        study.arrange(False).scores.clear()
        started = time.perf_counter()
        study.scores(FGMPConfig.paper(threshold_samples=len(samples)))
        scoring.append((time.perf_counter() - started) / plain)
    print(f"calibration: {statistics.median(ratios):.2f} of plain forward and backward passes over the same samples")
    print(f"activation thresholds: {statistics.median(scoring):.2f} more, if all samples are used for them")
    return study


def peak_memory(*, reset=False):
    """Peak resident bytes since the last reset (Linux); with `reset`, from now on."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def weights(arguments):
    torch.manual_seed(0)
    linear = torch.nn.Linear(4096, 11008, bias=False)
    site = Site("w", 4096, ("w",), ("w",))
    sensitivity = torch.rand(linear.weight.shape) ** 4 * 1e-6
    ones = {"w": torch.ones(4096)}
    measured = Calibration([site], {"w": sensitivity}, ones, ones, {"w": 0}, {"w": 512.0})
    rates, memory = [], []
    for index in range(arguments.repeats + 1):
        before = peak_memory(reset=True)
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            scored = score_weights({"w": linear}, measured, FGMPConfig.paper(), Path(folder), progress=False)
            dict(pack_weights({"w": linear}, scored, FGMPConfig.paper(), measured, progress=False))
            if index:  # the first compiles
                rates.append(linear.weight.numel() / (time.process_time() - started) / 1e6)
                memory.append((peak_memory() - before) / linear.weight.nbytes)
    print(f"weights, with clipping, scores and packing: {statistics.median(rates):.1f} million elements per CPU-second")
    print(f"... in {statistics.median(memory):.2f} of the weight's own size as extra memory, result included")


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


if __name__ == "__main__":
    main()
