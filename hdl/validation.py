"""Checks of parameters, for every configuration."""

from collections.abc import Sequence

from ..errors import InputError

__all__ = ["check", "check_datapath", "check_multiple", "check_one_of", "check_selector_depth", "whole"]


def check(kind: str, name: str, value: object, allowed: bool, expected: str) -> None:
    """Raise InputError that names the parameter, its value and what was expected, unless `allowed`."""
    if not allowed:
        raise InputError(f"{kind} {name}: {value!r}, expected {expected}")


def whole(value: object, limit: int) -> bool:
    """Whether `value` is an integer from 0 to `limit` - 1, and not a bool or a float that looks like one."""
    return type(value) is int and 0 <= value < limit


def check_one_of(kind: str, name: str, value: object, allowed: Sequence[int]) -> None:
    """Check a number that is one of a few, ascending."""
    expected = ", ".join(map(str, allowed[:-1]))
    check(kind, name, value, type(value) is int and value in allowed, f"{expected} or {allowed[-1]}")


def check_multiple(kind: str, name: str, value: object, of: int, limit: int) -> None:
    """Check a length that is a multiple of `of`, from `of` to `limit`."""
    legal = type(value) is int and 0 < value <= limit and value % of == 0
    check(kind, name, value, legal, f"a multiple of {of} from {of} to {limit}")


def check_datapath(kind: str, formats: str, sharing: str, pipeline: int) -> None:
    """Check the parameters that every unit with a dot product has."""
    check(kind, "formats", formats, formats in ("mixed", "fp8"), "mixed or fp8")
    check(kind, "sharing", sharing, sharing in ("split", "merged"), "split or merged")
    deepest = 5 if formats == "mixed" else 4
    check(kind, "pipeline", pipeline, whole(pipeline, deepest + 1), f"0 to {deepest}")


def check_selector_depth(kind: str, name: str, depth: int) -> None:
    """Check how many registers a selector has before its output register."""
    check(kind, name, depth, whole(depth, 9), "0 to 8")
