"""Less memory for more time: activations are recomputed in the backward pass."""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["checkpointed"]


def checkpointed(model: Any) -> None:
    """Trade time for memory: recompute activations in the backward pass, without switching dropout on."""
    # transformers 5 renamed it on the way.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for module in model.modules():
        names = {kind.__name__ for kind in type(module).__mro__}
        if getattr(module, "gradient_checkpointing", False) or "GradientCheckpointingLayer" in names:
            module.training = True  # of this module alone: only then it checkpoints
            module.forward = _without_dropout(module.forward)


def _without_dropout(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward`, in which the functions that some layers call directly do not drop anything."""

    @functools.wraps(forward)
    def calm(*args: Any, **kwargs: Any) -> Any:
        dropout = nn.functional.dropout
        nn.functional.dropout = lambda x, *_, **__: x
        try:
            return forward(*args, **kwargs)
        finally:
            nn.functional.dropout = dropout

    return calm
