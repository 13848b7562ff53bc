"""The Verilog that yosys writes, taken apart: plain names, and neither ports nor logic that nothing looks at."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .names import KEYWORDS

__all__ = ["NAME", "Cell", "VerilogModule", "parse_modules", "prune"]

NAME = re.compile(r"(?<![\w'.])[A-Za-z_]\w*")


@dataclass
class Cell:
    """An instance: `head` is its module with the parameters' text, `ports` its connections."""

    module: str
    head: str
    name: str
    ports: dict[str, str]


@dataclass
class VerilogModule:
    """A module as yosys writes it.

    Attributes:
        ports: "input" or "output" by name.
        shapes: "wire [3:0]", "reg" by name, those of ports included.
        assigns: (target, value).
        registers: (clock edge, target, next value).
        cells: instances.
    """

    name: str
    ports: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, str] = field(default_factory=dict)
    assigns: list[tuple[str, str]] = field(default_factory=list)
    registers: list[tuple[str, str, str]] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    def reads(self, inputs: Mapping[str, Sequence[str]]) -> Iterator[str]:
        """Every expression that is looked at; `inputs` are those of the modules that its cells are instances of."""
        yield from (value for _, value in self.assigns)
        for edge, _, value in self.registers:
            yield edge
            yield value
        for cell in self.cells:
            for port, value in cell.ports.items():
                if cell.module not in inputs or port in inputs[cell.module]:
                    yield value


def parse_modules(text: str) -> dict[str, VerilogModule]:
    """The modules of a file, by name."""
    plain = _plain_names(re.sub(r"^/\*.*\*/\n", "", text, flags=re.MULTILINE))
    modules = (_parse(part) for part in re.findall(r"^module .*?^endmodule\n", plain, re.MULTILINE | re.DOTALL))
    return {module.name: module for module in modules}


def prune(modules: Mapping[str, VerilogModule], top: str) -> None:
    """Take away, from all but `top`, inputs and outputs that nothing looks at, and what only they needed."""
    changed = True
    while changed:
        changed = False
        inputs = {n: [p for p, kind in m.ports.items() if kind == "input"] for n, m in modules.items()}
        for name, module in modules.items():
            _drop_unread(module, inputs)
            read = {used for value in module.reads(inputs) for used in NAME.findall(value)}
            if name == top:
                continue
            users = [(parent, c) for parent in modules.values() for c in parent.cells if c.module == name]
            for port, kind in list(module.ports.items()):
                if kind == "input" and port in read:
                    continue
                if kind == "output" and any(_looked_at(parent, cell, port, inputs) for parent, cell in users):
                    continue
                changed = True
                del module.ports[port]
                if kind == "input":
                    del module.shapes[port]
                for _, cell in users:
                    cell.ports.pop(port, None)


def _looked_at(parent: VerilogModule, cell: Cell, port: str, inputs: Mapping[str, Sequence[str]]) -> bool:
    """Whether `parent` does anything with an output of a cell."""
    names = set(NAME.findall(cell.ports.get(port, "")))
    read = {used for value in parent.reads(inputs) for used in NAME.findall(value)}
    return bool(names & (read | {p for p, kind in parent.ports.items() if kind == "output"}))


def _drop_unread(module: VerilogModule, inputs: Mapping[str, Sequence[str]]) -> None:
    """Wires and registers that nothing looks at."""
    while True:
        read = {used for value in module.reads(inputs) for used in NAME.findall(value)}
        read |= {port for port, kind in module.ports.items() if kind == "output"}

        def wanted(target: str, read: set[str] = read) -> bool:
            return bool(read & set(NAME.findall(target)))

        before = len(module.assigns) + len(module.registers)
        module.assigns = [(target, value) for target, value in module.assigns if wanted(target)]
        # A register reads itself.
        module.registers = [(edge, target, value) for edge, target, value in module.registers if wanted(target)]
        if len(module.assigns) + len(module.registers) == before:
            break
    driven = {used for target, _ in module.assigns for used in NAME.findall(target)}
    driven |= {used for _, target, _ in module.registers for used in NAME.findall(target)}
    driven |= {used for cell in module.cells for value in cell.ports.values() for used in NAME.findall(value)}
    module.shapes = {n: s for n, s in module.shapes.items() if n in module.ports or n in driven or n in read}


def _plain_names(text: str) -> str:
    """Replace escaped identifiers by plain ones that collide with nothing; generated names become `_1_`, `_2_`, ..."""
    taken = set(re.findall(r"(?<![\\\w.$\[\]])[A-Za-z_]\w*", text))
    plain: dict[str, str] = {}
    generated = 0

    def rename(match: re.Match[str]) -> str:
        nonlocal generated
        old = match[1]
        if old not in plain:
            if "$" in old and not re.fullmatch(r"[A-Za-z_.]\w*\$\d+", old):
                generated += 1
                plain[old] = f"_{generated}_"
            else:
                new = re.sub(r"\W+", "_", old).strip("_")
                while new in taken or new in KEYWORDS:
                    new += "_"
                taken.add(new)
                plain[old] = new
        return plain[old]

    return re.sub(r"\\(\S+) ?", rename, text)


def _parse(text: str) -> VerilogModule:
    head, body = text.split(");\n", maxsplit=1)
    module = VerilogModule(head.split("(")[0].split()[1])
    lines = iter(body.splitlines())
    for line in lines:
        if match := re.fullmatch(r"  (input|output|wire|reg) ((?:signed )?(?:\[\d+:\d+\] )?)(\w+) ?;", line):
            kind, shape, name = match.groups()
            if kind in ("input", "output"):
                module.ports[name] = kind
            else:
                module.shapes[name] = f"{kind} {shape}".strip()
        elif match := re.fullmatch(r"  assign (.*?) += (.*);", line):
            module.assigns.append((match[1], match[2]))
        elif match := re.fullmatch(r"  always @\((.*)\)", line):
            assignment = re.fullmatch(r"    (.*?) <= (.*);", next(lines))
            assert assignment, line
            module.registers.append((match[1], assignment[1], assignment[2]))
        elif line.endswith("("):
            parts = [line]
            while parts[-1] != "  );":
                parts.append(next(lines))
            module.cells.append(_cell(parts))
        else:
            assert line in ("", "endmodule"), line
    return module


def _cell(lines: Sequence[str]) -> Cell:
    """Parameters, if any, stand in lines of their own before the one that names the instance."""
    name_at = max(index for index, line in enumerate(lines) if re.fullmatch(r"  (\w+|\)) (\w+) \(", line))
    named = re.fullmatch(r"  (\w+|\)) (\w+) \(", lines[name_at])
    assert named
    head = "\n".join([*lines[:name_at], f"  {named[1]}"])
    ports = {}
    for line in lines[name_at + 1 : -1]:
        connection = re.fullmatch(r"    \.(\w+)\((.*)\),?", line)
        assert connection, line
        ports[connection[1]] = connection[2]
    return Cell(head.split()[0], head, named[2], ports)
