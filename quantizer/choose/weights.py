"""Weights of a whole model to packed tensors: scores first, one threshold, then the bytes.

A weight is worked on in slices of rows, and its scores and scale codes wait in files, so that the extra memory stays
within a slice however large the model is.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ...files import named
from ...formats import BLOCK_SIZE, ceil_div
from ...golden.blocks import scale_to_stored, tensor_exponent, to_blocks
from ...golden.matrix import mixed_blocks, scale_codes
from ...golden.packing import Packed, concatenate, pack
from ..calibrate.calibration import Calibration
from ..calibrate.error_factor import retained
from ..config import FGMPConfig
from ..prepare.pages import in_memory
from .compensation import compensated
from .percentile import choose_globally
from .scores import weight_impacts

__all__ = ["ScoredWeights", "pack_weights", "score_weights"]

_SLICE = 1 << 20
"""Elements that are worked on at a time."""

_GPU_SLICE = 1 << 26
"""The same on a GPU, which starts a step in the time that a core takes for thousands of elements."""

_ROWS = 1024
"""Rows that are worth a step of their own for each column."""

FAST_FROM = 1 << 24
"""Models with so many weights are worth the time that compiling the arithmetic takes (docs/quantize.md)."""


class ArrayFiles(Mapping[str, np.ndarray]):
    """Arrays by name in files of one folder, each mapped into memory when it is asked for."""

    def __init__(self, folder: Path, dtype: type):
        self._folder, self._dtype = folder, np.dtype(dtype)
        self._shapes: dict[str, tuple[Path, tuple[int, ...]]] = {}

    def add(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A new array of zeros. Its space is taken at once: a full disk is an error here, not a crash later."""
        path = self._folder / f"weight-{len(self._shapes)}.{self._dtype.str[1:]}"
        size = max(math.prod(shape) * self._dtype.itemsize, 1)
        with named(path), path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
        self._shapes[name] = (path, shape)
        return self[name]

    def __getitem__(self, name: str) -> np.ndarray:
        path, shape = self._shapes[name]
        return np.memmap(path, self._dtype, "r+", shape=shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    @property
    def size(self) -> int:
        """Elements of all arrays."""
        return sum(math.prod(shape) for _, shape in self._shapes.values())


@dataclass(frozen=True)
class ScoredWeights:
    """Where the scores (float64) and FP4 scale codes (uint8) of every linear's blocks lie, and tensor exponents."""

    scores: ArrayFiles
    scales: Mapping[str, np.ndarray]
    exponents: dict[str, int]


def score_weights(
    linears: Mapping[str, nn.Linear],
    calibration: Calibration | None,
    config: FGMPConfig,
    folder: Path,
    *,
    known: Mapping[str, np.ndarray] | None = None,
    progress: bool = True,
) -> ScoredWeights:
    """Choose the FP4 scales and score every block of every weight, into files in `folder`.

    `known` are the scale codes by linear, where they were chosen before.
    """
    generator = torch.Generator().manual_seed(config.seed)
    own = ArrayFiles(folder, np.uint8)
    scored = ScoredWeights(ArrayFiles(folder, np.float64), own if known is None else known, {})
    readers = {} if calibration is None else {n: s.name for s in calibration.sites for n in s.linears}
    total = sum(m.weight.numel() for m in linears.values())
    bar = tqdm(total=total, desc="score", unit="weight", unit_scale=True, disable=not progress, leave=False)
    for name, linear in linears.items():
        weight = in_memory(linear.weight).detach()
        shape = (weight.shape[0], ceil_div(weight.shape[1], BLOCK_SIZE))
        scores = scored.scores.add(name, shape)
        scales = own.add(name, shape) if known is None else known[name]
        exponent = tensor_exponent(weight)
        clip, importance = _weightings(name, readers, calibration, config)
        for part in slices(weight.shape, _slice_of(weight)):
            blocks = to_blocks(scale_to_stored(weight[part], exponent, f"{name}.weight"))
            flat = blocks.flatten(0, 1)
            if known is None:
                codes = scale_codes(flat, _like(blocks, clip, part), fast=total >= FAST_FROM)
                scales[part] = codes.view(blocks.shape[:2]).cpu().numpy()
            else:
                codes = torch.from_numpy(scales[part].copy()).flatten().to(flat.device)
            if config.policy == "random":
                scores[part] = torch.rand(blocks.shape[:2], generator=generator, dtype=torch.float64).numpy()
            elif config.joint or config.fp4_weights not in (0, 1):
                weights = torch.ones_like(flat) if importance is None else _like(blocks, importance, part)
                assert weights is not None
                impact = weight_impacts(flat, codes, weights, exponent, fast=total >= FAST_FROM)
                scores[part] = impact.view(blocks.shape[:2]).cpu().numpy()
            bar.update(weight[part].numel())
        scored.exponents[name] = exponent
    bar.close()
    return scored


def pack_weights(
    linears: Mapping[str, nn.Linear],
    scored: ScoredWeights,
    config: FGMPConfig,
    calibration: Calibration,
    *,
    thresholds: Mapping[str, np.ndarray] | None = None,
    progress: bool = True,
) -> Iterator[tuple[str, Packed]]:
    """Each linear's packed weight, made when asked for; the caller may drop the linear's own weight afterwards.

    `thresholds` are those of a choice by energy: float64 (B,) by linear.
    """
    masks = _masks(scored, config) if thresholds is None else _above(scored, thresholds)
    sites = {name: site.name for site in calibration.sites for name in site.linears}
    total = scored.scores.size * BLOCK_SIZE
    bar = tqdm(masks, total=len(linears), desc="pack", unit="linear", disable=not progress, leave=False)
    for (name, linear), mask in zip(linears.items(), bar, strict=True):
        weight = in_memory(linear.weight).detach()
        exponent, fast = scored.exponents[name], total >= FAST_FROM
        factor = calibration.factors[sites[name]].to(weight.device) if config.rounding == "gptq" else None
        size = _slice_of(weight)
        parts = []
        for part in slices(weight.shape, size if factor is None else max(size, _ROWS * weight.shape[1])):
            rows = weight[part]
            blocks = to_blocks(scale_to_stored(rows, exponent, f"{name}.weight"))
            scales = torch.from_numpy(scored.scales[name][part].copy()).to(blocks.device)
            fp8 = torch.from_numpy(mask[part]).to(blocks.device)
            shape = (rows.shape[0], rows.shape[1])
            if factor is None:
                parts.append(pack(mixed_blocks(blocks, scales, fp8, shape, exponent, fast=fast)))
            else:
                mixed = compensated(blocks, fp8, factor, clip=config.clip, fast=fast)
                parts.append(pack(mixed.tensor(shape, exponent)))
        yield name, concatenate(parts)


def _weightings(
    name: str, readers: Mapping[str, str], calibration: Calibration | None, config: FGMPConfig
) -> tuple[Tensor | None, Tensor | None]:
    """The factors of a linear's squared errors in clipping and scoring: (N, K), (1, K) or None."""
    if calibration is None:
        return None, None
    clip = calibration.weights[name] if config.clips else None
    if config.policy == "output-error":
        return clip, calibration.squares[readers[name]][None]
    if config.policy != "fisher" or not config.needs_gradients:
        return clip, None
    importance = calibration.weights[name]
    if config.joint and config.rounding == "gptq":  # which leaves only so much of a weight's error
        site = readers[name]
        importance = importance * retained(calibration.factors[site], calibration.squares[site])
    return clip, importance


def _like(blocks: Tensor, weighting: Tensor | None, part: slice) -> Tensor | None:
    """The rows `part` of a weighting as blocks (n, 16), one row repeated where there is only one."""
    if weighting is None:
        return None
    rows = weighting[part] if len(weighting) > 1 else weighting
    return to_blocks(rows.float()).expand(blocks.shape).reshape(-1, BLOCK_SIZE)


def _slice_of(weight: Tensor) -> int:
    return _GPU_SLICE if weight.device.type == "cuda" else _SLICE


def slices(shape: torch.Size | tuple[int, ...], elements: int) -> Iterator[slice]:
    """Slices of rows of a matrix, about so many elements each."""
    rows = max(1, elements // max(shape[1], 1))
    return (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))


def _above(scored: ScoredWeights, thresholds: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    return (np.asarray(scores) > thresholds[name] for name, scores in scored.scores.items())


def _masks(scored: ScoredWeights, config: FGMPConfig) -> Iterator[np.ndarray]:
    parts = list(scored.scores.values())  # maps: nothing is read yet
    if config.threshold == "global":
        return choose_globally(parts, config.fp4_weights).masks()
    return (mask for part in parts for mask in choose_globally([part], config.fp4_weights).masks())
