"""Planted faults: proof that the benches see what they claim to see.

A unit built with `Faults(select)` computes wrongly in the one place that `select` names; built without (as always
outside that proof) every `pick` is its good argument and nothing of this reaches the Verilog.
"""

from amaranth.hdl import Mux, Signal, Value, ValueLike

__all__ = ["LANE_FAULTS", "NO_FAULTS", "SELECTOR_FAULTS", "Faults"]

LANE_FAULTS = (
    "wrong E4M3 bias",
    "product sign dropped",
    "weight block scale missing",
    "mask bit inverted",
    "accumulator one bit short",
    "sticky bit dropped",
    "tie rounds up",
    "bfloat16 rounded twice",
    "NaN not poisoning",
    "block scale limit off by one",
)
SELECTOR_FAULTS = (
    "sticky bit dropped",
    "E2M1 tie rounds up",
    "E4M3 tie rounds down",
    "block scale tie rounds up",
    "score equal to threshold is FP8",
    "error cut to two bits",
    "infinity as zero",
    "negative zero emitted",
    "NaN block left in FP4",
    "tensor exponent negated",
    "equal score takes the larger scale",
    "larger scale beyond 105",
    "bits below a quarter dropped",
)


class Faults:
    """Chooses between right and wrong by a select input: 0 is right, n is the n-th name of `names`."""

    def __init__(self, names: tuple[str, ...] = (), select: Signal | None = None):
        self.names = names
        self.select = select

    def pick(self, name: str, good: ValueLike, bad: ValueLike) -> Value:
        """`good`, or `bad` while the fault called `name` is selected."""
        if self.select is None:
            return Value.cast(good)
        return Mux(self.select == self.names.index(name) + 1, bad, good)


NO_FAULTS = Faults()
