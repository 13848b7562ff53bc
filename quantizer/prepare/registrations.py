"""Where modules stand in a model. One may stand in several places, and is replaced in all of them."""

import copy
from collections.abc import Mapping

from torch import nn

__all__ = ["Registrations", "registrations", "replace_registered", "share", "shared_modules", "unshare"]

Registrations = dict[int, list[tuple[nn.Module, str]]]


def registrations(model: nn.Module) -> Registrations:
    """By id of each module: the modules that hold it, and under which name; one may be held in several places."""
    found: Registrations = {}
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None:
                found.setdefault(id(child), []).append((parent, name))
    return found


def replace_registered(held: Registrations, old: nn.Module, new: nn.Module) -> None:
    """Replace `old` by `new` in all of its places, of which `held` is told."""
    held[id(new)] = held.pop(id(old))
    for parent, name in held[id(new)]:
        setattr(parent, name, new)


def shared_modules(model: nn.Module) -> dict[str, str]:
    """Every further name of a module that stands in several places, with its first; parts of one are not listed."""
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if any(name.startswith(f"{alias}.") for alias in aliases):
            continue
        if first.setdefault(id(module), name) != name:
            aliases[name] = first[id(module)]
    return aliases


def share(model: nn.Module, aliases: Mapping[str, str]) -> None:
    """Let each alias name the very module that its original does."""
    for alias, original in aliases.items():
        model.set_submodule(alias, model.get_submodule(original))


def unshare(model: nn.Module, aliases: Mapping[str, str]) -> None:
    """Give each alias a module of its own, so that what is loaded or initialized there hurts no other."""
    for alias, original in aliases.items():
        if model.get_submodule(alias) is model.get_submodule(original):
            model.set_submodule(alias, copy.deepcopy(model.get_submodule(original)))
