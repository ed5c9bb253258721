"""Drawing the weights of a network anew, as its builder draws them; methods import it, and it travels with them."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


def reinitialise(net: nn.Module) -> None:
    """Draw all weights anew, and reset the statistics of batch normalisation, in place.

    Each module draws its own by `reset_parameters()`; where a network, or a part of it, has one for all that is in it,
    that has the last word. torchvision's residual networks have none: their convolutions are drawn as He et al. do
    (normal, fan out; arXiv 1502.01852), not as PyTorch's default. `net` may be a single layer, too.

    Raises:
        ValueError: a parameter belongs to no module that draws it anew, so that it would be the original's. Having
            `reset_parameters()` is not enough: that of a layer under weight norm changes none of its parameters. The
            network can't be used any more then.
    """
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(math.nan)  # what is still there at the end has not been drawn
    modules = list(net.modules())
    parts = [module for module in modules if not list(module.children())]
    owners = [module for module in reversed(modules) if list(module.children())]  # the innermost first
    for module in (*parts, *owners):
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()
    kept = [name for name, parameter in net.named_parameters() if parameter.isnan().any()]
    if kept:
        raise ValueError(
            f"{kept[0]} can't be drawn anew: neither its module nor the network has reset_parameters() that draws it."
        )
    if type(net).__module__ == "torchvision.models.resnet":
        for module in modules:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def freshly_initialised(net: nn.Module) -> nn.Module:
    """A copy of `net` as if it had just been built. Raises `ValueError` as `reinitialise` does."""
    fresh = copy.deepcopy(net)
    reinitialise(fresh)
    return fresh
