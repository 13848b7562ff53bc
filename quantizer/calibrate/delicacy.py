"""Which channels are delicate: the key by which they are put side by side."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..prepare.pages import in_memory
from .calibration import Calibration

__all__ = ["delicacy"]


def delicacy(linears: Mapping[str, nn.Linear], calibration: Calibration) -> dict[str, Tensor]:
    """float64 (K,) by linear: what its input channels cost the loss, were activations and weights a unit of themselves
    off.

    `calibration` has sensitivities. Readers of one tensor share the activations' part.
    """
    found = {}
    for site in calibration.sites:
        activations = calibration.channels[site.name].double() * calibration.squares[site.name].double()
        for name in site.linears:
            share = calibration.rows[name] * len(site.watched) / len(site.linears)
            weights = calibration.weights[name].float() * in_memory(linears[name].weight).detach().float().square()
            found[name] = share * activations + weights.sum(0).double()
    return found
