"""Trying a network that is none of the kit's on two images, so that what is wrong with it is said before training."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from data.errors import UserError, shortened

Builder = Callable[[int, int, int], nn.Module]
"""From channels, size and classes of square images to a freshly initialised network."""

IMAGES = 2


@lru_cache
def try_network(builder: Builder, label: str, channels: int, size: int, classes: int) -> None:
    """Build it, and compute logits of two random images, once in each process.

    Raises:
        UserError: it is no network, has no weights, is not a function of the seed, can't compute with such images, or
            gives no finite logits of the shape `(2, classes)`.
    """
    with torch.random.fork_rng(devices=[]):
        network, other = (_built(builder, label, channels, size, classes) for _ in range(2))
        for name, value in network.state_dict().items():
            if not torch.equal(value.nan_to_num(), other.state_dict()[name].nan_to_num()):
                raise UserError(
                    f"{label} starts with other weights ({name}) each time that it is built with one seed: draw them "
                    "by PyTorch's own random numbers, as torch.nn.init does."
                )
        images = torch.randn(IMAGES, channels, size, size)
        for training in (False, True):
            _check_logits(_logits(network.train(training), images, label), classes, label)


def _built(builder: Builder, label: str, channels: int, size: int, classes: int) -> nn.Module:
    torch.default_generator.manual_seed(0)
    network = builder(channels, size, classes)
    if not isinstance(network, nn.Module):
        raise UserError(f"{label} gives a {type(network).__name__}, and no network: it has to be a torch.nn.Module.")
    weights = dict(network.named_parameters())
    if not weights:
        raise UserError(f"{label} has no weights: there is nothing to train, and nothing to unlearn.")
    for name, value in weights.items():
        if isinstance(value, UninitializedParameter):
            raise UserError(f"{label} has a weight without a shape ({name}): use layers that are told their sizes.")
        if value.device.type != "cpu":
            raise UserError(f"{label} puts weights on a device ({value.device}): leave that to --device.")
        if not value.isfinite().all():
            raise UserError(f"{label} starts with NaN or infinite weights in {name}: initialise them.")
    return network


def _logits(network: nn.Module, images: Tensor, label: str) -> object:
    try:
        with torch.no_grad():
            return network(images)
    except (Exception, SystemExit) as error:
        _, channels, size, _ = images.shape
        reason = shortened(" ".join(str(error).split()).rstrip("."), 300)
        raise UserError(
            f"{label} can't compute with images of {channels} x {size} x {size} (channels, height, width), which may "
            f"be too small for it: {type(error).__name__}: {reason}."
        ) from error


def _check_logits(logits: object, classes: int, label: str) -> None:
    wanted = f"give logits, ({IMAGES}, {classes}) for {IMAGES} images of {classes} classes"
    if not isinstance(logits, Tensor):
        raise UserError(f"{label} gives a {type(logits).__name__}, and no tensor: its forward() has to {wanted}.")
    if tuple(logits.shape) != (IMAGES, classes):
        raise UserError(f"{label} gives a tensor of the shape {tuple(logits.shape)}: its forward() has to {wanted}.")
    if not logits.isfinite().all():
        raise UserError(f"{label} gives NaN or infinite logits before it is trained: look at its initialisation.")
