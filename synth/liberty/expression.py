"""Boolean expressions of Liberty (`function`, `when`, `next_state`) on bit-parallel words."""

import re
from collections.abc import Mapping
from functools import cache
from itertools import accumulate
from typing import Any

from ...errors import InputError

__all__ = ["compile_expression", "truth_table", "variables"]

_TOKEN = re.compile(r"[A-Za-z_][\w\[\]]*|[01!'()&*|+^]")

_DEEPEST = 40
_LONGEST = 1000
_MOST_INPUTS = 16
"""A limit that no library's cells reach, and within which Python can still read and tabulate."""


@cache
def _python(text: str) -> tuple[str, tuple[str, ...]]:
    """`text` as a Python expression of `v["NAME"]`, `zero` and `ones`, and the variables in order of appearance.

    Liberty's precedence: ! and ' bind tightest, then ^, then & * and juxtaposition, then | and +.
    """
    tokens = _TOKEN.findall(text)
    if len(tokens) > _LONGEST:
        raise InputError(f"Liberty expression: {text[:40]!r}..., expected at most {_LONGEST} operands and operators")
    if "".join(tokens) != re.sub(r"\s", "", text) or not tokens:
        raise InputError(f"Liberty expression: {text!r}, expected operands and ! ' ^ & * | + ( )")
    deepest = max(accumulate({"(": 1, ")": -1}.get(token, 0) for token in tokens))
    if deepest > _DEEPEST or max(map(len, re.findall(r"!+|'+", "".join(tokens))), default=0) > _DEEPEST:
        raise InputError(f"Liberty expression: {text[:40]!r}..., expected at most {_DEEPEST} levels of nesting")
    names: dict[str, None] = {}
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1]

    def alternatives() -> str:
        result = conjunction()
        while peek() in ("|", "+"):
            take()
            result = f"({result} | {conjunction()})"
        return result

    def conjunction() -> str:
        result = difference()
        while peek() not in ("", "|", "+", ")"):
            if peek() in ("&", "*"):
                take()
            result = f"({result} & {difference()})"
        return result

    def difference() -> str:
        result = factor()
        while peek() == "^":
            take()
            result = f"({result} ^ {factor()})"
        return result

    def factor() -> str:
        token = take() if peek() else ""
        if token == "!":
            result = f"~{factor()}"
        elif token == "(":
            result = alternatives()
            if not peek() or take() != ")":
                raise InputError(f"Liberty expression: {text!r}, expected a closing parenthesis")
        elif token in ("0", "1"):
            result = "zero" if token == "0" else "ones"
        elif token[:1].isalpha() or token[:1] == "_":
            names[token] = None
            result = f'v["{token}"]'
        else:
            raise InputError(f"Liberty expression: {text!r}, expected an operand near {token!r}")
        while peek() == "'":
            take()
            result = f"(~{result})"
        return result

    code = alternatives()
    if position != len(tokens):
        raise InputError(f"Liberty expression: {text!r}, expected its end at {peek()!r}")
    return code, tuple(names)


def variables(text: str) -> tuple[str, ...]:
    """The names in an expression."""
    return _python(text)[1]


@cache
def compile_expression(text: str) -> Any:
    """A function (values by name, zero, ones) -> value, on whatever has &, |, ^ and ~ (NumPy words, Python integers).

    Raises InputError for an expression that cannot be read.
    """
    code = _python(text)[0]
    return eval(f"lambda v, zero, ones: {code}")  # built above from tokens, nothing of the file is run


def truth_table(text: str, names: tuple[str, ...]) -> int:
    """The expression as an integer whose bit i is its value where `names[j]` is bit j of i."""
    if len(names) > _MOST_INPUTS:
        raise InputError(f"Liberty expression: {text[:40]!r}: {len(names)} inputs, expected at most {_MOST_INPUTS}")
    count = 1 << len(names)
    ones = (1 << count) - 1
    columns: Mapping[str, int] = {name: sum(1 << i for i in range(count) if i >> j & 1) for j, name in enumerate(names)}
    result: int = compile_expression(text)(columns, 0, ones) & ones
    return result
