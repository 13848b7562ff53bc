"""Sites: the activation tensors that linears read, found by running the model."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...errors import InputError
from .linears import LinearExperts

__all__ = ["Site", "find_sites", "hooked", "kind"]


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


def find_sites(
    model: nn.Module,
    linears: Mapping[str, nn.Linear],
    runs: Iterable[Callable[[], Any]],
    reasons: dict[str, str] | None = None,
) -> list[Site]:
    """Call `runs` one after the other, without gradients, until all `linears` were called; group them by the very
    tensor they read.

    The experts of one layer share one site for their first projections and one for their second. A linear whose weight
    is read by anything but its own call, or whose kind no run calls, is in no site; `reasons` is told by name. One that
    is not called where others of its kind are has a site of its own. Raises InputError if none is called, or the model
    writes to a weight.
    """
    readers: dict[Any, list[str]] = {}
    kept: list[Tensor] = []  # keeps the tensors alive, so that an id means one tensor only
    pooled = _pooled(model, linears)
    needed = set(linears) - set(pooled)
    seen: set[str] = set()
    earlier: set[str] = set()  # seen in earlier runs
    inside: list[str] = []

    def enter(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            inside.append(name)
            if not inputs:
                raise InputError(f"linear {name}: called by keyword, expected its input as first argument")
            if name in pooled or name in earlier:
                return
            seen.add(name)
            kept.append(inputs[0])
            # The same tensor after a write in place is another site.
            version = 0 if inputs[0].is_inference() else inputs[0]._version
            names = readers.setdefault((len(earlier), id(inputs[0]), version), [])
            if name not in names:
                names.append(name)

        return hook

    def leave(_: nn.Module, __: Any, ___: Any) -> None:
        inside.pop()

    watch = _WeightReads(linears, inside)
    with torch.no_grad(), hooked(linears, {n: enter(n) for n in linears}), ExitStack() as stack:
        for linear in linears.values():
            stack.callback(linear.register_forward_hook(leave).remove)
        for run in runs:
            with watch:
                run()
            kept.clear()
            earlier |= seen
            if seen | watch.found >= needed:
                break
    if watch.written:
        raise InputError(
            f"linear {min(watch.written)}: the model changes its weight while it runs, expected weights that stay"
        )
    if needed and not seen - watch.found:
        raise InputError(
            f"linear {next(iter(linears))}: never called while the calibration text ran, nor was any other, expected "
            "linears that the model calls"
        )
    if reasons is not None:
        reasons.update(dict.fromkeys(watch.found, "its weight is read directly"))
    called = {kind(name, linears[name]) for name in (*seen, *pooled)}
    never = {name for name in linears if kind(name, linears[name]) not in called}
    if reasons is not None:
        reasons.update(dict.fromkeys(never - watch.found, "never called while the calibration text ran"))
    for name in linears:
        if name in pooled:
            readers.setdefault(pooled[name], []).append(name)
        elif name not in seen:
            readers[f"only {name}"] = [name]
    return _grouped(linears, readers, watch.found | never)


def _grouped(linears: Mapping[str, nn.Linear], readers: Mapping[Any, list[str]], without: set[str]) -> list[Site]:
    """A site for each group of readers, in the order of the model; one linear is in its first group only."""
    order = {name: index for index, name in enumerate(linears)}
    sites = []
    placed = set(without)
    for names in readers.values():
        names.sort(key=order.__getitem__)  # named after the first in the model, in whatever order they are called
    for key, every in sorted(readers.items(), key=lambda item: order[item[1][0]]):
        names = [name for name in every if name not in placed]  # one that is called several times keeps its first site
        if names:
            placed.update(names)
            watched = tuple(names) if isinstance(key, str) else (names[0],)
            sites.append(Site(names[0], linears[names[0]].in_features, tuple(names), watched))
    return sites


class _WeightReads(TorchFunctionMode):
    """Notices which linears' weights are read by anything but the linear itself; `inside` are those being called."""

    def __init__(self, linears: Mapping[str, nn.Linear], inside: Sequence[str]):
        super().__init__()
        self._names: dict[int, set[str]] = {}
        for name, linear in linears.items():
            self._names.setdefault(id(linear.weight), set()).add(name)
        self._inside = inside
        self.found: set[str] = set()
        self.written: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _says_no_values(func):
            for value in (*args, *kwargs.values()):
                names = self._names.get(id(value))
                if names is not None and not names.intersection(self._inside):
                    self.found |= names
            written = self._names.get(id(args[0]), set()) if args else set()
            if getattr(func, "__name__", "").endswith("_") and not getattr(func, "__name__", "").endswith("__"):
                self.written |= written
        return func(*args, **kwargs)


_FACTS = frozenset(
    {
        "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "untyped_storage", "data_ptr",
        "is_floating_point", "is_complex", "is_contiguous", "is_inference", "element_size", "get_device", "type",
        "requires_grad_", "register_hook", "__hash__", "__len__",
    }
)  # fmt: skip
_VALUES = frozenset({"data", "T", "mT", "H", "mH", "real", "imag"})


def _says_no_values(func: Any) -> bool:
    """Whether a function of torch tells about a tensor, such as its dtype, and not what is in it."""
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):
        return getattr(getattr(func, "__self__", None), "__name__", "") not in _VALUES
    return name in _FACTS


def kind(name: str, linear: nn.Linear) -> str:
    """Name without numbers, and shape: the same for linears that do the same in other layers or for other experts."""
    return f"{re.sub(r'[0-9]+', '*', name)} {linear.out_features}x{linear.in_features}"


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
