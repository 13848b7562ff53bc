"""The quantizer of one site: selects the precision of its activation blocks once for all linears that read them."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...formats import BLOCK_SIZE
from ...golden.blocks import MixedTensor
from ...golden.compiled import quantize_mixed
from ...golden.selector import Selected, SiteSettings, select
from ..prepare.sites import Site

__all__ = ["SiteQuantizer", "quantizers"]


class SiteQuantizer:
    """Quantizes one site's activations once for all linears that read it, and counts its blocks.

    `readers` is how many linears read the very same tensor; after so many uses it is let go.
    """

    def __init__(self, settings: SiteSettings, readers: int = 1):
        self.settings = settings
        self.fp8_blocks = 0
        self.blocks = 0
        self.readers = readers
        self.owned = False
        self.compiled = False
        self._uses = 0
        self._last: Any = None

    def select(self, x: Tensor) -> Selected:
        """Quantize (..., K)."""
        x = x if x.dtype in (torch.float32, torch.bfloat16) else x.float()
        return select(x, self.settings.to(x.device))

    def tensor(self, rows: Tensor) -> MixedTensor:
        """The quantized rows (M, K)."""
        settings = self.settings
        shape = (rows.shape[0], rows.shape[1])
        simple = settings.mode == "dynamic" and settings.channel_codes is None and not settings.four_over_six
        if self.compiled and simple and shape[1] % BLOCK_SIZE == 0 and not rows.isnan().any():
            return quantize_mixed(rows.contiguous(), settings.exponent, settings.threshold.value).tensor(
                shape, settings.exponent
            )
        return self.select(rows).tensor(shape, settings.exponent)

    def __call__(self, x: Tensor) -> Tensor:
        """Stored values (M, K), float32, of `x` (..., K)."""
        if self._last is None or self._last[0]() is not x or not _same(self._last[1], x):
            rows = x.reshape(-1, x.shape[-1])
            tensor = self.tensor(rows)
            self.blocks += tensor.fp8.numel()
            self.fp8_blocks += int(tensor.fp8.sum())
            stored = tensor.stored()
            self._last, self._uses = (weakref.ref(x), _mark(x), stored), 0
        stored = self._last[2]
        self._uses += 1
        if self._uses >= self.readers:
            self.forget()
        return stored

    def forget(self) -> None:
        """Drop the activations of the last call."""
        self._last = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "SiteQuantizer":
        return memo.setdefault(id(self), SiteQuantizer(self.settings, self.readers))


def _mark(x: Tensor) -> int | Tensor:
    """A mark that changes when `x` is written to; under inference mode tensors count no writes, so it is a copy."""
    return x.clone() if x.is_inference() else x._version


def _same(mark: int | Tensor, x: Tensor) -> bool:
    if isinstance(mark, Tensor):
        return torch.equal(mark, x)
    return not x.is_inference() and mark == x._version


def quantizers(sites: Sequence[Site], settings: Mapping[str, SiteSettings]) -> dict[str, SiteQuantizer]:
    """A quantizer for every site."""
    return {s.name: SiteQuantizer(settings[s.name], len(s.linears) if len(s.watched) == 1 else 1) for s in sites}
