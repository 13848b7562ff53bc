"""Bits of many streams at once: rows of 64-bit words, every bit of a word an independent stream."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["ONES", "Words", "pack_bits", "unpack_bits"]

Words = NDArray[np.uint64]
ONES = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


def pack_bits(bits: NDArray[np.bool_]) -> Words:
    """(..., streams) of bits to (..., words); stream i, of a multiple of 64, is bit i % 64 of word i // 64."""
    packed = np.packbits(bits, axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view("<u8").astype(np.uint64, copy=False)


def unpack_bits(words: Words) -> NDArray[np.bool_]:
    """The inverse of `pack_bits`."""
    raw = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    return np.unpackbits(raw, axis=-1, bitorder="little").astype(np.bool_)
