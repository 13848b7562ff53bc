"""docs/proofs.md from what is proven: `python -m fgmp.formal.page` writes it."""

from pathlib import Path

from .properties import NOT_PROVEN, PROPERTIES, Property

__all__ = ["markdown"]

_HEAD = """\
# What is proven

`fgmp prove` proves what stands here for **all** inputs, with yosys and the SMT solver yices, both from pip
(`pip install 'fgmp[formal]'`). `make prove` proves everything. Simulation compares the hardware with the golden model;
proofs compare it with the formats' definitions, written once more as tables and comparisons with exact boundaries.

yosys flattens a unit and opens its registers, so that it is a pure function of inputs and register values
(`fgmp.formal.netlist`). A claim is split into cases, and yices shows of each that its contrary cannot be. Claims about
handshakes start from any values that registers can hold, so they hold forever. Each property also has a planted fault,
which must falsify it: `fgmp prove` says in which case it did.

| property | what holds, for all inputs | fault that falsifies it |
|---|---|---|
"""

_TAIL = """
## What is not proven

| what | what stands in for it |
|---|---|
"""


def markdown() -> str:
    """The page."""
    rows = [f"| `{item.name}` | {item.claim} | {_fault(item)} |" for item in PROPERTIES]
    missing = [f"| {what} | {instead} |" for what, instead in NOT_PROVEN]
    return "\n".join([_HEAD + "\n".join(rows), _TAIL + "\n".join(missing), ""])


def _fault(item: Property) -> str:
    if isinstance(item.fault, str):
        return item.fault
    before, after = (text.replace("\\", "").replace("|", "\\|") for text in item.fault)
    return f"`{before}` becomes `{after}`"


if __name__ == "__main__":
    (Path(__file__).parent.parent / "docs" / "proofs.md").write_text(markdown())
