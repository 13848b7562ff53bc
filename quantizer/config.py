"""The settings of a quantization, in one immutable object."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import InputError
from ..formats import BLOCK_SIZE, FP4_BLOCK_BITS
from .prices import Prices

__all__ = ["ACTIVATION_MODES", "DEFAULT_IGNORE", "POLICIES", "FGMPConfig", "check_choice", "check_fraction"]

DEFAULT_IGNORE = ("lm_head", "*.lm_head", "*.gate", "*.router", "*.router.*", "*.shared_expert_gate")
"""Never quantized unless asked for: the output embedding, and the routers of mixture-of-experts models."""

POLICIES = ("fisher", "quantization-error", "output-error", "random")
"""How a block is scored: the paper's Fisher information, or a baseline that it compares with."""

ACTIVATION_MODES = ("dynamic", "static", "none")
ROUNDINGS = ("nearest", "gptq")
CHOICES = ("fraction", "energy")
PAPER: dict[str, Any] = {"choice": "fraction", "rounding": "nearest", "permutation": False}
"""Where the paper's method differs from the defaults."""

BUDGETS = ("energy", "pj", "bits")
_CHOICES = {
    "policy": POLICIES,
    "threshold": ("global", "per-layer"),
    "sensitivity": ("fisher", "factored"),
    "activations": ACTIVATION_MODES,
    "rounding": ROUNDINGS,
    "choice": CHOICES,
}


