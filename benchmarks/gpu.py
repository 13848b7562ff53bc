"""What a GPU makes of it: the same masks and codes as the CPU, and how fast a Llama of 7B shape is quantized.

`python benchmarks/gpu.py [--layers 32] [--samples 512]` on a machine with CUDA. Weights are random: time does not
depend on them. Every part prints one line, so that a run that is cut short has told what it knew.
"""

import argparse
import functools
import time
import warnings

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fgmp.golden.compiled import quantize_mixed, quantize_values
from fgmp.golden.fused import quantize_values_fused
from fgmp.quantizer import FGMPConfig, Study

SHAPE = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32}
SMALL = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2}


def llama(layers, vocabulary, dtype, device, sizes):
    """A Llama with random weights, made where it is needed."""
    config = AutoConfig.for_model("llama", num_hidden_layers=layers, vocab_size=vocabulary, **sizes)
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def seconds(function):
    torch.cuda.synchronize()
    started = time.perf_counter()
    result = function()
    torch.cuda.synchronize()
    return time.perf_counter() - started, result


def equality():
    """Masks, scales and codes of the same small model, calibrated on either, and with the CPU's calibration on both."""
    ids = torch.randint(0, 512, (8, 128), generator=torch.Generator().manual_seed(1))
    for rounding in ("nearest", "gptq"):
        config = FGMPConfig(rounding=rounding, threshold_samples=4)
        found = {}
        for device in ("cpu", "cuda"):
            model = llama(2, 512, torch.float32, "cpu", SMALL).to(device)
            study = Study(model, ids, progress=False)
            found[device] = (dict(study.pack(config)), study.site_settings(config), study.plan(config).expected)
        cpu, gpu = found["cpu"], found["cuda"]
        blocks = sum(p.mask.numel() * 8 for p in cpu[0].values())
        masks = sum(int((p.mask ^ gpu[0][n].mask.cpu()).count_nonzero()) for n, p in cpu[0].items())
        codes = sum(
            0 if torch.equal(p.mask, gpu[0][n].mask.cpu()) and torch.equal(p.payload, gpu[0][n].payload.cpu()) else 1
            for n, p in cpu[0].items()
        )
        thresholds = sum(s.threshold != gpu[1][n].threshold for n, s in cpu[1].items())
        print(
            f"{rounding}: CPU and GPU differ in {masks} mask bytes of {blocks // 8}, the bytes of {codes} linears of "
            f"{len(cpu[0])}, {thresholds} thresholds of {len(cpu[1])}",
            flush=True,
        )


def activations():
    """The quantizer of activations in one kernel, beside a plain copy of as many bytes."""
    for shape in ((8192, 4096), (8192, 11008)):
        x = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
        threshold = 1e6
        while float(quantize_values_fused(x, -6, threshold)[1].float().mean()) > 0.3:
            threshold *= 1.25
        blocks = quantize_mixed(x, -6, threshold)
        wanted = blocks.tensor(shape, -6).dequantize().bfloat16()
        rates = [f"copy {best(x.clone) * 1e6:.0f} us"]
        for name, function in (("compiled", quantize_values), ("fused", quantize_values_fused)):
            run = functools.partial(function, x, -6, threshold)
            values, fp8 = run()
            same = torch.equal(fp8, blocks.fp8) and torch.equal(values, wanted)
            rates.append(f"{name} {best(run) * 1e6:.0f} us, {best(x.clone) / best(run):.0%} of the copy, equal: {same}")
        print(f"activations {shape}, {float(blocks.fp8.float().mean()):.0%} FP8: {'; '.join(rates)}", flush=True)


def best(function):
    """Seconds of a call: the least of some means."""
    for _ in range(3):
        function()
    return min(seconds(lambda: [function() for _ in range(20)])[0] / 20 for _ in range(7))


def whole(layers, samples):
    """Calibration of 512 tokens a sample, and all weights, of a Llama of 7B shape."""
    took, model = seconds(lambda: llama(layers, 32000, torch.bfloat16, "cuda", SHAPE))
    weights = sum(p.numel() for p in model.parameters())
    print(f"Llama of {layers} layers, {weights / 1e9:.2f} G parameters, made in {took:.0f} s", flush=True)
    ids = torch.randint(0, 32000, (samples, 512), generator=torch.Generator().manual_seed(1))
    study = Study(model, ids, progress=False)
    config = FGMPConfig()
    took, _ = seconds(lambda: study.arrange(True))
    print(f"order of channels: {took:.1f} s", flush=True)
    took, _ = seconds(lambda: study.calibration(config))
    memory = torch.cuda.max_memory_allocated() / 2**30
    print(f"calibration of {samples} x 512 tokens, with factors: {took:.1f} s, peak {memory:.1f} GiB", flush=True)
    took, _ = seconds(lambda: study.scores(config))
    print(f"activation scores: {took:.1f} s", flush=True)
    took, _ = seconds(lambda: study.score(config))
    print(f"weight scales and scores: {took:.1f} s", flush=True)
    took, plan = seconds(lambda: study.plan(config))
    print(f"choice: {took:.1f} s, {plan.expected}", flush=True)
    took, count = seconds(lambda: sum(p.shape[0] * p.shape[1] for _, p in study.pack(config)))
    print(f"rounding ({config.rounding}) and packing: {count / 1e9:.2f} G weights in {took:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--parts", nargs="+", default=["equality", "activations", "whole"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    if "equality" in arguments.parts:
        equality()
    if "whole" in arguments.parts:
        whole(arguments.layers, arguments.samples)
    if "activations" in arguments.parts:
        activations()


if __name__ == "__main__":
    main()
