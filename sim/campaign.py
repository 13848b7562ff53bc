"""A campaign: what a bench drives into a unit and what must come out, prepared ahead of the simulation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError

__all__ = ["Campaign", "Group", "check_names", "named", "read_campaign", "write_campaign"]


@dataclass(frozen=True)
class Group:
    """Consecutive inputs under the same register values; the unit is drained and its flags are checked after each.

    `flags` are the expected values of the sticky flags at its end.
    """

    registers: Mapping[str, int]
    inputs: int
    results: int
    flags: Mapping[str, int]


@dataclass(frozen=True)
class Campaign:
    """Inputs and expected results of one unit.

    Attributes:
        name: what is tested, for the summary.
        inputs: uint8 (n, bytes), payloads of stream `i`.
        results: uint8 (m, bytes), expected payloads of stream `o`.
        groups: cover inputs and results in order.
        stalls: probability that the source pauses, and that the sink does, in a cycle.
        seed: of the stalls.
    """

    name: str
    inputs: np.ndarray
    results: np.ndarray
    groups: Sequence[Group]
    stalls: tuple[float, float] = (0.0, 0.0)
    seed: int = 0

    def __post_init__(self) -> None:
        assert sum(g.inputs for g in self.groups) == len(self.inputs)
        assert sum(g.results for g in self.groups) == len(self.results)


def named(campaigns: Sequence[Campaign], *names: str) -> list[Campaign]:
    """The campaigns of these names, in this order. Raises InputError, listing those there are, for any other name."""
    known = {campaign.name: campaign for campaign in campaigns}
    check_names(names, list(known))
    return [known[name] for name in names]


def check_names(names: Sequence[str], known: Sequence[str], kind: str = "campaign") -> None:
    """Raise InputError for a name of this kind that there is not; names have commas in them, so each is in quotes."""
    for name in names:
        if name not in known:
            raise InputError(f"{kind}: {name!r}, expected one of {', '.join(map(repr, known))}")


def write_campaign(campaign: Campaign, folder: Path) -> None:
    """Write a campaign to `folder` as arrays and JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "inputs.npy", campaign.inputs)
    np.save(folder / "results.npy", campaign.results)
    rest = {
        "name": campaign.name,
        "groups": [asdict(g) for g in campaign.groups],
        "stalls": campaign.stalls,
        "seed": campaign.seed,
    }
    (folder / "campaign.json").write_text(json.dumps(rest))


def read_campaign(folder: Path) -> Campaign:
    """The inverse of `write_campaign`."""
    rest = json.loads((folder / "campaign.json").read_text())
    return Campaign(
        rest["name"],
        np.load(folder / "inputs.npy"),
        np.load(folder / "results.npy"),
        [Group(**g) for g in rest["groups"]],
        tuple(rest["stalls"]),
        rest["seed"],
    )
