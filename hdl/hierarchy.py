"""One Verilog module per component: a design's parts are converted by themselves, and instantiated where they stand.

While a design is emitted, its `Hierarchy` is the platform that all `elaborate` methods get. Elsewhere parts become
Amaranth's own submodules, and everything else stays the same.
"""

import functools
import inspect
import re
from dataclasses import dataclass, is_dataclass
from operator import or_
from types import NoneType

from amaranth.back import rtlil
from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    EnableInserter,
    Instance,
    Module,
    ResetInserter,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.lib import wiring

from .wrappers import CLOCK_GATE_MODULE

__all__ = ["Hierarchy", "ModuleText", "add_part"]


@dataclass(frozen=True)
class ModuleText:
    """A converted component: its RTLIL, the names of its ports, and what it is, in one line."""

    rtlil: str
    ports: tuple[str, ...]
    purpose: str


class Hierarchy:
    """The modules of one design by name, parts before what instantiates them.

    `prefix` begins the names of all parts' modules; ports of interfaces are named PREFIX, `separator`, MEMBER.
    """

    def __init__(self, prefix: str, separator: str = "_"):
        self.prefix = prefix
        self.separator = separator
        self._reset = True
        self.modules: dict[str, ModuleText] = {}
        self._made: dict[str, object] = {}

    def convert(self, unit: wiring.Component, name: str, *, reset: bool = True, flat: bool = False) -> None:
        """Convert a design's top to the module `name`, all its ports included.

        Without `reset` neither it nor its parts have a port for that.

        With `flat` its parts are left to Amaranth, as modules that yosys is to flatten.
        """
        self._reset = reset
        self._add(name, unit, self._rtlil(unit, name, None if flat else self))

    def convert_part(self, part: wiring.Component, kind: str) -> tuple[str, tuple[str, ...]]:
        """Convert a part to the module PREFIX_`kind`; returns its name and ports. Parts of one kind are alike."""
        name = f"{self.prefix}_{kind}"
        made = _made_from(part)
        if name not in self.modules:
            self._made[name] = made
            self._add(name, part, self._rtlil(part, name, self))
        else:
            part._MustUse__used = True  # Amaranth warns of components that are not elaborated
        assert self._made[name] == made, f"{name}: two components that differ have this module name"
        return name, self.modules[name].ports

    def _add(self, name: str, unit: wiring.Component, text: str) -> None:
        there = set(re.findall(r"^  wire width \d+ (?:input|output) \d+ +(?:signed )?\\(\S+)$", text, re.MULTILINE))
        named = [self.separator.join(map(str, path)) for path, _, _ in unit.signature.flatten(unit)]
        ports = tuple(port for port in ("clk", "rst", *named) if port in there)
        kind = type(unit)
        purpose = (inspect.getdoc(kind) or "").split("\n\n", maxsplit=1)[0].replace("\n", " ")
        self.modules[name] = ModuleText(text, ports, f"{kind.__module__}.{kind.__qualname__}. {purpose}")

    def _rtlil(self, unit: wiring.Component, name: str, platform: object) -> str:
        domain = functools.partial(ClockDomain, reset_less=not self._reset)
        text: str = rtlil.convert(unit, name=name, platform=platform, emit_src=False, missing_domain=domain)
        if self.separator != "__":  # by which Amaranth joins them
            for path, _, _ in unit.signature.flatten(unit):
                if len(path) > 1:
                    text = _rename(text, "__".join(map(str, path)), self.separator.join(map(str, path)))
        return text


def _made_from(part: wiring.Component) -> object:
    """The class of a component and what its constructor was given, as far as it keeps that in attributes of its own."""
    plain = (bool, int, str, tuple, NoneType)
    kept = {n: v for n, v in vars(part).items() if isinstance(v, plain) or is_dataclass(v)}
    ports = [(path, member.flow, member.shape) for path, member, _ in part.signature.flatten(part)]
    return type(part), ports, kept


def _rename(text: str, old: str, new: str) -> str:
    """Call a port of a module `new`; a signal of that name gives way, the port of a part does not."""
    for name, other in ((new, f"{new}$0"), (old, new)):
        text = re.sub(rf"(?<!    connect )(?<!module )\\{name}(?!\S)", lambda _, other=other: f"\\{other}", text)  # type: ignore[misc]
    return text


def add_part(
    m: Module,
    platform: object,
    name: str,
    part: wiring.Component,
    *,
    kind: str | None = None,
    reset: Value | None = None,
    clock_enable: Value | None = None,
) -> None:
    """Add `part` to `m` as its submodule `name`, a Verilog module of its own where a `Hierarchy` is the platform.

    The module is called after `kind`, by default the name. `reset` resets the part, beside the clock domain's reset.
    While `clock_enable` is low its registers keep what they have whatever its inputs say, and its clock may be gated.
    """
    if not isinstance(platform, Hierarchy):
        inserters = [] if reset is None else [ResetInserter(reset)]
        if clock_enable is not None:
            inserters.append(EnableInserter(clock_enable if reset is None else clock_enable | reset))
        m.submodules[name] = functools.reduce(lambda inner, inserter: inserter(inner), inserters, part)
        return
    module, there = platform.convert_part(part, kind or name)
    ports: list[tuple[str, str, object]] = []
    resets = [ResetSignal() if reset is None else ResetSignal() | reset] if "rst" in there else []
    if "clk" in there:
        clock: Value = ClockSignal()
        if clock_enable is not None:
            clock = Signal(name=f"{name}_clk")
            enable = functools.reduce(or_, resets, clock_enable)
            gate = (("i", "clk", ClockSignal()), ("i", "enable", enable), ("o", "gated_clk", clock))
            m.submodules[f"{name}_clock_gate"] = Instance(CLOCK_GATE_MODULE, *gate)
        ports.append(("i", "clk", clock))
    ports += [("i", "rst", value) for value in resets]
    for path, member, value in part.signature.flatten(part):
        port = platform.separator.join(map(str, path))
        if port in there:
            ports.append(("i" if member.flow is wiring.In else "o", port, Value.cast(value)))
    m.submodules[name] = Instance(module, *ports)
