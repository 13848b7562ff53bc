"""Exact GEMM against torch's float32 product of the same shape, side by side in one run.

Run with: python benchmarks/gemm.py [--json]
"""

import argparse
import json
import statistics
import sys
import time

import torch

from fgmp.golden.gemm import exact_gemm

SHAPES = ((512, 1024, 1024), (1024, 2048, 2048), (512, 4096, 4096))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="alternating measurements, default 9")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    results = []
    for m, n, k in SHAPES:
        generator = torch.Generator().manual_seed(k)
        stored = [torch.randint(-(2**18), 2**18, (rows, k), generator=generator).double() / 1024 for rows in (m, n)]
        a, w = stored
        a32, w32 = a.float(), w.float()
        times: dict[str, list[float]] = {"exact": [], "float32": []}
        for round_ in range(args.rounds + 1):
            for name, call in (("exact", lambda: exact_gemm(a, w, 0)), ("float32", lambda: a32 @ w32.T)):  # noqa: B023
                start = time.perf_counter()
                call()
                if round_:  # the first warms up
                    times[name].append(time.perf_counter() - start)
        ratio = statistics.median(e / f for e, f in zip(times["exact"], times["float32"], strict=True))
        results.append(
            {
                "m": m,
                "n": n,
                "k": k,
                "ratio": ratio,
                **{f"{s}_ms": 1e3 * statistics.median(t) for s, t in times.items()},
            }
        )
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        for r in results:
            print(
                f"M {r['m']:5} N {r['n']:5} K {r['k']:5}: exact {r['exact_ms']:8.2f} ms, "
                f"float32 {r['float32_ms']:8.2f} ms, ratio {r['ratio']:.2f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
