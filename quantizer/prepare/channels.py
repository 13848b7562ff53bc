"""Channels in another order: delicate ones side by side, so that they share blocks (docs/quantize.md, "Permutation").

The order of channels inside a model is nobody's business, as long as all that writes and reads them agrees. `Channels`
finds where that is so (`axes`), puts channels in order in place, and can put them back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...formats import BLOCK_SIZE
from .axes import Atom, Axis, AxisTrace, whole
from .linears import LinearExperts
from .pages import Page, in_memory, page_of, written
from .sites import Site

__all__ = ["Channels", "Factors", "Group", "changed_by", "find_groups"]


_ROUNDINGS = {torch.float32: 64, torch.float64: 64, torch.bfloat16: 3}
"""Units in the last place by which answers may differ, as a mean: sums come in another order. Of others, 8."""


@dataclass(frozen=True)
class Group:
    """Channels that move together.

    Attributes:
        size: how many.
        outer: sizes of the axes along which the order may differ, such as heads.
        linears: by name, how a linear's input channels are made of them.
        parameters: a parameter, one of its axes, and how that is made of them.
    """

    size: int
    outer: tuple[int, ...]
    linears: "dict[str, Factors]"
    parameters: "list[tuple[nn.Parameter, int, Factors]]"


@dataclass(frozen=True)
class Factors:
    """An axis in factors of sizes `shape`; `places` are those of a group's outer axes and, last, of its channels."""

    shape: tuple[int, ...]
    places: tuple[int, ...]


def find_groups(
    model: nn.Module, sites: Sequence[Site], linears: Mapping[str, nn.Linear], run: Callable[[], Any]
) -> tuple[list[Group], dict[str, str]]:
    """Call `run`, which calls `model`, and return the groups whose order is free, and why other sites have none.

    Groups are tied by what one run does; experts without a token are called too. Whoever moves channels should see
    that the model's answers stay (`changed_by`).
    """
    trace = AxisTrace(model)
    handle = model.register_forward_hook(lambda _, __, output: trace.pin_outputs(output))
    experts = [m for m in model.modules() if isinstance(m, LinearExperts)]
    try:
        for module in experts:
            module.call_all = True
        with torch.no_grad(), trace:
            run()
    finally:
        handle.remove()
        for module in experts:
            module.call_all = False
    if not trace.answered:
        return [], {site.name: "the model was not called, or its answer holds no tensor" for site in sites}
    unseen = [name for name, p in model.named_parameters() if id(p) not in trace.seen]
    if unseen:
        return [], {site.name: f"{unseen[0]} was not used, expected all parameters in use" for site in sites}
    refused: dict[str, str] = {}
    found: dict[int, tuple[Atom, list[str]]] = {}
    for site in sites:
        # Experts share a site, but each has channels of its own.
        for readers in [(name,) for name in site.linears] if len(site.watched) > 1 else [site.linears]:
            atoms = [_atoms(trace.parameters[id(linears[name].weight)][1])[-1:] for name in readers]
            reason = _refusal(atoms)
            if reason is None:
                found.setdefault(id(atoms[0][0]), (atoms[0][0], []))[1].extend(readers)
            else:
                refused[site.name] = reason
    groups = []
    for atom, names in found.values():
        group = _group(model, trace, linears, atom, names)
        if group is None:
            refused |= {s.name: "its channels stand twice in one axis" for s in sites if {*s.linears} & {*names}}
        else:
            groups.append(group)
    return groups, refused


def _refusal(atoms: Sequence[list[Atom]]) -> str | None:
    """Why channels, the innermost atoms of some readers, cannot be ordered."""
    if not all(atoms) or any(atom[0] is not atoms[0][0] for atom in atoms):
        return "its readers do not share their channels"
    if atoms[0][0].pinned:
        return "something else depends on the order of its channels"
    if atoms[0][0].size < 2 * BLOCK_SIZE:
        return f"{atoms[0][0].size} channels that may move, expected at least {2 * BLOCK_SIZE}"
    return None


