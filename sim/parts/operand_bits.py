"""Blocks as bits at the ports of the hardware: as they are stored, and as an engine's lanes take activations."""

import numpy as np
from numpy.typing import NDArray

from ...formats import E2M1, E4M3
from ...golden.blocks import Blocks
from ...hdl.operands import stored_block
from ..payload import block_fields

__all__ = ["Bits", "activation_bits", "e4m3_parts", "held", "integer_bits", "stored_bits", "stored_held"]

Bits = NDArray[np.bool_]

_HALF = 64
_BUS = {"significands": 4, "positives": 1, "negatives": 1, "triples": 6}


def integer_bits(values: NDArray[np.integer], width: int) -> Bits:
    """(...) integers to (..., width), two's complement."""
    return (values[..., None] >> np.minimum(np.arange(width), 63) & 1).astype(np.bool_)


def stored_bits(blocks: Blocks, formats: str) -> Bits:
    """(..., bits) of stored blocks: codes, then scale and precision bit where there are any."""
    fields = block_fields(blocks, formats=formats)
    octets = [field if name == "codes" else field[..., None].astype(np.uint8) for name, field in fields.items()]
    bits = np.unpackbits(np.concatenate(octets, axis=-1), axis=-1, bitorder="little").astype(np.bool_)
    return bits[..., : stored_block(formats).size]


def held(bits: Bits, live: NDArray[np.bool_]) -> Bits:
    """(streams, n, bits), each the latest that was `live` (streams, n); zero before the first."""
    latest = np.maximum.accumulate(np.where(live, np.arange(bits.shape[1]), -1), axis=1)
    kept = np.take_along_axis(bits, np.maximum(latest, 0)[..., None], axis=1)
    return np.where(latest[..., None] >= 0, kept, False)


def stored_held(blocks: Blocks, formats: str) -> Bits:
    """(streams, n, bits) of stored blocks (streams, n) one after the other: what an FP4 block has no use for stays."""
    bits = stored_bits(blocks, formats)
    if formats == "mixed":
        fp8 = blocks.fp8.numpy()
        bits[..., _HALF : 2 * _HALF] = held(bits[..., _HALF : 2 * _HALF], fp8)
        scale = slice(2 * _HALF, 2 * _HALF + 8)
        bits[..., scale] = held(bits[..., scale], ~fp8)
    return bits


def e4m3_parts() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Significand of four bits and shift of each magnitude code of E4M3, NaN last: 0, with the largest shift."""
    units = (np.array(E4M3.magnitudes) / E4M3.magnitudes[1]).astype(np.int64)
    shift = np.maximum(np.floor(np.log2(np.maximum(units, 1))).astype(np.int64) - E4M3.mantissa_bits, 0)
    return np.append(units >> shift, 0), np.append(shift, shift[-1])


def activation_bits(blocks: Blocks, formats: str) -> dict[str, Bits]:
    """(streams, n, bits) of decoded activations (streams, n), by the name of the port's member.

    The bus of the other precision keeps what it has. NaN must not be among them.
    """
    codes = blocks.codes.numpy().astype(np.int64)
    significands, shifts = e4m3_parts()
    magnitude = np.minimum(codes & 0x7F, len(significands) - 1)
    fp8 = np.ones(codes.shape[:2], dtype=np.bool_) if formats == "fp8" else blocks.fp8.numpy()
    wide = _bus(significands[magnitude], codes >> 7)
    wide["exponents"] = _packed(shifts[magnitude] + 1, 4)
    found = {name: held(bits, fp8) for name, bits in wide.items()}
    found["nan"] = np.zeros((*fp8.shape, 1), dtype=np.bool_)
    if formats == "fp8":
        return found
    halves = (2 * np.array(E2M1.magnitudes)).astype(np.int64)
    narrow = _bus(halves[codes & 7], codes >> 3 & 1)
    found |= {f"narrow_{name}": held(bits, ~fp8) for name, bits in narrow.items()}
    scale = np.minimum(blocks.scales.numpy().astype(np.int64), len(significands) - 1)
    found["scale"] = held(integer_bits(significands[scale], 4), ~fp8)
    found["shift"] = held(integer_bits(shifts[scale], 4), ~fp8)
    return found | {"fp8": fp8[..., None], "illegal": found["nan"]}


def _bus(significands: NDArray[np.int64], signs: NDArray[np.int64]) -> dict[str, Bits]:
    nonzero = (significands > 0).astype(np.int64)
    values = (significands, (1 - signs) * nonzero, signs * nonzero, 3 * significands)
    return {name: _packed(value, width) for (name, width), value in zip(_BUS.items(), values, strict=True)}


def _packed(values: NDArray[np.int64], width: int) -> Bits:
    """(..., 16) integers to (..., 16 * width), element 0 in the low bits."""
    return integer_bits(values, width).reshape(*values.shape[:-1], -1)
