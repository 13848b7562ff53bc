"""`fgmp quantize` as a job that may be killed at any moment and started again.

Everything is kept in `OUT.partial` until the end: the calibration's running sums, scores, and the finished model, which
one rename turns into `OUT`.
"""

import contextlib
import gc
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ...errors import InputError
from ...files import check_folder
from ...golden.packing import FP8_BITS
from ..calibrate import distributed
from ..calibrate.recompute import checkpointed
from ..calibrate.resume import Checkpoint, fingerprint
from ..config import FGMPConfig
from ..model.folder import read_folder
from ..model.language_model import DTYPES, LanguageModel, is_quantized, load_model, model_digest, source_folder, windows
from ..model.manifest import LayerInfo, read_manifest, read_settings
from ..model.save import write_folder
from ..model.text import read_text
from ..model.trial import check_written, witness
from ..prepare.linears import left_alone
from ..study import quantize

__all__ = ["QuantizeRequest", "describe_folder", "run_quantization"]


_OURS = ("lock", "calibration-", "scores", "pages-", "model")
"""Prefix of the names in an unfinished folder."""


@dataclass(frozen=True, kw_only=True)
class QuantizeRequest:
    """The options of `fgmp quantize`.

    `window` and `dtype` are None where they follow from the model: its own limit, up to 512 tokens; measured in float32
    and, for what is not quantized, stored as the checkpoint stores it.
    """

    model: str
    out: Path
    calibration: str
    config: FGMPConfig
    window: int | None = None
    dtype: str | None = None
    device: str = "cpu"
    gradient_checkpointing: bool = False
    layer_by_layer: bool = False
    checkpoint_seconds: float = 30.0
    max_shard_bytes: int = 4 << 30
    special_tokens: bool = True
    trust_remote_code: bool = False


