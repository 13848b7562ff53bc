"""Makes `from_pretrained` of transformers load folders that `fgmp quantize` wrote, once this module is imported."""

import re
from pathlib import Path
from typing import Any

from torch import nn
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ...errors import InputError
from ..config import FGMPConfig
from ..prepare.linears import prepare
from ..prepare.registrations import registrations, replace_registered, share, unshare
from .dequantize import dequantize
from .folder import read_folder
from .layers import FGMPLinear
from .manifest import QUANT_METHOD, LayerInfo, check_manifest, site_settings
from .site import SiteQuantizer

__all__ = [
    "FGMPHfQuantizer",
    "FGMPQuantizationConfig",
    "fill_skeleton",
    "make_skeleton",
    "mark_quantized",
    "register_transformers",
]


@register_quantization_config(QUANT_METHOD)
class FGMPQuantizationConfig(QuantizationConfigMixin):
    """The `quantization_config` of a folder's config.json, as it is (docs/packed-format.md)."""

    def __init__(self, **manifest: Any):
        manifest.pop("quant_method", None)
        self.quant_method = QUANT_METHOD
        self.manifest = {"quant_method": QUANT_METHOD, **manifest}

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json."""
        return dict(self.manifest)


@register_quantizer(QUANT_METHOD)
class FGMPHfQuantizer(HfQuantizer):
    """Puts packed layers where the manifest has them, after every checksum was verified."""

    requires_calibration = True

    @property
    def is_trainable(self) -> bool:
        """Adapters beside the packed weights can be trained; the weights have no gradients."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """True: parameters that are not packed (embeddings, norms) can be trained through the quantized layers."""
        return True

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """`save_pretrained` would write a folder without checksums; use `fgmp.quantizer.save`."""
        return False

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        """Whether a stored tensor has another shape than the attribute of its name: a packed payload has."""
        module, name = param_name.rpartition(".")[::2]
        return name == "weight" and isinstance(model.get_submodule(module), FGMPLinear)

    def _process_model_before_weight_loading(self, model: Any, checkpoint_files: Any = None, **_: Any) -> Any:
        manifest = self.quantization_config.manifest
        folder = Path(checkpoint_files[0]).parent if checkpoint_files else Path(model.config._name_or_path)
        check_manifest(manifest, folder)
        read_folder(folder)
        make_skeleton(model, manifest)
        mark_quantized(model)
        aliases = [rf"^{re.escape(name)}\." for name in manifest.get("aliases", ())]
        if aliases:  # these are not missing: they become what their original is
            model._keys_to_ignore_on_load_missing = {*(model._keys_to_ignore_on_load_missing or ()), *aliases}
        return model

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        fill_skeleton(model, self.quantization_config.manifest)
        return model

    def _dequantize(self, model: Any, dtype: Any = None) -> Any:
        return dequantize(model, dtype)


def make_skeleton(model: nn.Module, manifest: dict[str, Any]) -> None:
    """Replace the linears of `model` by packed layers of the sizes in `manifest`, still without content.

    Raises InputError if the model has no such linear.
    """
    prepare(model, manifest["config"]["ignore"])
    for alias, original in manifest.get("aliases", {}).items():
        try:
            alike = type(model.get_submodule(alias)) is type(model.get_submodule(original))
        except AttributeError:
            alike = False
        if not alike:
            raise InputError(f"module {alias}: expected one like {original} in this model")
    unshare(model, manifest.get("aliases", {}))
    sites = {
        name: SiteQuantizer(settings, manifest["sites"][name]["readers"])
        for name, settings in site_settings(manifest).items()
    }
    modules, held = dict(model.named_modules()), registrations(model)
    for name, entry in manifest["linears"].items():
        info = LayerInfo(name, entry)
        linear = modules.get(name)
        if not isinstance(linear, nn.Linear) or (linear.out_features, linear.in_features) != info.shape:
            raise InputError(f"linear {name}: {linear}, expected a linear of shape {info.shape} in this model")
        site = None if info.site is None else sites[info.site]
        replace_registered(held, linear, FGMPLinear.skeleton(linear, info.exponent, info.fp4_blocks, site))


def fill_skeleton(model: nn.Module, manifest: dict[str, Any]) -> None:
    """After the tensors were loaded: give the sites theirs, let aliases be what their originals are."""
    for module in model.modules():
        if isinstance(module, FGMPLinear):
            module.take_site_tensors()
    share(model, manifest.get("aliases", {}))
    model.fgmp_config = FGMPConfig.from_dict(manifest["config"])


def mark_quantized(model: Any) -> None:
    """Keep transformers from doing to packed weights what it does to others: tying them, or saving them by itself."""
    ties = getattr(model, "all_tied_weights_keys", None)
    if ties:
        packed = {
            f"{name}.weight" for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, FGMPLinear)
        }
        model.all_tied_weights_keys = {a: b for a, b in ties.items() if a not in packed and b not in packed}
    if hasattr(model, "save_pretrained") and getattr(model, "hf_quantizer", None) is None:
        model.hf_quantizer = FGMPHfQuantizer(FGMPQuantizationConfig())


def register_transformers() -> None:
    """Make `from_pretrained` of transformers load folders that `fgmp quantize` wrote; may be called again.

    Importing this module has done it already: transformers registers classes where they are defined.
    """
