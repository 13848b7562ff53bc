"""Documents that state figures: what stands between marks is written from the figures, and nothing else is.

A figure: `<!--=NAME-->20.7 %<!--/-->`. A table: `<!--=table NAME-->`, the table, `<!--/-->`, each on lines of its own.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .catalogue import CLAIMS, RUNS

__all__ = ["claims_rows", "filled", "markdown", "runs_rows", "unmarked"]

_MARKED = re.compile(r"<!--=(table )?([\w-]+)-->(.*?)<!--/-->", re.DOTALL)
_FIGURE = re.compile(
    r"(?<![\w.,])[+-]?\d[\d,]*(?:\.\d+)? ?(?:%|times|MHz|GHz|pJ|fJ|GB/s|tokens/s|cycles/s|um²|"
    r"seconds?\b|minutes?\b|hours?\b)"
)


def filled(text: str, figures: Mapping[str, Any]) -> str:
    """`text` with every marked figure and table as `figures` has it. Raises KeyError for a name that it has not."""

    def fill(match: re.Match[str]) -> str:
        table, name, _ = match.groups()
        if not table:
            return f"<!--={name}-->{figures['figures'][name]}<!--/-->"
        made = {"claims": claims_rows, "runs": runs_rows}.get(name)
        rows = made(figures) if made else figures["tables"][name]
        return f"<!--=table {name}-->\n{markdown(rows)}\n<!--/-->"

    return _MARKED.sub(fill, text)


def unmarked(text: str) -> list[str]:
    """Figures with a unit of measure that stand outside of marks and code."""
    bare = _MARKED.sub("", text)
    bare = re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", "", bare, flags=re.DOTALL)
    return [match[0] for match in _FIGURE.finditer(bare)]


def claims_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """The table of claims: what, the paper's figure, ours, and the command behind it."""
    rows = [["", "the paper, Llama-2-7B", "here", "measured by"]]
    for claim in CLAIMS:
        if claim.text:
            command = " ".join(RUNS[claim.run].commands[-1].split()[:3])
            command = re.sub(r" (-\S+|\{.*)$", "", command)
            rows.append([claim.text, claim.paper, figures["figures"][claim.name], f"`{command}`"])
    return rows


def runs_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """The commands of each run, and where and with what it was measured last."""
    rows = [["run", "commands", "measured with"]]
    for name, run in figures["runs"].items():
        commands = "<br>".join(f"`{command}`" for command in run["commands"])
        rows.append([name, commands, f"fgmp {run['fgmp']}, Python {run['python']}, {run['machine']}"])
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, the head first."""
    head, *rest = rows
    lines = ("|".join(f" {cell} " if cell else " " for cell in row) for row in [head, ["---"] * len(head), *rest])
    return "\n".join(f"|{line}|" for line in lines)
