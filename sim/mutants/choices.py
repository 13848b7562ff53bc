"""What rewritten hardware descriptions call: the right value, or a wrong one while a mutant is selected.

A place that is built several times, as in sixteen multipliers, is wrong in all of them at once.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueCastable

__all__ = ["SELECT", "SELECT_BITS", "Choices", "binary", "clocked", "combined", "compared", "condition", "inverted",
           "joined", "module", "multiplexed", "part", "reduced", "use"]  # fmt: skip

SELECT = "fault_select"
SELECT_BITS = 16

_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "&": operator.and_, "|": operator.or_,
    "^": operator.xor, "<<": operator.lshift, ">>": operator.rshift, "<": operator.lt, "<=": operator.le,
    ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_OTHERS = {"+": "-", "-": "+", "*": "+", "&": "|", "|": "&", "^": "|", "<": "<=", "<=": "<", ">": ">=", ">=": ">",
           "==": "!=", "!=": "=="}  # fmt: skip
_REDUCERS: dict[Any, Callable[[Any, Any], Any]] = {
    operator.or_: operator.and_, operator.and_: operator.or_, operator.add: operator.sub,
}  # fmt: skip


class Choices:
    """Numbers what can be wrong, in the order in which it is built; only those `wanted` are built.

    Attributes:
        select: the number of the mutant that is wrong, 0 for none.
        lines: what each does, by number.
    """

    def __init__(self, wanted: Sequence[int]):
        self.select = Signal(SELECT_BITS, name=SELECT)
        self.lines: list[str] = []
        self._beside: Any = None
        self._numbers: dict[tuple[str, str], int] = {}
        self._selected = {number: self.select == Const(index, SELECT_BITS) for index, number in enumerate(wanted, 1)}

    def among(self, place: str, good: Value, wrong: Iterable[tuple[str, Any]]) -> Value:
        """`good`, or one of the `wrong` values, each with what it is, while its number is selected."""
        shape, value = good.shape(), good
        for change, other in wrong:
            number = self._numbers.setdefault((place, change), len(self._numbers) + 1)
            if number > len(self.lines):
                self.lines.append(f"{place} -> {change}")
            if number in self._selected:
                value = Mux(self._selected[number], _like(other, shape), value)
        return value if value is good else self._shared(value)

    def module(self, made: Module) -> Module:
        """A module that is being described: what is chosen from now on is chosen beside it."""
        self._beside = made.submodules.choices = Module()
        return made

    def _shared(self, value: Value) -> Signal:
        """Once: an expression would be built again wherever it is used, and with it all that it is made of."""
        signal = Signal(value.shape(), name="chosen")
        self._beside.d.comb += signal.eq(value)
        return signal


_choices = Choices([])


def use(choices: Choices) -> None:
    """What is built from now on is built with `choices`."""
    global _choices  # noqa: PLW0603
    _choices = choices


def module(made: Module) -> Module:
    """`Module()`."""
    return _choices.module(made)


def binary(place: str, symbol: str, left: Any, right: Any) -> Any:
    """`left` `symbol` `right`, of numbers or values."""
    good = _OPERATIONS[symbol](left, right)
    return _choices.among(place, good, _wrong_binary(symbol, left, right)) if isinstance(good, Value) else good


def _wrong_binary(symbol: str, left: Any, right: Any) -> Iterator[tuple[str, Any]]:
    if symbol in _OTHERS:
        yield _OTHERS[symbol], _OPERATIONS[_OTHERS[symbol]](left, right)
        yield "left", left
        if symbol not in "-*":
            yield "right", right
        if symbol in "+-" and isinstance(right, int):
            yield "one more", _OPERATIONS[symbol](left, right + 1)
        elif symbol in "+-" and isinstance(left, int):
            yield "one more", _OPERATIONS[symbol](left + 1, right)
    elif isinstance(right, int):
        yield "one place more", _OPERATIONS[symbol](left, right + 1)
        if right:
            yield "one place less", _OPERATIONS[symbol](left, right - 1)
    else:
        yield "not shifted", left
        yield "one place more", _OPERATIONS[symbol](_OPERATIONS[symbol](left, right), 1)


def inverted(place: str, operand: Any) -> Any:
    """`~operand`."""
    good = ~operand
    return _choices.among(place, good, [("not inverted", operand)]) if isinstance(good, Value) else good


def compared(place: str, symbol: str, left: Any, right: Any) -> Any:
    """`left` `symbol` `right`, of numbers or values."""
    good = _OPERATIONS[symbol](left, right)
    if not isinstance(good, Value):
        return good
    wrong = [(_OTHERS[symbol], _OPERATIONS[_OTHERS[symbol]](left, right))]
    if isinstance(right, int):
        for step in (-1, 1):
            wrong.append((f"{symbol} {right + step}", _OPERATIONS[symbol](left, right + step)))
    return _choices.among(place, good, wrong)


def part(place: str, base: Any, index: Any) -> Any:
    """`base[index]`, of a list, a layout or a value."""
    good = base[index]
    if not isinstance(base, Value) or not isinstance(good, Value) or not len(good):
        return good
    start, stop, step = index.indices(len(base)) if isinstance(index, slice) else (index % len(base), None, 1)
    if step != 1:
        return good
    stop = start + 1 if stop is None else stop
    wrong = [("one bit lower", base[start - 1 : stop - 1])] if start else []
    if stop < len(base):
        wrong.append(("one bit higher", base[start + 1 : stop + 1]))
    return _choices.among(place, good, wrong)


def reduced(place: str, kind: str, operand: Any) -> Any:
    """`operand.any()` or `.all()`."""
    good = getattr(operand, kind)()
    if not isinstance(good, Value) or not isinstance(operand, Value) or len(operand) < 2:
        return good
    other = "all" if kind == "any" else "any"
    wrong = [(other, getattr(operand, other)()), ("without the lowest", getattr(operand[1:], kind)())]
    return _choices.among(place, good, [*wrong, ("without the highest", getattr(operand[:-1], kind)())])


def multiplexed(place: str, condition: Any, first: Any, second: Any) -> Value:
    """`Mux(condition, first, second)`."""
    wrong = [("swapped", Mux(condition, second, first)), ("first", first), ("second", second)]
    return _choices.among(place, Mux(condition, first, second), wrong)


def condition(place: str, value: Any) -> Value:
    """What stands in `m.If` or `m.Elif`."""
    cast = Value.cast(value)
    return _choices.among(place, cast.bool(), [("always", Const(1)), ("never", Const(0))])


def joined(place: str, function: Any, items: Any, *first: Any) -> Any:
    """`functools.reduce`, of numbers or values."""
    listed = list(items)
    good = reduce(function, listed, *first)
    if function not in _REDUCERS or not isinstance(good, Value) or len(listed) < 2:
        return good
    other = _REDUCERS[function]
    wrong = [(other.__name__, reduce(other, listed, *first)),
             ("without the first", reduce(function, listed[1:], *first)),
             ("without the last", reduce(function, listed[:-1], *first))]  # fmt: skip
    return _choices.among(place, good, wrong)


def clocked(place: str, target: Any, value: Any) -> Any:
    """`target.eq(value)` in a clock domain."""
    return _assigned(place, target, value, lambda to, _: ("never changes", to))


def combined(place: str, target: Any, value: Any) -> Any:
    """`target.eq(value)` outside of clock domains."""
    return _assigned(place, target, value, lambda _, cast: ("1", Const(1)) if _is_zero(cast) else ("0", Const(0)))


def _assigned(place: str, target: Any, value: Any, wrong: Callable[[Value, Value], tuple[str, Value]]) -> Any:
    if not isinstance(target, Value | ValueCastable):
        return target.eq(value)
    cast, to = Value.cast(value), Value.cast(target)
    return to.eq(_choices.among(place, _extended(cast, to), [wrong(to, cast)]))


def _is_zero(value: Value) -> bool:
    return isinstance(value, Const) and not value.value


def _extended(value: Value, target: Value) -> Value:
    return value if len(value) >= len(target) else _like(value, target.shape())


def _like(value: Any, shape: Any) -> Value:
    """`value` in a given shape: cut or extended."""
    cast = Value.cast(value)
    missing = shape.width - len(cast)
    if missing > 0:
        filler = cast[-1].replicate(missing) if cast.shape().signed and len(cast) else Const(0, missing)
        cast = Cat(cast, filler)
    cast = cast[: shape.width]
    return cast.as_signed() if shape.signed else cast