def _group(
    model: nn.Module, trace: AxisTrace, linears: Mapping[str, nn.Linear], atom: Atom, readers: Sequence[str]
) -> Group | None:
    holders = [
        (parameter, i, atoms)
        for parameter in model.parameters()
        for i, atoms in enumerate(map(_atoms, trace.parameters[id(parameter)]))
        if atom in atoms
    ]
    if any(atoms.count(atom) > 1 for _, _, atoms in holders):
        return None
    # Along an axis that no tensor with these channels lacks, and that nothing mixes, each may have its own order.
    tensors = [[a for axis in axes for a in _atoms(axis)] for axes in trace.tensors]
    companions = [roots for roots in (*tensors, *(atoms for _, _, atoms in holders)) if atom in roots]
    outer = [
        a
        for a in holders[0][2]
        if a is not atom and all(roots.count(a) == roots.count(atom) == 1 for roots in companions)
    ]

    def factors(atoms: list[Atom]) -> Factors:
        return Factors(tuple(a.size for a in atoms), tuple(atoms.index(a) for a in (*outer, atom)))

    by_reader = {name: factors(_atoms(trace.parameters[id(linears[name].weight)][1])) for name in readers}
    parameters = [(parameter, i, factors(atoms)) for parameter, i, atoms in holders]
    return Group(atom.size, tuple(a.size for a in outer), by_reader, parameters)


def _atoms(axis: Axis) -> list[Atom]:
    return [atom.find() for atom in whole(axis)]


class Channels:
    """The order of a model's channels: as it came, or, once it is known, with the most delicate ones first."""

    def __init__(self) -> None:
        self.permuted = False
        self.known = False
        self._moves: list[tuple[nn.Parameter, int, Tensor]] = []

    def order(self, groups: Sequence[Group], keys: Mapping[str, Tensor]) -> None:
        """`keys`, float (K,) by linear, say how delicate a channel is; a group goes by their sum over its linears."""
        self.known = True
        self._moves = []
        for group in groups:
            total = torch.zeros((*group.outer, group.size), dtype=torch.float64)
            for name, (shape, places) in ((name, astuple(factors)) for name, factors in group.linears.items()):
                key = keys[name].double().cpu().reshape(shape)
                rest = [i for i in range(len(shape)) if i not in places]
                key = key.sum(rest) if rest else key
                kept = sorted(places)
                total += key.permute([kept.index(place) for place in places])
            order = torch.sort(total, dim=-1, descending=True, stable=True).indices
            self._moves += [(parameter, i, _index(order, factors)) for parameter, i, factors in group.parameters]
        # Axes of one parameter move apart from each other; parameters of one block should follow each other.
        self._moves.sort(key=lambda move: _number(page_of(move[0])))

    def set(self, permuted: bool) -> None:
        """Put the channels in order, or back as they came."""
        if permuted == self.permuted:
            return
        for parameter, axis, index in self._moves:
            order = index if permuted else torch.argsort(index)
            # In place: experts share memory with the parameters that they came from.
            values = in_memory(parameter).data
            values.copy_(values.index_select(axis, order.to(values.device)))
            written(parameter)
        self.permuted = permuted


def _number(page: Page | None) -> int:
    return -1 if page is None else page.pages.pages.index(page)


def _index(order: Tensor, factors: Factors) -> Tensor:
    """int64: where each channel of an axis comes from, by the `order` (outer..., size) of a group."""
    shape, places = factors.shape, factors.places
    grid = list(torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij"))
    grid[places[-1]] = order[tuple(grid[place] for place in places)]
    strides = np.cumprod([1, *reversed(shape[1:])])[::-1].copy()
    return sum(g * int(s) for g, s in zip(grid, strides, strict=True)).flatten()


def changed_by(model: nn.Module, channels: Channels, runs: Sequence[Callable[[], Any]]) -> float | None:
    """Put the channels in order; None if the model's answers in `runs` stay what they were but for rounding.

    Otherwise by how much they change, in proportion, and all is as it was. What `runs` return counts too.
    """
    before = [_answers(model, run) for run in runs]
    channels.set(True)
    for run, answers in zip(runs, before, strict=True):
        for own, other in zip(answers, _answers(model, run), strict=True):
            apart = float((own.double() - other.double()).norm() / own.double().norm().clamp(min=1e-300))
            if not apart <= _ROUNDINGS.get(own.dtype, 8) * torch.finfo(own.dtype).eps:
                channels.set(False)
                return apart
    return None


def _answers(model: nn.Module, run: Callable[[], Any]) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        found.extend(x.clone() for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point())

    handle = model.register_forward_hook(keep)
    try:
        with torch.no_grad():
            result = run()
    finally:
        handle.remove()
    return [*found, *([result] if isinstance(result, Tensor) else [])]
