"""Changes to structured data: trees of JSON, safetensors files, texts of tokens. Same random state, same change."""

import contextlib
import copy
import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

__all__ = ["bytes_changed", "safetensors_changed", "text_changed", "tree_changed"]

ODD = [
    None, True, False, 0, -1, 1, 2, 15, 16, 17, 0.5, -0.0, 1e308, float("inf"), -47, 48, 127, 128, 255, 256, 10**6,
    (1 << 31) - 1, 1 << 31, 1 << 63, 10**30, "", "x", "\x1b[2J", "a\nb", "\udcff", "nan", "1e999", "../../etc/passwd",
    [], [1], [[1]], {}, {"a": 1}, [1, 2, 3], ["x", "y"], "a" * 5000,
]  # fmt: skip


def tree_changed(tree: Any, chance: random.Random) -> Any:
    """A copy of `tree` (dictionaries, lists, values) in which one to three places are other."""
    tree = copy.deepcopy(tree)
    for _ in range(chance.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            return chance.choice(ODD)
        holder, key = chance.choice(places)
        kind = chance.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[chance.choice(["", "x", "schema", "shape", "\n", key + "x"])] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 3 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            value = holder[key]
            holder[key] = chance.choice([value + 1, value - 1, -value, value * 2, value / 2])
        elif kind == 4:
            other, its = chance.choice(places)
            there = other[its] if isinstance(other, dict) or its < len(other) else 0
            holder[key] = copy.deepcopy(there)
        else:
            holder[key] = copy.deepcopy(chance.choice(ODD))
    return tree


def _places(tree: Any) -> Any:
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in items:
        yield tree, key
        yield from _places(value)


def bytes_changed(data: bytes, chance: random.Random) -> bytes:
    """Some bytes other, missing, or twice."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8])):
        if not changed:
            return bytes(chance.randrange(256) for _ in range(8))
        at = chance.randrange(len(changed))
        kind = chance.randrange(4)
        if kind == 0:
            changed[at] = chance.randrange(256)
        elif kind == 1:
            del changed[at : at + chance.choice([1, 2, 8, 64])]
        elif kind == 2:
            changed[at:at] = changed[at : at + chance.choice([1, 8, 64])]
        else:
            changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)


def text_changed(text: str, chance: random.Random) -> str:
    """Some tokens other, missing, twice, or in each other's place."""
    tokens = re.findall(r"\s+|\w+|[^\w\s]", text)
    for _ in range(chance.choice([1, 1, 2, 5])):
        if not tokens:
            break
        at, other = chance.randrange(len(tokens)), chance.randrange(len(tokens))
        kind = chance.randrange(6)
        if kind == 0:
            del tokens[at]
        elif kind == 1:
            tokens[at], tokens[other] = tokens[other], tokens[at]
        elif kind == 2:
            tokens.insert(at, tokens[other])
        elif kind == 3:
            tokens[at] = str(chance.choice(ODD))
        elif kind == 4:
            tokens[at] = chance.choice([*"{}();,[]=#é", '"', "\n", "\0", "/*", "*/", "\\\n"])
        else:
            begin = chance.randrange(len(tokens))
            tokens[at:at] = tokens[begin : begin + chance.choice([2, 10, 100])]
    return "".join(tokens)


def safetensors_changed(data: bytes, chance: random.Random, seal: Callable[[dict[str, Any], bytes], None]) -> bytes:
    """A safetensors file with another header, other metadata, or other bytes; `seal(header, body)` mends its digests.

    The offsets of a header stay as they are in half of the changes, so that readers get past them.
    """
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    kind = chance.randrange(4)
    if kind == 0:
        header = tree_changed(header, chance)
    elif kind == 1:
        body = bytes_changed(body, chance)
    elif kind == 2 and isinstance(header.get("__metadata__"), dict):
        for name, text in header["__metadata__"].items():
            try:
                header["__metadata__"][name] = json.dumps(tree_changed(json.loads(text), chance))
            except ValueError:
                continue
    else:
        body = bytes(b ^ (chance.randrange(256) if chance.random() < 0.02 else 0) for b in body)
    if isinstance(header, dict):
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            seal(header, body)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    if chance.random() < 0.05:
        text = bytes_changed(text, chance)
    return struct.pack("<Q", len(text) + chance.choice([0] * 19 + [1])) + text + body
