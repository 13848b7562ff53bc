"""Less memory for more time: activations are recomputed in the backward pass."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["See", "again", "checkpointed", "on_gradient", "recomputing"]

See = Callable[[Tensor], None]

_partial: dict[int, list[See]] | None = None


@contextmanager
def again(partial: Sequence[Tensor]) -> Iterator[list[list[See]]]:
    """Within it, what modules compute was computed before.

    Of the tensors `partial`, modules see a part of the gradient only: gives what `on_gradient` asked for each, for the
    caller to call.
    """
    global _partial  # noqa: PLW0603 (one model runs at a time)
    asked: list[list[See]] = [[] for _ in partial]
    _partial = {id(x): own for x, own in zip(partial, asked, strict=True)}
    try:
        yield asked
    finally:
        _partial = None


def recomputing() -> bool:
    """Whether modules are called once more for the backward pass, so that whoever counts should not."""
    return _partial is not None or torch._C._current_graph_task_id() != -1


def on_gradient(x: Tensor, see: See) -> None:
    """Have `see` called with the whole gradient of `x`, summed over all that read it."""
    if _partial is not None and id(x) in _partial:
        _partial[id(x)].append(see)
    else:
        x.register_hook(see)  # on the tensor, not on its reader


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
