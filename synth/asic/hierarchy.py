"""Area by hierarchy, from a flat netlist: the names of its registers and ports are the tree.

A register belongs where its name says, word by word (numbers apart, so that instances and bits are counted together).
Other cells belong where what they drive does; a cell that drives several places belongs to what these have in common.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .netlist import Instance, Netlist
from .timing import levels

__all__ = ["SHARED", "Part", "area_by_hierarchy"]

SHARED = "(shared)"

_Path = tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A place in the tree and all that lies below it; `depth` counts the listed parts above it."""

    name: str
    depth: int
    area: float
    sequential: float


def area_by_hierarchy(netlist: Netlist, least: float = 0.01) -> list[Part]:
    """The parts with at least the share `least` of the whole area, in um^2, each followed by those inside it.

    Last comes `SHARED`: what drives places that have no word of their names in common.
    Raises InputError for combinational loops.
    """
    root = _Node()
    owners: dict[int, _Path] = {}

    def place(instance: Instance, path: _Path) -> None:
        root.add(path, instance.cell.area, instance.cell.flip_flop is not None)
        for pin in instance.cell.inputs:
            if pin in instance.nets:
                _meet(owners, instance.nets[pin], path)

    for name in netlist.outputs:
        for net in netlist.ports[name]:
            _meet(owners, net, _words(name))
    for name, nets in netlist.black_inputs.items():
        for net in nets:
            _meet(owners, net, _words(name)[:-1])
    for instance in netlist.flip_flops():
        place(instance, _words(netlist.names.get(_outputs(instance)[0], "")))
    level = levels(netlist)
    others = [i for i in netlist.instances if i.cell.flip_flop is None]
    # Clock gates drive registers only; among the rest, what is read comes after what reads it.
    others.sort(key=lambda i: (i.cell.clock_gate is None, -max((level[net] for net in _outputs(i)), default=0)))
    for instance in others:
        read = [owners[net] for net in _outputs(instance) if net in owners]
        place(instance, _common(read))
    parts = list(root.parts(least * root.area))
    own = [root.area - sum(n.area for n in root.below.values()), root.sequential]
    own[1] -= sum(n.sequential for n in root.below.values())
    return [*parts, Part(SHARED, 0, *own)] if own[0] > least * root.area else parts


class _Node:
    """A word of the names, and the areas below it."""

    def __init__(self) -> None:
        self.area = self.sequential = 0.0
        self.below: dict[str, _Node] = {}

    def add(self, path: _Path, area: float, sequential: bool) -> None:
        self.area += area
        self.sequential += area if sequential else 0
        if path:
            self.below.setdefault(path[0], _Node()).add(path[1:], area, sequential)

    def parts(self, least: float, name: str = "", depth: int = 0) -> Iterator[Part]:
        large = {word: node for word, node in self.below.items() if node.area >= least}
        shown = bool(name) and not (len(large) == 1 and self.area - sum(n.area for n in large.values()) < least)
        if shown:
            yield Part(name, depth, self.area, self.sequential)
        for word, node in sorted(large.items(), key=lambda item: -item[1].area):
            yield from node.parts(least, f"{name}_{word}" if name else word, depth + shown)


def _outputs(instance: Instance) -> list[int]:
    pins = instance.cell.outputs
    if instance.cell.clock_gate is not None:
        pins = (*pins, instance.cell.clock_gate.output)
    return [instance.nets[pin] for pin in pins if pin in instance.nets]


def _words(name: str) -> _Path:
    plain = re.sub(r"\[\d+\]$", "", name)
    return tuple(word for word in re.split(r"[_.]+", plain) if word and not word.isdigit())


def _meet(owners: dict[int, _Path], net: int, path: _Path) -> None:
    owners[net] = _common([owners[net], path]) if net in owners else path


def _common(paths: list[_Path]) -> _Path:
    if not paths:
        return ()
    length = 0
    for words in zip(*paths, strict=False):
        if len(set(words)) > 1:
            break
        length += 1
    return paths[0][:length]
