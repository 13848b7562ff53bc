"""A calibration that was stopped continues: its running sums in a file."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from ...files import whole_file

__all__ = ["Checkpoint", "fingerprint"]


class Checkpoint:
    """Where a calibration's running sums are kept, so that it can be stopped at any moment and continued.

    `fingerprint` stands for everything that the sums depend on; a file with another one is ignored. A file is written
    every `seconds`, but for no more than about a twentieth of the time; with 0 seconds, after every sample.
    """

    def __init__(self, path: Path, fingerprint: str, seconds: float = 30.0):
        self.path = path
        self.fingerprint = fingerprint
        self.seconds = seconds
        self._next = time.monotonic() + seconds

    def load(self, totals: Mapping[str, Tensor]) -> int:
        """Fill `totals` from the file; returns how many samples they hold, 0 if there is nothing to continue."""
        if not self.path.is_file():
            return 0
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("fingerprint") != self.fingerprint or set(file.keys()) != set(totals):
                    return 0
                saved = {name: file.get_tensor(name) for name in totals}
                if metadata.get("sha256") != _digest(saved):
                    return 0
                for name, total in totals.items():
                    total.copy_(saved[name])
        except (safetensors.SafetensorError, OSError, RuntimeError):
            for total in totals.values():
                total.zero_()
            return 0
        return int(metadata["samples"])

    def save(self, totals: Mapping[str, Tensor], samples: int, *, force: bool = False) -> None:
        """Write the sums if it is time to, under a temporary name first."""
        started = time.monotonic()
        if not force and started < self._next:
            return
        saved = {name: total.cpu().contiguous() for name, total in totals.items()}
        metadata = {"fingerprint": self.fingerprint, "samples": str(samples), "sha256": _digest(saved)}
        with whole_file(self.path) as partial:
            save_file(saved, partial, metadata)
        finished = time.monotonic()
        if self.seconds:
            self._next = finished + max(self.seconds, 20 * (finished - started))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint(*parts: object) -> str:
    """SHA-256 of the parts' texts, hexadecimal."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
