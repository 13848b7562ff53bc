"""What calibration found: sensitivities and activation ranges (docs/numerics.md section 5)."""

import functools
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...formats import TENSOR_EXPONENT_LIMIT
from ...golden.blocks import tensor_exponent
from ..prepare.pages import in_memory, page_of
from ..prepare.sites import Site, kind
from .error_factor import error_factor
from .paged_sums import PagedSums

__all__ = ["Calibration", "means"]


@dataclass(frozen=True)
class Calibration:
    """Sensitivities and ranges of one model.

    Attributes:
        sites: the activation tensors.
        weights: by linear, float32, what broadcasts to its weight (N, K): mean squared gradient per weight, or its
            factored estimate; empty if no gradients were taken.
        channels: by site, float32 (K,), mean squared gradient per input channel; empty if no gradients were taken.
        squares: by site, float32 (K,), mean square of each input channel.
        rows: by linear, how many rows of activations it multiplies in a sample, on average. A linear that none reached
            has the mean of its site, or else of all.
        exponents: tensor exponent of the activations by site, one octave of headroom included.
        factors: by site, float32 (K', K'), `error_factor` of the mean products of its input channels, where it was
            asked for.
        unreached: linears without a gradient in any sample. Their sensitivities are the means over those of their kind:
            linears whose names differ in numbers only (other layers, other experts) and whose shapes are equal.
    """

    sites: list[Site]
    weights: Mapping[str, Tensor]
    channels: dict[str, Tensor]
    squares: dict[str, Tensor]
    exponents: dict[str, int]
    rows: dict[str, float]
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    unreached: tuple[str, ...] = ()


def means(
    linears: Mapping[str, nn.Linear],
    sites: Sequence[Site],
    totals: MutableMapping[str, Tensor],
    samples: int,
    sensitivity: str | None,
) -> Calibration:
    """What the sums `totals` over so many `samples` say. Raises InputError where they say nothing."""
    seen = {s.name: totals[f"reads/{s.name}"].sum() for s in sites}
    squares = {s.name: totals[f"squares/{s.name}"] / seen[s.name].clamp(min=1).float() for s in sites}
    if isinstance(totals, PagedSums):
        totals.freeze()
    weights = Made()
    channels: dict[str, Tensor] = {}
    if sensitivity is not None:
        for site in sites:
            rows = totals[f"gradients/{site.name}"].clamp(min=1).float()
            channels[site.name] = totals[f"channel/{site.name}"] / rows
            for name in site.linears:
                if sensitivity == "fisher":
                    weights.make[name] = functools.partial(_mean, totals, f"weight/{name}", samples)
                else:
                    outputs = totals[f"output/{name}"] / samples
                    weights.make[name] = functools.partial(_factored, outputs, squares[site.name])
    kinds = {name: kind(name, linear) for name, linear in linears.items()}
    exponents = _exponents(sites, totals, seen, squares, kinds)
    unreached = () if sensitivity is None else _complete(linears, sites, weights, channels, kinds)
    factors = _factors(linears, sites, totals, seen)
    rows_of = _rows(sites, totals, samples)
    return Calibration(list(sites), weights, channels, squares, exponents, rows_of, factors, unreached)


def _exponents(
    sites: Sequence[Site],
    totals: Mapping[str, Tensor],
    seen: Mapping[str, Tensor],
    squares: dict[str, Tensor],
    kinds: Mapping[str, str],
) -> dict[str, int]:
    """Tensor exponents by site. A site that nothing reached has its exponent, and squares, from those of its kind."""
    empty = [site for site in sites if not seen[site.name]]
    exponents = {
        site.name: min(tensor_exponent(totals[f"amax/{site.name}"]) + 1, TENSOR_EXPONENT_LIMIT)
        for site in sites
        if site not in empty
    }
    for site in empty:
        alike = {kinds[name] for name in site.linears}
        kin = [s.name for s in sites if s not in empty and alike.intersection(kinds[name] for name in s.linears)]
        if not kin:
            raise InputError(f"site {site.name}: not reached by the calibration text, expected more or other text")
        exponents[site.name] = max(exponents[name] for name in kin)
        squares[site.name] = torch.stack([squares[name] for name in kin]).mean(0)
    return exponents


