"""Triton's kernels, in its interpreter, against the arithmetic that they repeat; and the compiled form of the same.

`pip install triton` brings it where torch does not; a process of its own, because the interpreter is chosen at import.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from fgmp.golden.blocks import to_blocks
from fgmp.golden.compiled import quantize_mixed, quantize_values
from fgmp.quantizer.calibrate.error_factor import error_factor
from fgmp.quantizer.choose.compensation import compensated

INTERPRETED = """
import torch
from fgmp.formats import MAX_BLOCK_SCALE_CODE, MIN_BLOCK_SCALE_CODE
from fgmp.golden import fused
from fgmp.golden.clipping import clipped_scale_codes
from fgmp.golden.codec import decode_e4m3
from fgmp.golden.compiled import round_columns
from fgmp.golden.selector import SiteSettings, Threshold, select
from fgmp.quantizer.calibrate.error_factor import error_factor

generator = torch.Generator().manual_seed(0)
x = torch.randn(24, 512, generator=generator) * torch.exp(torch.randn(24, 512, generator=generator) * 3)
ties = [6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 0, -0.25, -0.75, -5, 4.5, 5.5, 0.5, 1]
x[0, :16], x[1, :16], x[2, :16] = torch.tensor(ties), torch.tensor(ties) * 0.875, 0
x[3, 0] = torch.inf
for dtype in (torch.bfloat16, torch.float16):
    for exponent in (-6, 0, -12):
        for threshold in (Threshold(0, 0), Threshold(200, 20), Threshold(255, 27), Threshold(255, 63)):
            values, fp8 = fused.quantize_values_fused(x.to(dtype), exponent, threshold.value)
            chosen = select(x.to(dtype).float(), SiteSettings(exponent, threshold))
            assert torch.equal(fp8, chosen.fp8)
            assert torch.equal(values, chosen.tensor((24, 512), exponent).dequantize().to(dtype))
mix = torch.eye(16) + torch.randn(16, 16, generator=generator) / 3
moments = torch.randn(400, 16, generator=generator) @ mix
within = error_factor(moments.T @ moments / 400)
columns = torch.randn(16, 300, generator=generator) * 60 * torch.exp(torch.randn(300, generator=generator))
fp8 = torch.rand(300, generator=generator) < 0.3
legal = decode_e4m3(torch.arange(MIN_BLOCK_SCALE_CODE, MAX_BLOCK_SCALE_CODE + 1, dtype=torch.uint8))
cost = within.diagonal().square().reciprocal().expand(300, 16).contiguous()
scales = clipped_scale_codes(columns.T.clamp(-448, 448).contiguous(), cost)
rounded, errors = round_columns(columns, within, decode_e4m3(scales), fp8)
found, its_errors = fused.round_block_fused(columns, within, fp8, legal)
assert torch.equal(found, scales)
assert torch.equal(columns, rounded)
assert torch.equal(its_errors, errors)
print("equal")
"""


@pytest.mark.optional
def test_kernels_equal_the_golden_arithmetic():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is optional: pip install triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], capture_output=True, text=True, env=environment)
    assert done.stdout == "equal\n", done.stderr


def test_one_kernel_gives_what_several_give():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 64, generator=generator) * torch.exp(torch.randn(16, 64, generator=generator))
    for threshold in (0.0, 3e8, 1e30):
        values, fp8 = quantize_values(x, -6, threshold)
        blocks = quantize_mixed(x, -6, threshold)
        assert torch.equal(fp8, blocks.fp8)
        assert torch.equal(values, blocks.tensor((16, 64), -6).dequantize())
    assert not fp8.any()


def test_compiled_compensation_gives_the_same_codes():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(400, 64, generator=generator)
    factor = error_factor(x.T @ x / 400)
    blocks = to_blocks(torch.randn(40, 64, generator=generator) * 50)
    fp8 = torch.rand(40, 4, generator=generator) < 0.4
    one, other = (compensated(blocks, fp8, factor, clip=True, fast=fast) for fast in (False, True))
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(one.scales, other.scales)
