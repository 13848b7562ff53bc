"""Folders of ours for others: plain weights, or compressed-tensors where a linear has one format throughout."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...golden.codec import pack_nibbles
from ...golden.packing import Packed, unpack
from ..model.dequantize import dequantize
from ..model.language_model import DTYPES
from ..model.layers import FGMPLinear
from ..model.load import load
from ..model.save import copy_side_files, saved_tensors
from ..model.shards import Shard, write_shards

__all__ = ["export"]

_FP8, _NVFP4 = "float-quantized", "nvfp4-pack-quantized"
_SCHEMES = {
    _FP8: {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False},
    _NVFP4: {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True,
             "dynamic": False, "scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"},
}  # fmt: skip


def export(folder: Path, out: Path, to: str, dtype: str | None, limit: int) -> dict[str, Any]:
    """Write the quantized `folder` into the existing, empty `out`, "plain" or as "compressed-tensors".

    Every value is the one that the packed weight stands for, in `dtype` (default: as the folder has the rest), or
    exactly where it stays packed. Activations are of no format there: these folders hold weights alone.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model: Any = load(folder)
    if not hasattr(model, "config"):
        raise InputError(f"model folder {folder}: no transformers model, expected one")
    wanted = DTYPES[dtype] if dtype else model.dtype
    packed = {name: module.packed for name, module in model.named_modules() if isinstance(module, FGMPLinear)}
    dequantize(model, wanted)
    state = saved_tensors(model)
    formats: dict[str, str] = {}
    if to == "compressed-tensors":
        plain = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
        for name, weight in packed.items():
            kind = _uniform(weight)
            if kind is not None and name in plain:
                del state[f"{name}.weight"]
                state |= {f"{name}.{part}": tensor for part, tensor in _parts(weight, kind).items()}
                formats[name] = kind
    recipe = _recipe(model, formats) if to == "compressed-tensors" else None
    write_shards(out, {name: Shard.of(t) for name, t in state.items()}, limit)
    model.config.dtype = wanted
    model.config.save_pretrained(out)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(out)
    copy_side_files(folder, out)
    if recipe is not None:
        settings = json.loads((out / "config.json").read_text())
        settings["quantization_config"] = recipe
        (out / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return {
        "from": "fgmp",
        "to": to,
        "linears": len(packed),
        "dtype": str(wanted).removeprefix("torch."),
        "tensors": len(state),
        "fp8": sum(kind == _FP8 for kind in formats.values()),
        "nvfp4": sum(kind == _NVFP4 for kind in formats.values()),
    }


def _uniform(weight: Packed) -> str | None:
    """The format that all blocks of a weight have, if it is one that compressed-tensors has."""
    if weight.shape[1] % 16:
        return None
    blocks = weight.shape[0] * weight.shape[1] // 16
    return {0: _FP8, blocks: _NVFP4}.get(weight.scales.numel())


def _parts(weight: Packed, kind: str) -> dict[str, Tensor]:
    """A uniform weight's tensors: the same codes, with the power of two as the scale of the whole tensor."""
    tensor = unpack(weight)
    if kind == _FP8:
        codes = tensor.codes.flatten(1).view(torch.float8_e4m3fn)
        return {"weight": codes, "weight_scale": torch.tensor([2.0**tensor.exponent])}
    codes = tensor.codes.flatten(1)
    return {
        "weight_packed": pack_nibbles(codes),
        "weight_scale": tensor.scales.view(torch.float8_e4m3fn),
        "weight_global_scale": torch.tensor([2.0**-tensor.exponent]),  # by which it divides
    }


def _recipe(model: nn.Module, formats: dict[str, str]) -> dict[str, Any]:
    used = [kind for kind in (_FP8, _NVFP4) if kind in formats.values()]
    if not used:
        raise InputError("compressed-tensors: no linear is all FP4 or all FP8, expected one at least (try --to plain)")
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return {
        "quant_method": "compressed-tensors",
        "format": used[0] if len(used) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{index}": {
                "targets": [name for name, own in formats.items() if own == kind],
                "weights": _SCHEMES[kind],
                "input_activations": None,
                "output_activations": None,
                "format": kind,
            }
            for index, kind in enumerate(used)
        },
        "ignore": [name for name in linears if name not in formats],
        "kv_cache_scheme": None,
    }