def _complete(
    linears: Mapping[str, nn.Linear],
    sites: Sequence[Site],
    weights: "Made",
    channels: dict[str, Tensor],
    kinds: Mapping[str, str],
) -> tuple[str, ...]:
    """Give what had no gradient the means of its kind; returns which linears those are."""
    dead = [name for name in weights if not weights[name].any() and in_memory(linears[name].weight).any()]
    silent = [site.name for site in sites if not channels[site.name].any()]
    for name in dead:
        weights[name] = _mean_of_kin(name, dead, kinds, weights)
    for name in silent:
        channels[name] = _mean_of_kin(name, silent, kinds, channels)
    return tuple(n for n in linears if n in dead or any(n in s.linears for s in sites if s.name in silent))


def _factors(
    linears: Mapping[str, nn.Linear],
    sites: Sequence[Site],
    totals: MutableMapping[str, Tensor],
    seen: Mapping[str, Tensor],
) -> "Made":
    """Of the moments among `totals`, each of which is let go for its factor."""
    factors = Made()
    for site in sites:
        if f"moments/{site.name}" not in totals:
            continue
        factor = error_factor(totals.pop(f"moments/{site.name}") / seen[site.name].clamp(min=1).float())
        page = page_of(linears[site.name].weight)
        if isinstance(totals, PagedSums) and page is not None:
            totals.place(f"factor/{site.name}", page, factor.shape)
        totals[f"factor/{site.name}"] = factor
        factors.make[site.name] = functools.partial(totals.__getitem__, f"factor/{site.name}")
    return factors


class Made(Mapping[str, Tensor]):
    """Tensors that are made when they are asked for, by `make`, or were set."""

    def __init__(self) -> None:
        self.make: dict[str, Callable[[], Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self.make[name]()

    def __setitem__(self, name: str, value: Tensor) -> None:
        self.make[name] = lambda: value

    def __iter__(self) -> Iterator[str]:
        return iter(self.make)

    def __len__(self) -> int:
        return len(self.make)


def _mean(totals: Mapping[str, Tensor], name: str, samples: int) -> Tensor:
    return totals[name] / samples


def _factored(outputs: Tensor, inputs: Tensor) -> Tensor:
    # dL/dw sums g * x over a sample's tokens; were they independent, its mean square would be this.
    return torch.outer(outputs, inputs)


def _rows(sites: Sequence[Site], totals: Mapping[str, Tensor], samples: int) -> dict[str, float]:
    """How many rows of a sample each linear multiplies; the mean of its site, or else of all, where none reached it."""
    rows: dict[str, float] = {}
    for site in sites:
        seen = totals[f"reads/{site.name}"] / samples
        own = seen.tolist() if len(site.watched) > 1 else [float(seen)] * len(site.linears)
        rows |= {name: count or float(seen.mean()) for name, count in zip(site.linears, own, strict=True)}
    some = [count for count in rows.values() if count]
    return {name: count or sum(some) / len(some) for name, count in rows.items()}


def _mean_of_kin(name: str, without: Sequence[str], kinds: Mapping[str, str], values: Mapping[str, Tensor]) -> Tensor:
    """Mean over what has a value of its own: those of one kind, element by element, or else all, in one number."""
    kin = [n for n in values if n not in without and kinds[n] == kinds[name]]
    if kin:
        total = torch.zeros_like(values[name])
        for other in kin:
            total += values[other].to(total.device) / len(kin)
        return total
    rest = [values[n].mean().item() for n in values if n not in without]
    if not rest:
        raise InputError("calibration: no gradient reached any linear, expected a loss that depends on them")
    return torch.full_like(values[name], sum(rest) / len(rest))
