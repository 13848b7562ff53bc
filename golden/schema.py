"""Untrusted JSON: parsed and checked against a schema before anything is made of it, with errors of one line."""

import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..errors import InputError
from ..formats import TENSOR_EXPONENT_LIMIT

__all__ = ["Digest", "Exponent", "Name", "Size", "Strict", "json_object", "printable", "validated"]

Name = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$")]
"""A name that can be printed: no control characters."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Exponent = Annotated[int, Field(ge=-TENSOR_EXPONENT_LIMIT, le=TENSOR_EXPONENT_LIMIT)]
Size = Annotated[int, Field(ge=1, lt=1 << 31)]

_SHOWN = 80
_Value = TypeVar("_Value")


class Strict(BaseModel):
    """A JSON object with these keys and no others, whose values are of just these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def validated(kind: type[_Value], text: str | bytes, where: str) -> _Value:
    """`text` as a `kind`. Raises InputError, naming `where` and the first key that is wrong."""
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = "".join(f".{printable(str(part))}" for part in first["loc"])
        given = "" if first["type"] in ("json_invalid", "missing") else f" {printable(repr(first['input']))},"
        raise InputError(f"{where}{':' if key else ''} {key[1:]}:{given} {printable(first['msg'], 200)}") from None


def json_object(text: str | bytes, fail: Callable[[str], InputError]) -> dict[str, Any]:
    """The JSON object in `text`; raises what `fail` makes of the reason if it is something else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise fail(f"not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(value, dict):
        raise fail(f"a {type(value).__name__}")
    return value


def printable(text: str, limit: int = _SHOWN) -> str:
    """One printable line of limited length."""
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= limit else f"{text[:limit]}..."
