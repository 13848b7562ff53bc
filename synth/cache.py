"""Results of slow tools, kept by the content of what they were given."""

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..files import write_bytes

__all__ = ["CACHE", "cached", "digest"]

CACHE = Path("out") / "synth"


def digest(content: object) -> str:
    """SHA-256 of anything JSON can hold, or of bytes."""
    raw = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(raw).hexdigest()


def cached(folder: Path, kind: str, key: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """What `make` returns (JSON data) for this key, from `folder` if it was made before.

    A damaged entry is made again; an entry appears whole or not at all.
    """
    path = folder / f"{kind}-{digest(dict(key))[:32]}.json.z"
    try:
        return json.loads(zlib.decompress(path.read_bytes()))
    except (FileNotFoundError, zlib.error, ValueError):
        pass
    value = make()
    write_bytes(path, zlib.compress(json.dumps(value).encode(), 3))
    return value
