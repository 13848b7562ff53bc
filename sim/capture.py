"""Real rows for the benches: a quantized layer's weights and the activations that reach it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..formats import BLOCK_SIZE
from ..golden.blocks import MixedTensor, to_blocks
from ..golden.lane import check_k
from ..golden.packing import unpack
from ..golden.selector import SiteSettings
from ..hdl.config import LaneConfig, SelectorConfig
from ..hdl.design import Design
from ..quantizer.model.variant import Variant, apply
from ..quantizer.prepare.sites import Site
from .campaign import Campaign
from .lane_campaigns import rows_campaign
from .selector_campaigns import BlockSet, blocks_campaign

__all__ = [
    "LANE_PREFIX",
    "SELECTOR_PREFIX",
    "Capture",
    "capture",
    "captured_lane_campaign",
    "captured_selector_campaign",
]

LANE_PREFIX, SELECTOR_PREFIX = "layer ", "activations of "
"""How the names of captured campaigns begin; the linear's name follows."""


@dataclass(frozen=True)
class Capture:
    """One linear's input, as it is in the quantized model.

    Attributes:
        name: the linear's name.
        x: float32 (M, K), the activations before quantization.
        activations: what the site's quantizer makes of them.
        weight: the packed weight, (N, K).
        settings: the site's.
    """

    name: str
    x: Tensor
    activations: MixedTensor
    weight: MixedTensor
    settings: SiteSettings


def capture(
    model: nn.Module, sites: Sequence[Site], variant: Variant, sample: Tensor, rows: int | None = None
) -> list[Capture]:
    """Run `sample` (1-D token ids) through the quantized model and keep `rows` input rows of every linear.

    They are spread evenly over the sample; without `rows` all are kept, in order.
    """
    taken: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            taken[name] = (x if rows is None else x[torch.linspace(0, len(x) - 1, rows).long()]).clone()

        return hook

    assert variant.quantizers is not None
    with torch.no_grad(), apply(model, sites, variant):
        handles = [model.get_submodule(n).register_forward_pre_hook(note(n)) for s in sites for n in s.linears]
        try:
            model(input_ids=sample[None])
        finally:
            for handle in handles:
                handle.remove()
    captures = []
    for site in sites:
        quantizer = variant.quantizers[site.name]
        for name in site.linears:
            x = taken[name]
            weight = unpack(variant.weights[name], name)
            captures.append(Capture(name, x, quantizer.tensor(x), weight, quantizer.settings))
    return captures


def captured_lane_campaign(design: Design, layer: Capture, outputs: int) -> Campaign:
    """Every captured row against the first `outputs` rows of the weight, whole rows of K.

    Raises InputError if K is beyond what the lane's accumulator holds.
    """
    config = design.config
    assert isinstance(config, LaneConfig)
    rows, columns = layer.weight.shape
    check_k(columns, config.k_max)
    if not 1 <= outputs <= rows:
        raise InputError(f"outputs of {layer.name}: {outputs}, expected 1 to {rows}")
    tokens = len(layer.x)
    a = layer.activations[torch.arange(tokens).repeat_interleave(outputs)]
    w = layer.weight[torch.arange(outputs).repeat(tokens)]
    exponent = layer.activations.exponent + layer.weight.exponent
    return rows_campaign(design, LANE_PREFIX + layer.name, [(a, w, torch.full((tokens * outputs,), exponent))])


def captured_selector_campaign(design: Design, layer: Capture) -> Campaign:
    """The captured activations through the selector, under the site's registers, pattern and channel codes.

    Raises InputError where the site does what this selector cannot.
    """
    config, settings = design.config, layer.settings
    assert isinstance(config, SelectorConfig)
    if settings.four_over_six and not config.four_over_six:
        raise InputError(f"site of {layer.name}: four over six, expected a selector that is built with it")
    if settings.channel_codes is not None and not config.channel_codes:
        raise InputError(f"site of {layer.name}: channel codes, expected a selector that is built with them")
    blocks = to_blocks(layer.x)
    rows, columns, _ = blocks.shape
    each = {
        "static_fp8": None if settings.static_fp8 is None else settings.static_fp8.expand(rows, columns).flatten(),
        "channel_codes": torch.zeros(columns, BLOCK_SIZE) if settings.channel_codes is None else settings.channel_codes,
    }
    each["channel_codes"] = each["channel_codes"].expand(rows, columns, BLOCK_SIZE).flatten(0, 1)
    sets = [BlockSet(blocks.flatten(0, 1), replace(settings, **each))]
    return blocks_campaign(design, SELECTOR_PREFIX + layer.name, sets)