def run_quantization(request: QuantizeRequest, *, say: Callable[[str], None], progress: bool) -> dict[str, Any]:
    """Quantize, write `request.out` and return its description; continues what an earlier, killed run left.

    Raises InputError if `request.out` exists and is not what this request makes, or another process is at it.
    """
    _check_paged(request)
    out = request.out.absolute()
    check_folder(out, "the name of a new folder")
    distributed.join(request.device)
    text = read_text(request.calibration, "calibration")
    if out.is_symlink() and not out.exists():
        raise InputError(f"output {request.out}: is a link that leads nowhere, expected the name of a new folder")
    if out.exists() and not is_quantized(out):
        raise InputError(f"output {request.out}: exists already, expected the name of a new folder")
    work = out.with_name(out.name + ".partial")
    strange = [p.name for p in work.iterdir() if not p.name.startswith(_OURS)] if work.is_dir() else []
    if strange or (work.exists() and not work.is_dir()):
        raise InputError(
            f"output {request.out}: {work.name} is there and holds what is not ours, "
            "expected a name without such a folder"
        )
    made = not work.parent.exists()
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock") if distributed.is_main() else None
    try:
        if lock is not None:
            lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"output {request.out}: another fgmp quantize is writing it") from None
    keep = True
    try:
        return _locked(request, out, work, text, say, progress)
    except OSError:
        keep = False  # a full disk is not helped by what lies on it
        raise
    except Exception:
        # Which another try may continue from.
        keep = any((*work.glob("calibration*.safetensors"), *work.glob("calibration*/state.json")))
        for left in ("scores", *(path.name for path in work.glob("pages-*"))):
            shutil.rmtree(work / left, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            lock.release()
        if not keep:
            shutil.rmtree(work, ignore_errors=True)
            if made:
                with contextlib.suppress(OSError):
                    work.parent.rmdir()


def _check_paged(request: QuantizeRequest) -> None:
    """Raise InputError for what does not go with layer by layer."""
    if request.layer_by_layer and request.gradient_checkpointing:
        raise InputError("--gradient-checkpointing: given with --layer-by-layer, which does it; expected one of them")
    if request.layer_by_layer and request.device == "auto":
        raise InputError("device: auto, expected one device with --layer-by-layer")


def _locked(
    request: QuantizeRequest, out: Path, work: Path, text: str, say: Callable[[str], None], progress: bool
) -> dict[str, Any]:
    language_model = load_model(
        request.model,
        dtype=request.dtype or "float32",
        device=request.device,
        paged=_pages_folder(work) if request.layer_by_layer else None,
        ignore=request.config.ignore,
        special_tokens=request.special_tokens,
        trust_remote_code=request.trust_remote_code,
    )
    stored = DTYPES[request.dtype] if request.dtype else language_model.stored_dtype
    config = replace(request.config, window=language_model.window(request.window))
    samples = windows(language_model, text, config.samples, "calibration text", window=config.window)
    digest = hashlib.sha256(samples.numpy().tobytes()).hexdigest()
    if out.exists():
        manifest = read_manifest(out)
        saved = FGMPConfig.from_dict(manifest["config"])
        made = (saved, manifest["base_model"], manifest["calibration"], read_settings(out).get("dtype"))
        distributed.wait()
        if distributed.is_main():
            shutil.rmtree(work)
        if made != (config, request.model, digest, str(stored).removeprefix("torch.")):
            raise InputError(f"output {request.out}: exists and was made otherwise, expected the name of a new folder")
        say(f"{request.out} is there already, made from a model of that name with this calibration and these options")
        return describe_folder(out)
    short = "" if request.window is not None or config.window == FGMPConfig.window else ", all that the model can read"
    say(f"calibration: {config.samples} windows of {config.window} tokens{short}, {language_model.special_tokens_text}")
    for left in ("scores", "model"):
        if distributed.is_main():
            shutil.rmtree(work / left, ignore_errors=True)
    if request.gradient_checkpointing:
        checkpointed(language_model.model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = quantize(
            language_model.model,
            config,
            samples,
            folder=work / "scores",
            checkpoint=_checkpoint(request, config, work, digest),
            pages=language_model.pages,
            progress=progress,
        )
    for warning in {str(w.message): w for w in caught if "linears had no gradient" in str(w.message)}:
        say(f"warning: {warning}")
    if not distributed.is_main():
        return {}
    groups, total = left_alone(model, model.fgmp_left_alone)
    for group in groups:
        say(f"left as they are, {group}")
    if groups:
        share = sum(group.weights for group in groups) / total
        say(f"left as they are, altogether: {share:.1%} of the weights, embeddings not counted")
    if model.fgmp_unordered:
        first, reason = next(iter(model.fgmp_unordered.items()))
        say(f"channels in their own order: {len(model.fgmp_unordered)} sites, first {first}: {reason}")
    seen = witness(model)
    _write(request, model, language_model, stored, digest, work / "model")
    del model, language_model  # make room for the copy: modules and what watches them refer to each other
    gc.collect()
    try:
        check_written(seen, work / "model", trust_remote_code=request.trust_remote_code)
    except InputError as error:
        shutil.rmtree(work)  # there is nothing to continue: it would be the same again
        raise InputError(str(error).replace(str(work / "model"), str(request.out))) from None
    os.replace(work / "model", out)
    shutil.rmtree(work)
    return describe_folder(out)


def _write(
    request: QuantizeRequest,
    model: Any,
    language_model: LanguageModel,
    stored: torch.dtype,
    digest: str,
    folder: Path,
) -> None:
    folder.mkdir()
    write_folder(
        model,
        folder,
        tokenizer=language_model.tokenizer,
        base_model=request.model,
        calibration=digest,
        max_shard_bytes=request.max_shard_bytes,
        dtype=stored,
        source=source_folder(request.model),
    )


def describe_folder(folder: Path) -> dict[str, Any]:
    """Verify a quantized folder and describe it: totals, and per linear what its packed weight and site are."""
    manifest = read_folder(folder)
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
        "schema": "fgmp-model/1",
        "folder": str(folder),
        "base_model": manifest["base_model"],
        "config": manifest["config"],
        "expected": manifest.get("expected"),
        "linears": layers,
        "weights": weights,
        "bytes": size,
        "bits_per_weight": 8 * size / weights,
        "below_fp8": 1 - 8 * size / weights / FP8_BITS,
        "file_bytes": sum((folder / file).stat().st_size for file in manifest["files"]),
    }


def _pages_folder(work: Path) -> Path:
    folder = work / f"pages-{os.environ.get('RANK', '0')}"
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
    return folder


def _checkpoint(request: QuantizeRequest, config: FGMPConfig, work: Path, digest: str) -> Checkpoint:
    processes = (os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1"))
    mark = fingerprint(
        model_digest(request.model),
        digest,
        request.dtype or "float32",
        request.device,
        request.gradient_checkpointing,
        request.layer_by_layer,
        config.sensitivity if config.needs_gradients else None,
        config.permutation,
        sorted(config.ignore),
        torch.__version__,
        torch.get_num_threads(),
        processes,
    )
    path = work / f"calibration-{processes[0]}-of-{processes[1]}.safetensors"
    return Checkpoint(path, mark, request.checkpoint_seconds)
