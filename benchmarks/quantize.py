"""Quantization speed: plain NVFP4 and the mixed on-the-fly quantizer against torchao's plain NVFP4.

All compiled, alternating on the same tensor in one run.
Run with: python benchmarks/quantize.py [--json]   (needs the extra `bench`: pip install -e '.[all,bench]')
"""

import argparse
import json
import statistics
import sys
import time

import torch

from fgmp.golden.compiled import quantize_mixed, quantize_nvfp4
from fgmp.golden.selector import SiteSettings, Threshold, select

SIZE = (2048, 2048)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="alternating measurements, default 15")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    try:
        from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize
    except ImportError:
        print("torchao: not found, expected the extra bench: pip install -e '.[all,bench]'", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # elements per second of one core
    x = torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
    theirs = torch.compile(nvfp4_quantize)
    scores = select(x, SiteSettings(-6, Threshold(0, 0))).score.flatten()
    threshold = Threshold.nearest(scores.kthvalue(int(0.7 * scores.numel())).values.item()).value
    calls = {
        "NVFP4": lambda: quantize_nvfp4(x, -6),
        "mixed": lambda: quantize_mixed(x, -6, threshold),
        "torchao": lambda: theirs(x),
    }
    for call in calls.values():
        call()
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    speed = {name: x.numel() / statistics.median(s) / 1e6 for name, s in seconds.items()}
    ratio = {
        name: statistics.median(t / o for o, t in zip(seconds[name], seconds["torchao"], strict=True))
        for name in ("NVFP4", "mixed")
    }
    if args.json:
        print(json.dumps({"million_elements_per_cpu_second": speed, "ratio": ratio}, indent=2))
    else:
        for name, value in speed.items():
            print(f"{name:8} {value:8.1f} million elements per CPU-second")
        for name, value in ratio.items():
            print(f"{name} is {value:.2f} times as fast as torchao's (median of {args.rounds} alternating rounds)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
