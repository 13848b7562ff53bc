"""A calibration's running sums where they are too many for memory: those of one block at a time."""

import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...files import whole_file, write_json
from ..prepare.pages import Page, Pages

__all__ = ["PagedSums"]

_STATE = "state.json"


class PagedSums(MutableMapping[str, Tensor]):
    """Tensors by name. Those that have a page lie in files, and are in memory while that page is open.

    Reading one opens its page. What is done to it in place is kept, until `freeze`. `commit` makes all that was done
    since the last time count; whoever opens the folder later, with the same `fingerprint`, can `resume` from there.
    """

    def __init__(self, pages: Pages, folder: Path, fingerprint: str = ""):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._fingerprint = folder, fingerprint
        self._resident: dict[str, Tensor] = {}
        self._paged: dict[str, tuple[Page, torch.Size | tuple[int, ...]]] = {}
        self._numbers: dict[str, int] = {}
        self._files: dict[str, str] = {}
        self._open: dict[str, Tensor] = {}
        self._committed: set[str] = set()
        self._generation = 0
        self._frozen = False
        pages.closing.append(self._close)

    def place(self, name: str, page: Page, shape: torch.Size | tuple[int, ...]) -> None:
        """Have a float32 tensor of zeros with `page`."""
        self._paged[name] = (page, shape)
        self._numbers.setdefault(name, len(self._numbers))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._paged:
            return self._resident[name]
        page, shape = self._paged[name]
        page.open()
        if name not in self._open:
            device = next(iter(page.parameters.values())).device
            if name in self._files:
                self._open[name] = load_file(self._folder / self._files[name], str(device))["sum"]
            else:
                self._open[name] = torch.zeros(shape, device=device)
        return self._open[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        if name not in self._paged:
            self._resident[name] = value
            return
        self._paged[name][0].open()
        self._open[name] = value
        if self._frozen:
            self._write(name)

    def __delitem__(self, name: str) -> None:
        if name not in self._paged:
            del self._resident[name]
            return
        del self._paged[name]
        self._open.pop(name, None)
        file = self._files.pop(name, None)
        if file is not None and file not in self._committed:
            (self._folder / file).unlink()

    def __iter__(self) -> Iterator[str]:
        yield from self._paged
        yield from self._resident

    def __len__(self) -> int:
        return len(self._paged) + len(self._resident)

    def commit(self, samples: int) -> None:
        """Let the sums count as those of so many samples."""
        for name in self._open:
            self._write(name)
        resident = f"resident-{self._generation}.safetensors"
        with whole_file(self._folder / resident) as partial:
            save_file({n: t.cpu().contiguous() for n, t in self._resident.items()}, partial)
        state = {
            "fingerprint": self._fingerprint,
            "samples": samples,
            "generation": self._generation,
            "names": list(self),
            "files": self._files,
        }
        write_json(self._folder / _STATE, state)
        self._committed = {_STATE, resident, *self._files.values()}
        for path in self._folder.iterdir():
            if path.name not in self._committed:
                path.unlink()
        self._generation += 1

    def resume(self) -> int:
        """Take what was committed, if it has the same names; returns how many samples it holds, else 0."""
        try:
            state = json.loads((self._folder / _STATE).read_text())
            if state["fingerprint"] != self._fingerprint or state["names"] != list(self):
                raise ValueError("of another calibration")
            resident = load_file(self._folder / f"resident-{state['generation']}.safetensors")
            if not all((self._folder / file).is_file() for file in state["files"].values()):
                raise ValueError("incomplete")
        except (OSError, ValueError, KeyError, SafetensorError):
            for path in self._folder.iterdir():
                path.unlink()
            return 0
        for name, value in resident.items():
            self._resident[name].copy_(value)
        self._open.clear()
        self._files = dict(state["files"])
        self._committed = {path.name for path in self._folder.iterdir()}
        self._generation = state["generation"] + 1
        return int(state["samples"])

    def freeze(self) -> None:
        """Let no further change in place count: what is read is not written again."""
        for name in self._open:
            self._write(name)
        self._frozen = True

    def _close(self, _: Page) -> None:
        if not self._frozen:
            for name in self._open:
                self._write(name)
        self._open.clear()

    def _write(self, name: str) -> None:
        file = f"{self._numbers[name]}-{self._generation}.safetensors"  # never over what was committed
        with whole_file(self._folder / file) as partial:
            save_file({"sum": self._open[name].cpu().contiguous()}, partial)
        self._files[name] = file
