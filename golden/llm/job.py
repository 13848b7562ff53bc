"""`fgmp quantize` as a job that may be killed at any moment and started again.

Everything is kept in `OUT.partial` until the end: the calibration's running sums, scores, and the finished model, which
one rename turns into `OUT`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from ...errors import InputError
from ...files import check_folder
from . import distributed
from .calibrate import Checkpoint, fingerprint
from .checkpoint import LayerInfo, check_linears, read_manifest, verify, write_folder
from .config import FGMPConfig
from .models import is_quantized, load_model, model_digest, windows
from .quantize import checkpointed, quantize
from .text import read_text

__all__ = ["QuantizeJob", "describe_folder", "run_job"]

_STACKED = 3


@dataclass(frozen=True)
class QuantizeJob:
    """What `fgmp quantize` was asked to do."""

    model: str
    out: Path
    calibration: str
    config: FGMPConfig
    dtype: str = "float32"
    device: str = "cpu"
    gradient_checkpointing: bool = False
    checkpoint_seconds: float = 30.0
    max_shard_bytes: int = 4 << 30


def run_job(job: QuantizeJob, *, say: Callable[[str], None], progress: bool) -> dict[str, Any]:
    """Quantize, write `job.out` and return its description; continues what an earlier, killed run left.

    Raises InputError if `job.out` exists and is not what this job makes, or another process is at it.
    """
    out = job.out.absolute()
    check_folder(out, "the name of a new folder")
    distributed.join(job.device)
    text = read_text(job.calibration, "calibration")
    if out.exists() and not is_quantized(out):
        raise InputError(f"output {job.out}: exists already, expected the name of a new folder")
    work = out.with_name(out.name + ".partial")
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock") if distributed.is_main() else None
    try:
        if lock is not None:
            lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"output {job.out}: another fgmp quantize is writing it") from None
    try:
        return _locked(job, out, work, text, say, progress)
    except InputError:
        if not any(work.glob("calibration*")):
            shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            lock.release()


def _locked(
    job: QuantizeJob, out: Path, work: Path, text: str, say: Callable[[str], None], progress: bool
) -> dict[str, Any]:
    language_model = load_model(job.model, dtype=job.dtype, device=job.device)
    config = job.config
    samples = windows(language_model, text, config.samples, "calibration text", window=config.window)
    digest = hashlib.sha256(samples.numpy().tobytes()).hexdigest()
    if out.exists():
        manifest = read_manifest(out)
        settings = json.loads((out / "config.json").read_text())
        made = (manifest["config"], manifest["base_model"], manifest["calibration"], settings.get("dtype", job.dtype))
        distributed.wait()
        if distributed.is_main():
            shutil.rmtree(work)
        if made != (config.as_dict(), job.model, digest, job.dtype):
            raise InputError(f"output {job.out}: exists and was made otherwise, expected the name of a new folder")
        say(f"{job.out} is there already, made from a model of that name with this calibration and these options")
        return describe_folder(out)
    for left in ("scores", "model"):
        if distributed.is_main():
            shutil.rmtree(work / left, ignore_errors=True)
    if job.gradient_checkpointing:
        checkpointed(language_model.model)
    model = quantize(
        language_model.model,
        config,
        samples,
        folder=work / "scores",
        checkpoint=_checkpoint(job, work, digest),
        progress=progress,
    )
    if not distributed.is_main():
        return {}
    stacked = _left_alone(model)
    if stacked:
        total = sum(stacked.values())
        say(f"left as they are: {len(stacked)} tensors of {total:,} weights that no linear holds, first {min(stacked)}")
    (work / "model").mkdir()
    write_folder(
        model,
        work / "model",
        tokenizer=language_model.tokenizer,
        base_model=job.model,
        calibration=digest,
        max_shard_bytes=job.max_shard_bytes,
    )
    os.replace(work / "model", out)
    shutil.rmtree(work)
    return describe_folder(out)


def describe_folder(folder: Path) -> dict[str, Any]:
    """Verify a quantized folder and describe it: totals, and per linear what its packed weight and site are."""
    manifest = read_manifest(folder)
    verify(folder, manifest)
    check_linears(folder, manifest)
    layers = []
    for name, entry in manifest["linears"].items():
        info = LayerInfo(name, entry)
        site = manifest["sites"].get(info.site)
        layers.append(
            {
                "name": name,
                "shape": list(info.shape),
                "tensor_exponent": info.exponent,
                "fp8_share": 1 - info.fp4_blocks / info.blocks,
                "bytes": info.bytes,
                "bits_per_weight": 8 * info.bytes / (info.shape[0] * info.shape[1]),
                "site": info.site,
                "mode": None if site is None else site["mode"],
                "threshold": None if site is None else site["threshold"][0] << site["threshold"][1],
                "input_exponent": None if site is None else site["tensor_exponent"],
            }
        )
    weights = sum(la["shape"][0] * la["shape"][1] for la in layers)
    size = sum(la["bytes"] for la in layers)
    return {
        "folder": str(folder),
        "base_model": manifest["base_model"],
        "config": manifest["config"],
        "linears": layers,
        "weights": weights,
        "bytes": size,
        "bits_per_weight": 8 * size / weights,
        "below_fp8": 1 - size / weights,  # plain FP8: one byte a weight
        "file_bytes": sum((folder / file).stat().st_size for file in manifest["files"]),
    }


def _left_alone(model: nn.Module) -> dict[str, int]:
    """Stacked matrices that were not recognized as linears, with their sizes: experts of a kind that is not known."""
    return {n: p.numel() for n, p in model.named_parameters() if p.dim() == _STACKED and min(p.shape) > 1}


def _checkpoint(job: QuantizeJob, work: Path, digest: str) -> Checkpoint:
    processes = (os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1"))
    mark = fingerprint(
        model_digest(job.model),
        digest,
        job.dtype,
        job.device,
        job.gradient_checkpointing,
        job.config.sensitivity if job.config.needs_gradients else None,
        sorted(job.config.ignore),
        torch.__version__,
        torch.get_num_threads(),
        processes,
    )
    path = work / f"calibration-{processes[0]}-of-{processes[1]}.safetensors"
    return Checkpoint(path, mark, job.checkpoint_seconds)
