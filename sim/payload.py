"""Packed stream payloads: named fields at bit offsets, for many beats at once."""

from collections.abc import Mapping

import numpy as np

from ..formats import BLOCK_SIZE
from ..golden.blocks import Blocks
from ..hdl.design import Port

__all__ = ["block_fields", "field_values", "pack_payloads"]


def pack_payloads(port: Port, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Bytes (n, ceil(width / 8)) of n payloads, little-endian.

    A field's values are integers (n,), of which the low bits count, or bytes (n, width / 8).
    """
    assert set(values) == set(port.fields), sorted(set(values) ^ set(port.fields))
    count = len(next(iter(values.values())))
    bits = np.zeros((count, port.width), np.uint8)
    for name, (offset, width) in port.fields.items():
        value = np.asarray(values[name])
        raw = value if value.ndim == 2 else value.astype("<i8")[:, None].view(np.uint8)
        bits[:, offset : offset + width] = np.unpackbits(raw, axis=1, bitorder="little")[:, :width]
    return np.packbits(bits, axis=1, bitorder="little")


def block_fields(
    blocks: Blocks, prefix: str = "", *, formats: str = "mixed", unused: np.random.Generator | None = None
) -> dict[str, np.ndarray]:
    """The fields of blocks (n,) at a port, named after `prefix`; ports of formats "fp8" have the codes alone.

    What a port does not read, the second half of the codes of an FP4 block, is drawn from `unused`, or 0.
    """
    codes = blocks.payload().numpy().copy()
    if unused is not None:
        narrow = ~blocks.fp8.numpy()
        noise = unused.choice(np.array([0x7F, 0xFF, 0x7E, 0x00, 0xA5], np.uint8), (int(narrow.sum()), BLOCK_SIZE // 2))
        codes[narrow, BLOCK_SIZE // 2 :] = noise
    fields = {f"{prefix}codes": codes}
    if formats == "mixed":
        fields |= {f"{prefix}scale": blocks.scales.numpy(), f"{prefix}fp8": blocks.fp8.numpy()}
    return fields


def field_values(port: Port, payload: int) -> dict[str, int]:
    """The fields of one payload, unsigned."""
    return {name: payload >> offset & (1 << width) - 1 for name, (offset, width) in port.fields.items()}
