"""One linear layer for the engine: its operands, its registers, and what the golden model says must come out."""

from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor

from ...errors import InputError
from ...formats import BLOCK_SIZE, SELECTOR_MODES
from ...golden.blocks import MixedTensor
from ...golden.gemm import exact_gemm
from ...golden.packing import Packed, pack, unpack
from ...golden.selector import SiteSettings, select
from ...hdl.engine.registers import INPUT_SITE, OUTPUT_FORMATS, OUTPUT_SITE, SITE_STRIDE, register

__all__ = ["Gemm", "field_value"]


@dataclass(frozen=True)
class Gemm:
    """`activations` (M, K) times `weight` (N, K) transposed.

    Attributes:
        weight: packed, as it lies on disk.
        activations: mixed blocks, or float32 or bfloat16 values that the engine quantizes at `settings`.
        settings: of raw activations.
        output: "float32", "bfloat16" or "packed".
        output_settings: of packed results.
        relu: whether negative results become 0.
    """

    weight: Packed
    activations: MixedTensor | Tensor
    _: KW_ONLY
    settings: SiteSettings | None = None
    output: str = "float32"
    output_settings: SiteSettings | None = None
    relu: bool = False
    _cache: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.output not in OUTPUT_FORMATS:
            raise InputError(f"output: {self.output!r}, expected one of {', '.join(OUTPUT_FORMATS)}")
        if self.raw != (self.settings is not None):
            raise InputError("settings: expected one for raw activations and none for packed ones")
        if (self.output == "packed") != (self.output_settings is not None):
            raise InputError("output_settings: expected one for packed results and none for others")
        if self.columns != self.weight.shape[1]:
            raise InputError(f"K: {self.columns} and {self.weight.shape[1]}, expected the same for both operands")

    @property
    def raw(self) -> bool:
        """Whether the activations come unquantized."""
        return isinstance(self.activations, Tensor)

    @property
    def rows(self) -> int:
        """M."""
        return self.activations.shape[0]

    @property
    def columns(self) -> int:
        """K."""
        return self.activations.shape[1]

    @property
    def outputs(self) -> int:
        """N."""
        return self.weight.shape[0]

    def quantized(self) -> MixedTensor:
        """The activations as the lanes see them."""
        if isinstance(self.activations, MixedTensor):
            return self.activations
        assert self.settings is not None
        return _select(self.activations, self.settings)

    @property
    def exponent(self) -> int:
        """Sum of both tensor exponents."""
        if isinstance(self.activations, MixedTensor):
            return self.activations.exponent + self.weight.exponent
        assert self.settings is not None
        return self.settings.exponent + self.weight.exponent

    def expected(self) -> Tensor:
        """The golden results (M, N), float32 or bfloat16 (float32 where they are then packed)."""
        if "expected" not in self._cache:
            dtype = torch.bfloat16 if self.output == "bfloat16" else torch.float32
            result = exact_gemm(self.quantized().stored(), unpack(self.weight).stored(), self.exponent, dtype)
            self._cache["expected"] = result.relu() if self.relu else result
        return self._cache["expected"]

    def expected_packed(self) -> Packed:
        """The golden results of a GEMM whose output is "packed"."""
        assert self.output_settings is not None
        return pack(_select(self.expected(), self.output_settings))

    def register_writes(self) -> list[tuple[int, int]]:
        """The register writes before START, as (address, value)."""
        writes = [("M", self.rows), ("N", self.outputs), ("K", self.columns)]
        format_fields = {
            "output": OUTPUT_FORMATS.index(self.output),
            "raw_input": int(self.raw),
            "relu": int(self.relu),
            "exponent": self.exponent,
        }
        writes.append(("FORMAT", field_value("FORMAT", **format_fields)))
        result = []
        for name, base, settings in (
            ("INPUT_SELECTOR", INPUT_SITE, self.settings),
            ("OUTPUT_SELECTOR", OUTPUT_SITE, self.output_settings),
        ):
            if settings is not None:
                value = field_value(
                    name,
                    significand=settings.threshold.significand,
                    exponent=settings.threshold.exponent,
                    mode=SELECTOR_MODES.index(settings.mode),
                    tensor_exponent=settings.exponent,
                    four_over_six=int(settings.four_over_six),
                )
                writes.append((name, value))
                result += _site_writes(base, settings)
        return result + [(register(name).offset, value) for name, value in writes]


def field_value(name: str, **values: int) -> int:
    """A register's value from its fields'."""
    fields = {f.name: f for f in register(name).fields}
    return sum((value & (1 << fields[n].bits) - 1) << fields[n].low for n, value in values.items())


def _site_writes(base: int, settings: SiteSettings) -> list[tuple[int, int]]:
    words: list[tuple[int, int]] = []
    if settings.static_fp8 is not None:
        words += [(base + SITE_STRIDE * i, int(bit)) for i, bit in enumerate(settings.static_fp8.flatten().tolist())]
    if settings.channel_codes is not None:
        shifted = settings.channel_codes.long().view(-1, 2, 8) << torch.arange(0, 32, 4)
        for i, halves in enumerate(shifted.sum(-1).tolist()):
            words += [(base + SITE_STRIDE * i + 4 * (1 + h), value) for h, value in enumerate(halves)]
    return words


def _select(x: Tensor, settings: SiteSettings) -> MixedTensor:
    return select(x, settings).tensor((x.shape[0], x.shape[1]), settings.exponent)


assert BLOCK_SIZE == 2 * 8
