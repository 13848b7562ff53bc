"""Our NVFP4 codes against peers' on random, heavy-tailed, zero and tiny tensors; every difference has a named reason.

The peers scale a tensor by amax / 2688 and we by a power of two; a peer is given our power of two, as 1 / 1 here, on
tensors that are in stored units already. ModelOpt's rules are written out below; where the package is installed (0.47
was tried: `pip install nvidia-modelopt`), a test holds them to it.
"""

import warnings

import pytest
import torch

from fgmp.formats import MAX_BLOCK_SCALE_CODE, MIN_BLOCK_SCALE_CODE
from fgmp.golden.blocks import block_scale_codes, stored_fp4, to_blocks
from fgmp.golden.codec import decode_e4m3, encode_e2m1, unpack_nibbles


def tensors():
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(64, 64, generator=generator)
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]).repeat(2).repeat(64, 4)
    return {
        "random": normal * 20,
        "heavy-tailed": (normal * 3) ** 3 * 2.0**-3,
        "zero": torch.zeros(64, 64),
        "tiny": normal * 2.0**-12,
        "ties": ties * torch.tensor([1.0, -1.0]).repeat(32),
    }


def peer_torchao(x):
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize

    scales, packed = nvfp4_quantize(x.contiguous(), 16, torch.tensor(1.0))
    return scales.view(torch.uint8).view(len(x), -1), unpack_nibbles(packed.view(torch.uint8)).view(len(x), -1, 16)


@pytest.mark.parametrize("name", tensors())
def test_torchao(name):
    x = tensors()[name].clamp(-448, 448)
    blocks = to_blocks(x)
    ours_scales = block_scale_codes(blocks)
    ours_codes, _ = stored_fp4(blocks, ours_scales)
    scales, codes = peer_torchao(x)
    # Reason 1, clamp of small scales: the smallest scale of torchao is 2**-6, of ours 2**-9 (code 1); a zero block too.
    small = scales != ours_scales
    assert (decode_e4m3(ours_scales[small]) < 2.0**-6).all()
    assert (scales[small] == 8).all()
    # Reason 2, ties decided by a reciprocal: torchao multiplies by 1 / scale, which rounds; we compare exactly.
    same = ~small
    odd = (codes != ours_codes) & same[..., None]
    # The sign of zero: we emit +0.
    odd &= ~((codes & 7 == 0) & (ours_codes == 0))
    scale = decode_e4m3(ours_scales).double()[..., None]
    quotient = blocks.double().abs() / scale
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], dtype=torch.float64)
    near = ((quotient[..., None] - ties).abs() < 1e-6).any(-1)
    assert near[odd].all()
    if name in ("random", "heavy-tailed"):
        assert not small.any() or name == "heavy-tailed"
        assert not odd.any()
    if name == "zero":
        assert small.all()


def modelopt_codes(blocks, scales):
    """ModelOpt's rule: the number of bounds below |v| / scale, and one more at the odd bounds where they are equal."""
    quotient = blocks / scales[..., None]
    bounds = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    magnitude = quotient.abs()
    code = torch.searchsorted(bounds, magnitude, out_int32=True)
    code += (magnitude[..., None] == bounds[[1, 3, 5]]).any(-1)
    return (torch.where(quotient < 0, 8, 0) + code).to(torch.uint8)


@pytest.mark.parametrize("name", tensors())
def test_modelopt_rule(name):
    """With our scales, a float32 quotient decides every element as the exact comparison does: no reason is needed."""
    blocks = to_blocks(tensors()[name].clamp(-448, 448))
    scale_codes = block_scale_codes(blocks)
    ours, _ = stored_fp4(blocks, scale_codes)
    theirs = modelopt_codes(blocks, decode_e4m3(scale_codes))
    zero = theirs & 7 == 0  # it keeps the sign of zero
    assert torch.equal(torch.where(zero, 0, theirs), ours)


def modelopt_scales(amax):
    """ModelOpt's rule: amax / 6 to the nearest E4M3 from 2**-9 to 448, and 1 for a zero block."""
    scales = torch.where(amax == 0, 1.0, amax / 6).clamp(min=2.0**-9, max=448)
    return scales.to(torch.float8_e4m3fn).view(torch.uint8)


@pytest.mark.parametrize("name", tensors())
def test_modelopt_rules_are_its_own(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("modelopt.torch.quantization.qtensor.nvfp4_tensor")
    x = tensors()[name].clamp(-448, 448)
    quantized, scales, _ = module.NVFP4QTensor.quantize(x, 16, weights_scaling_factor_2=torch.tensor(1.0))
    expected = modelopt_scales(to_blocks(x).abs().amax(-1))
    assert torch.equal(scales.view(torch.uint8).view(expected.shape), expected)
    codes = unpack_nibbles(quantized._quantized_data).view(len(x), -1, 16)
    assert torch.equal(codes, modelopt_codes(to_blocks(x), decode_e4m3(expected)))


def test_modelopt_scale_rule():
    """ModelOpt rounds amax / 6 to E4M3 as we do, but gives a zero block scale 1; no code is below 2**-9."""
    amax = torch.cat((torch.linspace(0, 448, 20_000), 2.0 ** torch.linspace(-30, 8, 2_000)))
    blocks = torch.zeros(len(amax), 16)
    blocks[:, 3] = amax
    theirs = modelopt_scales(amax)
    ours = block_scale_codes(blocks)
    differs = ours != theirs
    # Reason 3, zero blocks. Reason 4, our largest scale is 72, so that 6 * scale stays within 448.
    assert (amax[differs] == 0).sum() == 1
    assert ((ours == MAX_BLOCK_SCALE_CODE) | (amax == 0))[differs].all()
    assert (ours >= MIN_BLOCK_SCALE_CODE).all()


def test_every_tie_is_exact_where_a_reciprocal_is_not():
    """Over all legal scales and all ties: how many a multiplication by the rounded reciprocal would decide wrongly."""
    scales = decode_e4m3(torch.arange(1, 106, dtype=torch.uint8))[:, None]
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    ours = encode_e2m1(scales * ties, scales)
    assert torch.equal(ours, torch.tensor([0, 2, 2, 4, 4, 6, 6], dtype=torch.uint8).expand(105, 7))
    wrong = (scales * ties) * (1 / scales) != ties
    assert wrong.any()
