"""Prints the least versions that pyproject.toml admits for the extra `all`, as constraints for pip; torch as tested."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def least(extra: str, extras: dict[str, list[str]]) -> dict[str, str]:
    """The lower bound of every package that an extra asks for, through other extras too."""
    found: dict[str, str] = {}
    for text in extras[extra]:
        requirement = Requirement(text)
        if requirement.name == "fgmp":
            for other in requirement.extras:
                found |= least(other, extras)
        else:
            found[requirement.name] = next(s.version for s in requirement.specifier if s.operator == ">=")
    return found


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = least("all", project["optional-dependencies"])
    # Another spelling than that of constraints.txt may bring gigabytes of a GPU's libraries.
    del bounds["torch"]
    print("\n".join(f"{name}=={version}" for name, version in sorted(bounds.items())))
    print((ROOT / "constraints.txt").read_text(), end="")
