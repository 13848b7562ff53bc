"""Liberty text to a tree of groups. Only the groups that are asked for are parsed: libraries are large."""

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from ...errors import InputError

__all__ = ["Group", "Library", "parse_liberty"]

_CONTINUATION = re.compile(r"\\[ \t]*\r?\n")
_BRACE = re.compile(r'"[^"]*"|[{}]')
_TOKEN = re.compile(r'"[^"]*"|[{}();:,]|[^\s{}();:,"]+')
_LONGEST_NAME = 256
_OPERATORS = frozenset("+-*/")


@dataclass
class Group:
    """`kind (arguments) { attributes, groups }`; complex attributes `name (a, b);` are kept as lists."""

    kind: str
    arguments: tuple[str, ...]
    attributes: dict[str, str] = field(default_factory=dict)
    complex: dict[str, list[str]] = field(default_factory=dict)
    groups: list["Group"] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The first argument, or nothing."""
        return self.arguments[0] if self.arguments else ""

    def all(self, kind: str) -> Iterator["Group"]:
        """The inner groups of a kind, in order."""
        return (g for g in self.groups if g.kind == kind)

    def first(self, kind: str) -> "Group | None":
        """The first inner group of a kind."""
        return next(self.all(kind), None)

    def numbers(self, name: str) -> list[float]:
        """A complex attribute's values as numbers: `values ("1, 2", "3, 4")` gives four."""
        return [float(part) for item in self.complex.get(name, ()) for part in item.replace(",", " ").split()]


@dataclass
class Library:
    """The library group with its cells unparsed: `cells` maps each name to its text."""

    head: Group
    head_text: str
    cells: dict[str, str]
    source: str

    def cell(self, name: str) -> Group:
        """Parse one cell. Raises InputError if its text is malformed."""
        return _group(self.cells[name], f"{self.source}: cell {name}")

    def without(self, excluded: Set[str]) -> str:
        """The library's text without some cells, for tools that have no way to leave them alone."""
        bodies = [body for name, body in self.cells.items() if name not in excluded]
        return "\n".join([self.head_text, *bodies, "}\n"])


def parse_liberty(text: str, source: str) -> Library:  # noqa: PLR0912
    """Split a Liberty file into its head and its cells.

    Raises InputError, naming `source`, where the text is no Liberty library or ends early.
    """
    text = _CONTINUATION.sub(" ", _without_comments(text))
    depth = 0
    start = 0
    opened: str | None = None
    head: list[str] = []
    cells: dict[str, str] = {}
    kind = name = ""
    for match in _BRACE.finditer(text):
        token = match.group()
        if token == "{":
            if depth == 0:
                found = _header(text[: match.start()])
                if found is None or found.kind != "library":
                    raise InputError(f"{source}: expected a Liberty file that begins with library (NAME) {{")
                opened = text[found.start : match.start()]
                start = match.end()
            elif depth == 1:
                between = text[start : match.start()]
                found = _header(between)
                if found is None:
                    line = text.count("\n", 0, match.start()) + 1
                    raise InputError(f"{source}: a brace near line {line}, expected after GROUP (NAME)")
                kind, name = found.kind, found.arguments.strip().strip('"')
                head.append(between[: found.start])
                start += found.start
            depth += 1
        elif token == "}":
            depth -= 1
            if depth == 1:
                body = text[start : match.end()]
                if kind == "cell":
                    cells[name] = body
                else:
                    head.append(body)
                start = match.end()
            elif depth == 0:
                head.append(text[start : match.start()])
                break
    if opened is None:
        raise InputError(f"{source}: expected a Liberty file that begins with library (NAME) {{")
    if depth:
        last = f"inside {kind} {name}" if depth > 1 else "inside the library group"
        raise InputError(f"{source}: ends {last}, expected a whole Liberty file")
    head_text = "\n".join([f"{opened} {{", *head])
    return Library(_group(head_text + "}", source), head_text, cells, source)


class _Header(NamedTuple):
    """`kind (arguments)` before a brace, and where it begins."""

    kind: str
    arguments: str
    start: int


def _header(text: str) -> _Header | None:
    """The header at the end of `text`; looks at no more than that, however long the text is."""
    trimmed = text.rstrip()
    opening = trimmed.rfind("(")
    if not trimmed.endswith(")") or opening < 0 or ")" in trimmed[opening:-1]:
        return None
    before = trimmed[:opening].rstrip()
    start = len(before)
    while start > max(len(before) - _LONGEST_NAME, 0) and (before[start - 1].isalnum() or before[start - 1] == "_"):
        start -= 1
    kind = before[start:]
    return _Header(kind, trimmed[opening + 1 : -1], start) if kind and not kind[0].isdigit() else None


def _without_comments(text: str) -> str:
    """`text` with a blank in place of each comment; one that never ends stays."""
    parts = []
    position = 0
    while (begin := text.find("/*", position)) >= 0 and (end := text.find("*/", begin + 2)) >= 0:
        parts += [text[position:begin], " "]
        position = end + 2
    return "".join([*parts, text[position:]])


def _group(text: str, where: str) -> Group:
    tokens = _TOKEN.findall(text)
    position = 0

    def fail(expected: str) -> InputError:
        near = " ".join(tokens[max(position - 3, 0) : position + 3])
        return InputError(f"{where}: near {near!r}, expected {expected}")

    def arguments() -> tuple[str, ...]:
        nonlocal position
        found = []
        position += 1
        while position < len(tokens) and tokens[position] != ")":
            if tokens[position] not in ",;":
                found.append(tokens[position].strip('"'))
            position += 1
        if position == len(tokens):
            raise fail("a closing parenthesis")
        position += 1
        return tuple(found)

    def body(group: Group) -> Group:
        nonlocal position
        while position < len(tokens):
            word = tokens[position]
            if word == "}":
                position += 1
                return group
            if word in ";,":
                position += 1
                continue
            position += 1
            following = tokens[position] if position < len(tokens) else ""
            if following == ":":
                position += 1
                group.attributes[word] = value()
            elif following == "(":
                found = arguments()
                if position < len(tokens) and tokens[position] == "{":
                    position += 1
                    group.groups.append(body(Group(word, found)))
                else:
                    group.complex.setdefault(word, []).extend(found)
            else:
                raise fail("NAME : VALUE ; or NAME (VALUES)")
        raise fail("a closing brace")

    def value() -> str:
        """One token, or several with operators between; semicolons are often forgotten."""
        nonlocal position
        if position == len(tokens):
            raise fail("a value")
        parts = [tokens[position].strip('"')]
        position += 1
        while position < len(tokens) and (tokens[position] in _OPERATORS or parts[-1] in _OPERATORS):
            parts.append(tokens[position])
            position += 1
        return " ".join(parts)

    kind = tokens[0]
    position = 1
    found = arguments()
    if position == len(tokens) or tokens[position] != "{":
        raise fail("an opening brace")
    position += 1
    try:
        return body(Group(kind, found))
    except RecursionError:
        raise InputError(f"{where}: groups nested too deeply, expected a Liberty file") from None
