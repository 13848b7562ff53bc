"""Sites: the activation tensors that linears read, found by running the model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from .targets import LinearExperts

__all__ = ["Site", "find_sites", "hooked"]


@dataclass(frozen=True)
class Site:
    """One activation tensor: its name, how many channels it has, and the linears that read it.

    `watched` are the linears whose inputs together are the site's whole activations: the first reader, or, where the
    experts of one layer share a site, all of them (each sees the tokens that were routed to it).
    """

    name: str
    channels: int
    linears: tuple[str, ...]
    watched: tuple[str, ...]


def find_sites(model: nn.Module, linears: Mapping[str, nn.Linear], run: Callable[[], Any]) -> list[Site]:
    """Call `run` once, without gradients, and group `linears` by the very tensor they read.

    The experts of one layer share one site for their first projections and one for their second.
    Raises InputError for a linear that `run` does not reach.
    """
    readers: dict[Any, list[str]] = {}
    kept: list[Tensor] = []  # keeps the tensors alive, so that an id means one tensor only
    pooled = _pooled(model, linears)

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if not inputs:
                raise InputError(f"linear {name}: called by keyword, expected its input as first argument")
            kept.append(inputs[0])
            names = readers.setdefault(id(inputs[0]), [])
            if name not in names:
                names.append(name)

        return hook

    with torch.no_grad(), hooked(linears, {n: note(n) for n in linears if n not in pooled}):
        run()
    for name in linears:
        if name in pooled:
            readers.setdefault(pooled[name], []).append(name)
    read = {name for names in readers.values() for name in names}
    for name in linears:
        if name not in read:
            raise InputError(
                f"linear {name}: not reached by the calibration text, expected every linear to be used or ignored"
            )
    sites = []
    seen: set[str] = set()
    order = {name: index for index, name in enumerate(linears)}
    for names in readers.values():
        names.sort(key=order.__getitem__)  # named after the first in the model, in whatever order they are called
    for key, names in sorted(readers.items(), key=lambda item: order[item[1][0]]):
        if names[0] in seen:
            continue  # a linear that is called several times in one pass keeps its first site
        seen.update(names)
        watched = tuple(names) if isinstance(key, str) else (names[0],)
        sites.append(Site(names[0], linears[names[0]].in_features, tuple(names), watched))
    return sites


class hooked:
    """Context manager: forward pre-hooks on the named modules."""

    def __init__(self, modules: Mapping[str, nn.Module], hooks: Mapping[str, Any]):
        self._pairs = [(modules[name], hook) for name, hook in hooks.items()]
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        self._handles = [module.register_forward_pre_hook(hook) for module, hook in self._pairs]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _pooled(model: nn.Module, linears: Mapping[str, nn.Linear]) -> dict[str, str]:
    """Linears inside fused experts, and the name of the module list that holds their projection."""
    experts = tuple(f"{n}." for n, m in model.named_modules() if isinstance(m, LinearExperts))
    return {name: name.rpartition(".")[0] for name in linears if experts and name.startswith(experts)}
