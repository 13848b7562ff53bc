"""Makes the Verilog that yosys writes readable: expressions instead of temporaries, `if` instead of muxes at registers.

Yosys gives the result of every operator a name. A name that a person gave stays; one that was generated becomes part of
the expression that reads it, if there is but one, or the value is short. All operands have their full width by then
(`emit`), so that an expression means the same wherever it stands.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from .verilog_text import NAME, VerilogModule

__all__ = ["readable"]

_GENERATED = re.compile(r"_\d+_")
_MUX = re.compile(r"([^?:]+?) \? ([^?]+) : ([^?]+)")
_LONGEST = 160
"""Characters of an expression, beyond which a part of it keeps a name."""

_REPEATED = 4
"""So many of the same in a concatenation are written as a replication."""

_SHORT, _OFTEN = 40, 3
"""Characters of an expression that is written out so many times rather than named."""


def readable(module: VerilogModule, ports: Sequence[str] = ()) -> str:
    """The text of a module; `ports` is the order of those that it lists."""
    expand = _Expander(module)
    rank = {name: index for index, name in enumerate(ports)}
    heads = []
    for port in sorted(module.ports, key=lambda name: rank.get(name, len(rank))):
        shape = module.shapes[port].removeprefix("wire").strip()
        heads.append("  " + " ".join(filter(None, (module.ports[port], shape, port))))
    body = [
        f"  {shape} {name};"
        for name, shape in module.shapes.items()
        if name not in module.ports and name not in expand.inlined
    ]
    kept = ((target, value) for target, value in module.assigns if target not in expand.inlined)
    body += [f"  assign {target} = {expand(value)};" for target, value in kept]
    for edge in dict.fromkeys(edge for edge, _, _ in module.registers):
        updates = [_updates(expand, target, value) for at, target, value in module.registers if at == edge]
        body += [f"  always @({edge}) begin", *_lines(_together(updates), "    "), "  end"]
    for cell in module.cells:
        connections = [f"    .{port}({expand(value)})" for port, value in cell.ports.items()]
        body += [f"{cell.head} {cell.name} (", ",\n".join(connections), "  );"]
    return "\n".join([f"module {module.name} (", ",\n".join(heads), ");", *body, "endmodule", ""])


class _Expander:
    """Replaces names in an expression by what they stand for, where that is not worth a name."""

    def __init__(self, module: VerilogModule):
        self.values = {target: value for target, value in module.assigns if _GENERATED.fullmatch(target)}
        reads = list(module.reads({}))
        uses = Counter(name for text in reads for name in NAME.findall(text))
        sliced = {name for text in reads for name in re.findall(r"(\w+)\[", text)}
        self.inlined = {
            name
            for name, value in self.values.items()
            # An arithmetic shift depends on the sign of what stands around it.
            if name not in sliced and ">>>" not in value and (uses[name] == 1 or _short(value, uses[name]))
        }
        self._lengths: dict[str, int] = {}
        chosen = self._chosen(value for _, _, value in module.registers)
        for name in self.values:
            if name in self.inlined - chosen and self._length(name) > _LONGEST:
                self.inlined.discard(name)
                self._lengths[name] = len(name)

    def _chosen(self, values: Iterable[str]) -> set[str]:
        """Names between a register and what muxes choose for it: they become statements, however long."""
        found: set[str] = set()
        waiting = list(values)
        while waiting:
            value = waiting.pop()
            if value in self.inlined:
                found.add(value)
                mux = _MUX.fullmatch(self.values[value])
                waiting += [self.values[value]] if mux is None else [mux[2], mux[3]]
        return found

    def _length(self, name: str) -> int:
        if name not in self._lengths:
            parts = [part for part in NAME.findall(self.values[name]) if part in self.inlined]
            self._lengths[name] = len(self.values[name]) + sum(map(self._length, parts))
        return self._lengths[name]

    def __call__(self, text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[0] not in self.inlined:
                return match[0]
            value = self(self.values[match[0]])
            return value if re.fullmatch(r"\{[^{}]*\}|\d+'\w+|\w+(\[[\d:]+\])?", value) else f"({value})"

        return _replicated(NAME.sub(replace, text))


def _replicated(text: str) -> str:
    """`{a, a, a}` as `{3{a}}`, also inside of a longer concatenation."""

    def collapse(match: re.Match[str]) -> str:
        parts: list[str] = []
        for item, run in groupby(match[1].split(", ")):
            count = len(list(run))
            parts += [item] * count if count < _REPEATED else [f"{{{count}{{{item}}}}}"]
        return parts[0] if len(parts) == 1 else f"{{ {', '.join(parts)} }}"

    return re.sub(r"\{ ([\w\[\]:' ]+(?:, [\w\[\]:' ]+)+) \}", collapse, text)


def _short(value: str, uses: int) -> bool:
    """Worth no name of its own: a name or a slice, inverted or not; and what joins two, where it is not read often."""
    operand = r"(~ )?\w+(\[[\d:]+\])?"
    if re.fullmatch(operand, value):
        return True
    return (
        uses <= _OFTEN
        and len(value) <= _SHORT
        and re.fullmatch(rf"{operand} [&|^=<>!+-]+ {operand}", value) is not None
    )


@dataclass
class _Choice:
    """`if (test) then else other`; assignments are text."""

    test: str
    then: "list[str | _Choice]"
    other: "list[str | _Choice]"


def _updates(expand: _Expander, target: str, value: str) -> list[str | _Choice]:
    """`target <= value` with muxes as choices; nothing where a register keeps what it has."""
    while value in expand.inlined:
        value = expand.values[value]
    if value == target:
        return []
    mux = _MUX.fullmatch(value)
    if mux is None:
        return [f"{target} <= {expand(value)};"]
    then, other = (_updates(expand, target, mux[arm]) for arm in (2, 3))
    test = expand(mux[1])
    if then:
        return [_Choice(test, then, other)]
    plain = test if re.fullmatch(r"\w+", test) or _enclosed(test) else f"({test})"
    return [_Choice(f"!{plain}", other, [])]


def _together(updates: Sequence[list[str | _Choice]]) -> list[str | _Choice]:
    """Registers with one reset are reset in one place."""
    reset = _Choice("rst", [], [])
    rest: list[str | _Choice] = []
    for update in updates:
        first = update[0] if update else ""
        if isinstance(first, _Choice) and first.test == "rst":
            reset.then += first.then
            reset.other += first.other
        else:
            rest += update
    if not reset.then:
        return _merged(rest)
    return [_Choice(reset.test, reset.then, _merged(reset.other)), *_merged(rest)]


def _merged(statements: Sequence[str | _Choice]) -> list[str | _Choice]:
    """Neighbours that make the same choice make it together."""
    merged: list[str | _Choice] = []
    for statement in statements:
        last = merged[-1] if merged else ""
        if isinstance(statement, _Choice) and isinstance(last, _Choice) and statement.test == last.test:
            merged[-1] = _Choice(last.test, [*last.then, *statement.then], [*last.other, *statement.other])
        else:
            merged.append(statement)
    return [
        _Choice(item.test, _merged(item.then), _merged(item.other)) if isinstance(item, _Choice) else item
        for item in merged
    ]


def _lines(statements: Sequence[str | _Choice], space: str, head: str | None = None) -> Iterator[str]:
    for statement in statements:
        if isinstance(statement, str):
            yield space + statement
            continue
        test = statement.test if _enclosed(statement.test) else f"({statement.test})"
        yield f"{space if head is None else head}if {test} begin"
        yield from _lines(statement.then, f"{space}  ")
        other = statement.other
        if len(other) == 1 and isinstance(other[0], _Choice):
            yield from _lines(other, space, f"{space}end else ")
            continue
        if other:
            yield f"{space}end else begin"
            yield from _lines(other, f"{space}  ")
        yield f"{space}end"


def _enclosed(text: str) -> bool:
    """Whether one pair of parentheses encloses all of a text."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text.startswith("(") and index == len(text) - 1
    return False
