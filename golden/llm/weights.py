"""Weights of a whole model to packed tensors: scores first, one threshold, then the bytes.

A weight is worked on in slices of rows, and its scores and scale codes wait in files, so that the extra memory stays
within a slice however large the model is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..blocks import tensor_exponent
from ..packing import Packed, concatenate, pack
from ..policy import weight_candidates, weight_scores
from ..threshold import choose_globally
from .calibrate import Calibration
from .config import FGMPConfig

__all__ = ["ScoredWeights", "pack_weights", "score_weights"]

_SLICE = 1 << 20
"""Elements that are worked on at a time."""


@dataclass(frozen=True)
class ScoredWeights:
    """Where the scores (float64) and FP4 scale codes (uint8) of every linear's blocks lie, and tensor exponents."""

    scores: dict[str, np.ndarray]
    scales: dict[str, np.ndarray]
    exponents: dict[str, int]


def score_weights(
    linears: Mapping[str, nn.Linear],
    calibration: Calibration | None,
    config: FGMPConfig,
    folder: Path,
    *,
    progress: bool = True,
) -> ScoredWeights:
    """Choose the FP4 scales and score every block of every weight, into files in `folder`."""
    generator = torch.Generator().manual_seed(config.seed)
    scored = ScoredWeights({}, {}, {})
    readers = {} if calibration is None else {n: s.name for s in calibration.sites for n in s.linears}
    total = sum(m.weight.numel() for m in linears.values())
    bar = tqdm(total=total, desc="score", unit="weight", unit_scale=True, disable=not progress, leave=False)
    for index, (name, linear) in enumerate(linears.items()):
        weight = linear.weight.detach()
        rows, blocks = weight.shape[0], -(-weight.shape[1] // 16)
        scores = np.memmap(folder / f"weight-{index}.f64", np.float64, "w+", shape=(rows, blocks))
        scales = np.memmap(folder / f"weight-{index}.u8", np.uint8, "w+", shape=(rows, blocks))
        exponent = tensor_exponent(weight)
        clip = importance = None
        if calibration is not None:
            clip = calibration.weights[name] if config.clip and config.fp4_weights > 0 else None
            if config.policy == "output-error":
                importance = calibration.squares[readers[name]].expand(weight.shape)
            elif config.policy == "fisher" and not config.uniform:
                importance = calibration.weights[name]
        policy = "quantization-error" if config.fp4_weights in (0, 1) else config.policy
        for part in slices(weight.shape):
            candidates = weight_candidates(
                weight[part], None if clip is None else clip[part], f"{name}.weight", exponent=exponent
            )
            some = None if importance is None else importance[part]
            scores[part] = weight_scores(candidates, policy, some, generator).cpu().numpy()
            scales[part] = candidates.scales.cpu().numpy()
            bar.update(weight[part].numel())
        scored.scores[name], scored.scales[name], scored.exponents[name] = scores, scales, exponent
    bar.close()
    return scored


def pack_weights(
    linears: Mapping[str, nn.Linear], scored: ScoredWeights, config: FGMPConfig, *, progress: bool = True
) -> Iterator[tuple[str, Packed]]:
    """Each linear's packed weight, made when asked for; the caller may drop the linear's own weight afterwards."""
    masks = _masks(scored, config)
    bar = tqdm(masks, total=len(linears), desc="pack", unit="linear", disable=not progress, leave=False)
    for (name, linear), mask in zip(linears.items(), bar, strict=True):
        weight = linear.weight.detach()
        parts = []
        for part in slices(weight.shape):
            chosen = torch.from_numpy(mask[part])
            scales = torch.from_numpy(scored.scales[name][part].copy())
            candidates = weight_candidates(
                weight[part].cpu(), None, f"{name}.weight", exponent=scored.exponents[name], scales=scales
            )
            parts.append(pack(candidates.pick(chosen)))
        yield name, concatenate(parts)


def slices(shape: torch.Size | tuple[int, ...]) -> Iterator[slice]:
    """Slices of rows of a matrix, about `_SLICE` elements each."""
    rows = max(1, _SLICE // max(shape[1], 1))
    return (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))


def _masks(scored: ScoredWeights, config: FGMPConfig) -> Iterator[np.ndarray]:
    parts = list(scored.scores.values())
    if config.threshold == "global":
        return choose_globally(parts, config.fp4_weights).masks()
    return (mask for part in parts for mask in choose_globally([part], config.fp4_weights).masks())
