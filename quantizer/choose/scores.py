"""Impact scores: what a weight block costs the loss if it is stored in FP4 (docs/numerics.md section 5)."""

from torch import Tensor

from ...golden.blocks import stored_fp4
from ...golden.clipping import tree_sum
from ...golden.codec import decode_e4m3, encode_e4m3
from ...golden.compiled import weight_error_sums

__all__ = ["weight_impacts"]


def weight_impacts(blocks: Tensor, scales: Tensor, importance: Tensor, exponent: int, *, fast: bool = False) -> Tensor:
    """Sums (n,), float64, of `importance * (Q4 - Q8)**2` in real units, of blocks (n, 16) in stored units.

    `scales` (n,) are FP4 scale codes, `importance` (n, 16) weighs each element's squared error.
    """
    if fast:
        sums = weight_error_sums(blocks, decode_e4m3(scales), importance)
    else:
        _, q4 = stored_fp4(blocks, scales)
        sums = tree_sum(importance.double() * (q4 - decode_e4m3(encode_e4m3(blocks))).double().square())
    return sums * 4.0**exponent
