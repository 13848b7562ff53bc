"""`load`: a quantized folder back into a model that runs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import InputError, first_line
from ...processes import exhausted
from .folder import read_folder
from .layers import set_exact
from .manifest import read_settings

__all__ = ["load"]


def load(
    folder: Path | str,
    model: nn.Module | None = None,
    *,
    exact: bool = False,
    dtype: torch.dtype | str = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
) -> nn.Module:
    """Load a folder that `fgmp quantize` or `fgmp.quantizer.save` wrote; everything in it is verified first.

    Args:
        folder: the quantized model.
        model: for modules that are not of transformers: a module of the same architecture, whose linears are replaced
            and whose parameters are overwritten.
        exact: whether layers compute exactly as the hardware does, or fast in the model's dtype.
        dtype: of everything that is not packed; "auto" is what was saved.
        device: where to put the model, as for `from_pretrained`'s `device_map`.
        trust_remote_code: whether Python code in the folder may run, for models that come with their own.

    Raises InputError for a folder that is broken, altered, of another version or of an unknown architecture.
    """
    folder = Path(folder)
    manifest = read_folder(folder)
    if model is not None:
        return _load_into(model, folder, manifest, exact)
    import transformers

    from .transformers_plugin import register_transformers

    register_transformers()
    settings = read_settings(folder)
    named = settings.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else None
    kind: Any = getattr(transformers, str(architecture), None)
    own = "auto_map" in settings and kind is None
    if own and trust_remote_code:
        kind = transformers.AutoModelForCausalLM
    if own and kind is None:
        raise InputError(
            f"model folder {folder}: architecture {architecture!r} comes with code of its own, expected leave to run "
            "it (--trust-remote-code)"
        )
    if "model_type" not in settings or kind is None:
        raise InputError(
            f"model folder {folder}: architecture {architecture!r} is not known to transformers, expected one that is, "
            "or a module given as `model`"
        )
    try:
        loaded, info = kind.from_pretrained(
            folder,
            dtype=dtype,
            device_map=None if device in (None, "cpu") else device,  # anything else needs accelerate
            use_safetensors=True,
            output_loading_info=True,
            **({"trust_remote_code": True} if own else {}),
        )
    except InputError:
        raise
    except Exception as error:  # transformers raises whatever its parts raise on a broken folder
        exhausted(str(error), folder)
        reason = first_line(error)
        raise InputError(f"model folder {folder}: cannot be loaded ({reason})") from None
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = [str(key) for key in info.get(problem) or () if not _within(str(key), manifest["aliases"])]
        if keys:
            raise InputError(f"model folder {folder}: {problem.replace('_', ' ')}: {min(keys)}")
    set_exact(loaded, exact)
    return loaded.eval()


def _within(key: str, modules: Iterable[str]) -> bool:
    return any(key.startswith(f"{module}.") for module in modules)


def _load_into(model: nn.Module, folder: Path, manifest: dict[str, Any], exact: bool) -> nn.Module:
    from safetensors.torch import load_file

    from .transformers_plugin import fill_skeleton, make_skeleton

    make_skeleton(model, manifest)
    state: dict[str, torch.Tensor] = {}
    for file in manifest["files"]:
        if file.endswith(".safetensors"):
            state.update(load_file(folder / file))
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    parameters = dict(model.named_parameters())
    shared = {
        n for n in missing if n not in parameters or _within(n, manifest["aliases"])
    }  # tied to one that was saved
    if unexpected or set(missing) - shared:
        odd = sorted([*unexpected, *(set(missing) - shared)])[0]
        raise InputError(f"model folder {folder}: tensor {odd} is missing or unexpected in this module")
    fill_skeleton(model, manifest)
    set_exact(model, exact)
    return model.eval()