@dataclass(frozen=True, kw_only=True)
class FGMPConfig:
    """How to quantize a model; the defaults do best on held-out text. `FGMPConfig.paper()` is the paper's method.

    Attributes:
        fp4_weights: fraction of the weight blocks that become FP4; 0 is all FP8, 1 all NVFP4.
        fp4_activations: the same for activation blocks, met on the calibration text.
        choice: how blocks are divided between FP4 and FP8: "energy", where FP8 saves most loss for its energy, weights
            and activations together; or "fraction", the paper's: a threshold for each, so that the fractions are met.
            Where it cannot be by energy (other policies than "fisher", thresholds per layer, weights alone, all FP4 or
            all FP8 of either), it is by fraction.
        budget: of a choice by energy: "energy=X" of what FP8-only hardware takes, "pj=X" per block pair, "bits=X" per
            weight, or several of these with commas between; by default the energy and bits that a choice by the
            fractions would take.
        prices: what a block pair takes, as `fgmp energy` measures it; by default, on SkyWater 130 nm.
        permutation: put delicate channels side by side, in all parameters that share them; the function stays.
        policy: what a block's score is: "fisher" (paper section 3), or the paper's baselines "quantization-error",
            "output-error" (weighted by the other operand's mean square) and "random".
        threshold: one "global" threshold for all weights and one for all activations, or one "per-layer".
        clip: choose the FP4 block scales of weights by sensitivity instead of amax / 6.
        rounding: of weights: "gptq", column by column, where each makes up for the errors of those before it, or
            "nearest" (as the paper).
        sensitivity: of weights: "fisher", the mean squared gradient of each, or "factored", the product of its output's
            mean squared gradient and its input's mean square (a row and a column instead of a matrix).
        activations: "dynamic" (the selector decides block by block), "static" (one precision per block column, fixed
            at calibration) or "none" (activations are not quantized).
        four_over_six: give an activation block the better of the scales amax / 6 and amax / 4, for hardware
            that is built with it.
        channel_codes: weigh the selector's score by a 4-bit power of two per input channel.
        samples: windows of calibration text.
        window: tokens in a window.
        threshold_samples: how many of the samples set the activation threshold.
        seed: of the policy "random".
        ignore: globs of names of linears that stay as they are.
    """

    fp4_weights: float = 0.7
    fp4_activations: float = 0.7
    choice: str = "energy"
    budget: str | None = None
    prices: Prices | None = None
    permutation: bool = True
    policy: str = "fisher"
    threshold: str = "global"
    clip: bool = True
    rounding: str = "gptq"
    sensitivity: str = "fisher"
    activations: str = "dynamic"
    four_over_six: bool = False
    channel_codes: bool = False
    samples: int = 128
    window: int = 512
    threshold_samples: int = 16
    seed: int = 0
    ignore: tuple[str, ...] = DEFAULT_IGNORE

    def __post_init__(self) -> None:
        check_fraction(self.fp4_weights, "fp4_weights")
        check_fraction(self.fp4_activations, "fp4_activations")
        for name, allowed in _CHOICES.items():
            check_choice(name, getattr(self, name), allowed)
        for name, minimum in (("samples", 1), ("window", 2), ("threshold_samples", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or not minimum <= value < 1 << 63:
                raise InputError(f"{name}: {value}, expected a whole number from {minimum} to {(1 << 63) - 1}")
        given: object = self.ignore
        if isinstance(given, list):
            object.__setattr__(self, "ignore", tuple(given))
        if not isinstance(self.ignore, tuple) or not all(isinstance(glob, str) for glob in self.ignore):
            raise InputError(f"ignore: {self.ignore}, expected a tuple of globs")
        self._check_budget()

    def _check_budget(self) -> None:
        for name, kind in (("budget", str), ("prices", Prices), ("permutation", bool)):
            given = getattr(self, name)
            if not isinstance(given, kind) and (given is not None or name == "permutation"):
                raise InputError(f"{name}: {given!r}, expected {kind.__name__}")
        if self.budget is not None:
            prices = self.prices or Prices()
            least = float(prices.table()[0, 0])
            all_fp4 = {"pj": least, "energy": least / prices.fp8_only, "bits": FP4_BLOCK_BITS / BLOCK_SIZE}
            for of, value in self.limits.items():
                if value < all_fp4[of]:
                    wanted = f"{of}={all_fp4[of]:.4g}, which all FP4 takes"
                    raise InputError(f"budget: {self.budget}, expected at least {wanted}")
            if not self.joint:
                raise InputError(
                    f"budget: {self.budget}, expected none where blocks are not chosen by energy (choice energy, "
                    "policy fisher, threshold global, activations dynamic or static)"
                )

    @classmethod
    def paper(cls, **values: Any) -> "FGMPConfig":
        """The method of arXiv 2504.14152, with `values` of it changed."""
        return cls(**{**PAPER, **values})

    @property
    def limits(self) -> dict[str, float]:
        """The budget: how much of "energy", "pj" or "bits"; nothing where the fractions stand for it."""
        found: dict[str, float] = {}
        for text in () if self.budget is None else self.budget.split(","):
            kind, _, number = text.partition("=")
            try:
                value = float(number)
            except ValueError:
                value = -1.0
            if kind not in BUDGETS or kind in found or not 0 < value < 1e9:
                expected = ", ".join(f"{k}=NUMBER" for k in BUDGETS)
                raise InputError(f"budget: {self.budget!r}, expected {expected}, or several with commas between")
            found[kind] = value
        return found

    @property
    def joint(self) -> bool:
        """Whether weights and activations are chosen together, by what FP8 costs in energy."""
        able = self.policy == "fisher" and self.threshold == "global" and self.activations != "none"
        mixed = 0 < self.fp4_weights < 1 and 0 < self.fp4_activations < 1
        return self.choice == "energy" and able and (mixed or self.budget is not None)

    @property
    def clips(self) -> bool:
        """Whether FP4 scales of weights are chosen by sensitivity."""
        return self.clip and (self.joint or self.fp4_weights > 0)

    @property
    def uniform(self) -> bool:
        """Whether every block has the same format, so that nothing needs to be scored."""
        return not self.joint and {self.fp4_weights, self.fp4_activations} <= {0, 1}

    @property
    def needs_gradients(self) -> bool:
        """Whether calibration must run backward."""
        return self.clips or (self.policy == "fisher" and not self.uniform) or self.channel_codes

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        prices = None if self.prices is None else self.prices.as_dict()
        return {**asdict(self), "ignore": list(self.ignore), "prices": prices}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FGMPConfig":
        """The inverse of `as_dict`. Raises InputError for unknown keys and wrong values."""
        known = {f.name for f in fields(cls)}
        for key in values:
            if key not in known:
                raise InputError(f"FGMP configuration: unknown key {key!r}, expected {', '.join(sorted(known))}")
        given = dict(values)
        if "ignore" in given:
            given["ignore"] = tuple(given["ignore"])
        if given.get("prices") is not None:
            given["prices"] = Prices.from_dict(given["prices"])
        # Folders that do not say were made when there was nothing but the paper's method.
        return cls(**{**PAPER, **given})


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise InputError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise InputError(f"{name}: {value!r}, expected one of {', '.join(allowed)}")


def check_fraction(fraction: float, name: str = "FP4 fraction") -> float:
    """Return `fraction` if it lies in [0, 1], else raise InputError."""
    if not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
        raise InputError(f"{name}: {fraction}, expected a number from 0 to 1")
    return fraction
