"""Calibration on samples of text (docs/numerics.md section 5).

Nothing is kept of a sample: a parameter's or a site's gradient is squared, added and dropped as soon as it is complete.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ...errors import InputError, first_line
from ...golden.blocks import check_no_nan
from ...processes import exhausted
from ..prepare.pages import Pages, in_memory, page_of
from ..prepare.sites import Site
from . import distributed
from .calibration import Calibration, means
from .lockstep import run_each
from .paged_sums import PagedSums
from .resume import Checkpoint
from .watch import Watch

__all__ = ["calibrate"]


def calibrate(
    model: nn.Module,
    linears: Mapping[str, nn.Linear],
    sites: Sequence[Site],
    samples: Sequence[Any],
    loss: Callable[[Any], Tensor],
    *,
    sensitivity: str | None = "fisher",
    factors: bool = False,
    checkpoint: Checkpoint | None = None,
    pages: Pages | None = None,
    folder: Path | None = None,
    progress: bool = True,
) -> Calibration:
    """Run every sample once: forward, and backward from `loss(sample)` unless `sensitivity` is None.

    `sensitivity` "fisher" measures each weight's mean squared gradient; "factored" measures only rows and columns.
    `factors` are measured too where asked for: K x K a site.
    Of a model in `pages`, samples go through each block together, and sums wait in `folder`.
    Under torch.distributed each process takes its share of the samples, and all return the sums of all.
    Raises InputError if a weight or an activation is NaN.
    """
    for name, linear in linears.items():
        check_no_nan(in_memory(linear.weight).detach(), f"{name}.weight")
    if pages is None:
        totals: MutableMapping[str, Tensor] = {}
    else:
        assert folder is not None
        totals = PagedSums(pages, folder, checkpoint.fingerprint if checkpoint else "")
    _begin_sums(totals, linears, sites, sensitivity, factors)
    mine = distributed.share(len(samples))
    backward = sensitivity is not None
    jobs = [functools.partial(_measure, loss, samples[index], index, backward) for index in mine]
    done = _resumed(totals, checkpoint)
    bar = tqdm(total=len(mine), initial=done, desc="calibrate", unit="sample", disable=not progress, leave=False)
    watching = Watch(model, linears, sites, totals, sensitivity)
    with bar, watching, torch.set_grad_enabled(backward):
        for count in _explained(run_each(jobs[done:], pages)):
            done += count
            _save(totals, checkpoint, done, done == len(jobs))
            bar.update(count)
    for name, total in totals.items():
        if not torch.isfinite(total).all():
            kind, _, of = name.partition("/")
            raise InputError(f"calibration: {kind} of {of} is not finite, expected a model that computes in range")
        distributed.combine_(total, "max" if name.startswith("amax/") else "sum")
    return means(linears, sites, totals, len(samples), sensitivity)


def _explained(counts: Iterator[int]) -> Iterator[int]:
    """What goes wrong on the way back through blocks, of no one sample, as InputError."""
    try:
        yield from counts
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # whatever the model's own code raises
        exhausted(str(error), "calibration")
        reason = first_line(error)
        raise InputError(
            f"calibration: the model cannot be differentiated layer by layer ({reason}), expected one that can"
        ) from error


def _resumed(totals: MutableMapping[str, Tensor], checkpoint: Checkpoint | None) -> int:
    """How many samples were done before, which `totals` then holds."""
    if checkpoint is None:
        return 0
    return totals.resume() if isinstance(totals, PagedSums) else checkpoint.load(totals)


def _save(totals: MutableMapping[str, Tensor], checkpoint: Checkpoint | None, done: int, last: bool) -> None:
    if checkpoint is None:
        return
    if isinstance(totals, PagedSums):
        totals.commit(done)
    else:
        checkpoint.save(totals, done, force=last)


def _measure(loss: Callable[[Any], Tensor], sample: Any, index: int, backward: bool) -> None:
    """Run one sample, forward and, where `backward`, back; raises InputError where the model cannot."""
    try:
        value = loss(sample)
        if not torch.isfinite(value):
            raise InputError(f"loss of calibration sample {index}: {value.item()}, expected a finite number")
        if backward:
            value.backward()
    except InputError:
        raise
    except Exception as error:  # whatever the model's own code raises
        exhausted(str(error), "calibration")
        reason = first_line(error)
        what = "run and differentiated" if backward else "run"
        raise InputError(
            f"calibration: sample {index} cannot be {what} ({reason}), expected a model that can; a policy without "
            "gradients, unclipped, needs no backward pass"
        ) from error


def _begin_sums(
    totals: MutableMapping[str, Tensor],
    linears: Mapping[str, nn.Linear],
    sites: Sequence[Site],
    sensitivity: str | None,
    factors: bool,
) -> None:
    """Put a sum of zeros into `totals` for everything that is measured."""

    def zeros(name: str, weight: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        page = page_of(weight)
        if isinstance(totals, PagedSums) and page is not None and len(shape) == 2:
            totals.place(name, page, shape)
        else:
            totals[name] = torch.zeros(shape, dtype=dtype, device=weight.device)

    for name, linear in linears.items():
        if sensitivity == "fisher":
            zeros(f"weight/{name}", linear.weight, *linear.weight.shape)
        elif sensitivity == "factored":
            zeros(f"output/{name}", linear.weight, linear.out_features)
    for site in sites:
        weight = linears[site.name].weight
        zeros(f"amax/{site.name}", weight)
        zeros(f"squares/{site.name}", weight, site.channels)
        zeros(f"reads/{site.name}", weight, len(site.watched), dtype=torch.float64)
        if sensitivity is not None:
            zeros(f"channel/{site.name}", weight, site.channels)
            zeros(f"gradients/{site.name}", weight, dtype=torch.float64)
        if factors:
            zeros(f"moments/{site.name}", weight, site.channels, site.channels)
