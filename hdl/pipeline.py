"""Pipeline cuts and the stream handshake shared by the units: one `advance` signal moves everything at once."""

from collections.abc import Sequence
from functools import reduce
from operator import and_
from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value, ValueLike

__all__ = ["Pipeline", "sticky", "wire"]


def wire(m: Module, name: str, value: ValueLike) -> Signal:
    """`value` as a named combinational signal: what is used more than once must be one, or it is built again."""
    cast = Value.cast(value)
    signal = Signal(cast.shape(), name=name)
    m.d.comb += signal.eq(cast)
    return signal


def sticky(m: Module, flag: Signal, event: Value, clear: Value) -> None:
    """`flag` is set by `event` and cleared by `clear`; an event in the same cycle wins."""
    m.d.sync += flag.eq(event | (flag & ~clear))


class Pipeline:
    """Registers values where the configuration asks for a cut, and passes them through elsewhere.

    A value that skips a cut must still be passed through it, or it would arrive early. Where `valid` says what goes in,
    registers of data move only with it (an idle pipeline's clock can be gated), and `valid` becomes what comes out.
    `busy` says that something is inside.
    """

    def __init__(self, m: Module, advance: Value, cuts: Sequence[str] | range, valid: Value | None = None):
        self._m = m
        self._advance = advance
        self._cuts = cuts
        self._moving: dict[object, Value] = {}
        self.valid = valid
        self.busy: Value = Const(0, 1)
        if valid is not None:
            before = self._stages("valid", valid)
            self.busy = Cat(before[1:]).any()
            self.valid = before.pop()
            self._moving = dict(zip(cuts, before, strict=True))

    def step(
        self, name: str, before: SimpleNamespace | None = None, /, *, enable: Value | None = None, **values: Any
    ) -> SimpleNamespace:
        """All of `before` and `values` behind the cut called `name`, by the same names; lists and tuples stay such.

        Data registers have no reset: what a block that is not there computes is never looked at. While `enable` is low,
        a register keeps what it has (and its clock may be gated); without registers, nothing is kept. Whatever nothing
        behind the cut looks at gets no register.
        """
        conditions = [c for c in (self._advance, enable, self._moving.get(name)) if c is not None]

        def behind(item: Any, label: str) -> Any:
            if isinstance(item, list):
                return [behind(part, f"{label}_{index}") for index, part in enumerate(item)]
            if isinstance(item, tuple):
                fields = getattr(item, "_fields", range(len(item)))
                return type(item)(*(behind(part, f"{label}_{key}") for key, part in zip(fields, item, strict=True)))
            value = Value.cast(item)
            signal = Signal(value.shape(), name=f"{name}_{label}", reset_less=name in self._cuts)
            if name in self._cuts:
                with self._m.If(reduce(and_, conditions)):
                    self._m.d.sync += signal.eq(value)
            else:
                self._m.d.comb += signal.eq(value)
            return signal

        items = {**(vars(before) if before is not None else {}), **values}
        return SimpleNamespace(**{key: behind(item, key) for key, item in items.items()})

    def delayed(self, name: str, value: ValueLike) -> Value:
        """`value`, called `name`, delayed by the number of cuts and cleared by reset: for control bits."""
        return self._stages(name, value)[-1]

    def _stages(self, name: str, value: ValueLike) -> list[Value]:
        """`value` before the first cut, between the cuts and behind the last."""
        stages = [Value.cast(value)]
        for index in range(len(self._cuts)):
            following = Signal(stages[-1].shape(), name=f"{name}_{index}")
            with self._m.If(self._advance):
                self._m.d.sync += following.eq(stages[-1])
            stages.append(following)
        return stages
