"""What rounding with error compensation needs to know of a linear's input (docs/numerics.md section 5)."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...formats import BLOCK_SIZE

__all__ = ["error_factor", "retained"]

_DAMPING = 0.01
"""Added to the diagonal, as a part of its mean."""


def error_factor(moments: Tensor) -> Tensor:
    """The factor U, float32 (K', K'), upper triangular, by which an error of one column is made up for in the others.

    `moments` (K, K) are the mean products of input channels; `U^T U` is the inverse of these, damped. K' is K up to
    whole blocks. Channels that are always zero have no part in it.
    """
    padding = -len(moments) % BLOCK_SIZE
    damped = pad(moments.double(), (0, padding, 0, padding))
    diagonal = damped.diagonal()  # a view
    diagonal.copy_(_damped(diagonal))
    lower = torch.linalg.cholesky(damped)
    del damped, diagonal  # of a wide site each is as large as a block of the model
    inverse = torch.cholesky_inverse(lower)
    del lower
    return torch.linalg.cholesky(inverse, upper=True).float()


def retained(factor: Tensor, squares: Tensor) -> Tensor:
    """float32 (K,): the share of a column's squared error that the columns behind it cannot make up for.

    `squares` (K,) are the input channels' mean squares.
    """
    left = factor.diagonal()[: len(squares)].double().square().reciprocal()
    return (left / _damped(squares.double())).float()


def _damped(diagonal: Tensor) -> Tensor:
    """Of the moments; channels that are silent count as 1."""
    silent = diagonal == 0
    loud = max(int((~silent).sum()), 1)
    return torch.where(silent, 1.0, diagonal + _DAMPING * diagonal.sum() / loud)
