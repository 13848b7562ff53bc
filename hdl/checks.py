"""What every configuration checks its parameters with."""

from ..errors import InputError

__all__ = ["check", "whole"]


def check(kind: str, name: str, value: object, allowed: bool, expected: str) -> None:
    """Raise InputError that names the parameter, its value and what was expected, unless `allowed`."""
    if not allowed:
        raise InputError(f"{kind} {name}: {value!r}, expected {expected}")


def whole(value: object, limit: int) -> bool:
    """Whether `value` is an integer from 0 to `limit` - 1, and not a bool or a float that looks like one."""
    return type(value) is int and 0 <= value < limit
