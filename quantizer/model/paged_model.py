"""A language model whose blocks go from its checkpoint into `Pages`, without ever being in memory together."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import InputError
from ..prepare.pages import Pages, blocks_of

__all__ = ["load_paged"]


def load_paged(
    name: str | Path,
    config: Any,
    folder: Path,
    ignore: Sequence[str],
    *,
    dtype: torch.dtype,
    device: str,
    options: Mapping[str, Any],
) -> tuple[Any, Pages, dict[str, Any]]:
    """A causal language model, its pages in `folder`, and what was missing; `options` are of `from_pretrained`.

    Raises InputError without accelerate, and for a model without blocks; transformers raises what it does.
    """
    try:
        import accelerate
        from accelerate.hooks import remove_hook_from_module
        from accelerate.utils import align_module_device
    except ImportError:
        raise InputError("layer by layer: accelerate is missing, expected it (pip install accelerate)") from None
    from transformers import AutoModelForCausalLM

    with accelerate.init_empty_weights():
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=options["trust_remote_code"])
    blocks = blocks_of(skeleton)
    if not blocks:
        raise InputError(f"model {name}: has no list of blocks, expected one to go through layer by layer")
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # it says what was asked for
    model, info = AutoModelForCausalLM.from_pretrained(
        name,
        dtype=dtype,
        device_map=_places(skeleton, set(blocks), device),
        offload_folder=folder / "converted",
        use_safetensors=True,
        output_loading_info=True,
        **options,
    )

    made: dict[int, tuple[nn.Module, nn.Parameter, nn.Parameter]] = {}

    def fetch(block: nn.Module) -> None:
        for module in block.modules():
            absent = {key: p for key, p in module.named_parameters(recurse=False) if p.is_meta}
            try:
                with align_module_device(module):
                    values = {key: module.get_parameter(key).data for key in absent}
            except KeyError as error:
                raise InputError(f"model {name}: weights lack {error.args[0]}") from None
            release(module)
            for key, value in values.items():
                owner, _, parameter = made.setdefault(id(absent[key]), (block, absent[key], nn.Parameter(value)))
                if owner is not block:
                    raise InputError(
                        f"model {name}: two blocks share a parameter ({key}), expected blocks with parameters of their "
                        "own (leave out layer by layer)"
                    )
                setattr(module, key, parameter)

    def release(module: nn.Module) -> None:
        remove_hook_from_module(module)
        module.__dict__.pop("forward", None)  # its own again, and not a copy of it

    paged = Pages(model.eval(), folder, ignore, fetch)
    shutil.rmtree(folder / "converted", ignore_errors=True)  # which the pages hold now
    inside = {id(module) for page in paged.pages for module in page.block.modules()}
    for module in model.modules():
        if id(module) not in inside:
            release(module)
    for key in ("hf_device_map", "to", "cuda", "npu", "xpu", "mlu", "sdaa", "musa"):  # what accelerate put there
        model.__dict__.pop(key, None)
    return model, paged, info


def _places(model: nn.Module, blocks: set[str], device: str) -> dict[str, str]:
    """Where everything belongs: blocks on disk, all else on `device`."""
    found: dict[str, str] = {}

    def walk(name: str, module: nn.Module) -> None:
        if name in blocks:
            found[name] = "disk"
        elif any(block.startswith(f"{name}." if name else "") for block in blocks):
            tensors = [*module._parameters, *module._buffers]
            found.update({f"{name}.{key}" if name else key: device for key in tensors})
            for key, child in module.named_children():
                walk(f"{name}.{key}" if name else key, child)
        else:
            found[name] = device

    walk("", model)
    return found
