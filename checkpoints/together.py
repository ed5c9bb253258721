"""Several networks behind one interface: as a grouped network if that computes what they compute, else one by one.

Grouping (`grouped.py`) replaces layers and lays the channels of all models side by side. Whatever a network does with
its channels besides (joins them with others, takes a mean over them, normalises over them) then mixes models, without
an error. So the two are compared before a group is trained: on a few images, in a step of training and after it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from checkpoints.grouped import GroupedNetwork, State
from checkpoints.networks import NETWORKS, Builder, build_network

if TYPE_CHECKING:
    from data import Task

MODELS = 3
"""Compared of a larger group: what a network does to the channels of three models, it does to those of more."""
IMAGES = 3
"""For each model, in a comparison. Batch normalisation of two images would leave little to compare."""
RATE = 0.1
"""Of the step of training."""
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-2}
"""Differences that are rounding, relative to the largest number (or to 1). What mixes models differs by much more."""

_INDEPENDENT = (nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
"""Layers that drop numbers or channels by themselves, whichever model they are of."""


class SeparateNetworks(nn.Module):
    """`networks` as they are, one after another: `(models, batch, C, H, W)` to `(models, batch, K)`.

    The interface is that of `GroupedNetwork`. Starts from their weights and leaves them alone.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = len(networks)
        self.networks = nn.ModuleList(copy.deepcopy(network) for network in networks)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        # Cloned, so that images lie in memory as an ordinary loader hands them out.
        batches = [images.clone(memory_format=torch.contiguous_format) for images in x]
        return torch.stack([network(batch) for network, batch in zip(self.networks, batches, strict=True)])

    def join(self, states: Sequence[State]) -> State:
        """See `GroupedNetwork.join`."""
        return {f"networks.{m}.{name}": value for m, state in enumerate(states) for name, value in state.items()}

    def load_states(self, states: Sequence[State]) -> None:
        """Take over the weights of the models, one `state_dict` each."""
        self.load_state_dict(self.join(states))

    def states(self) -> list[State]:
        """The `state_dict` of each model, copied."""
        return [{name: value.clone() for name, value in network.state_dict().items()} for network in self.networks]


Together = GroupedNetwork | SeparateNetworks


def together(task: Task, networks: Sequence[nn.Module]) -> Together:
    """Networks of `task` behind one interface, in the quickest way that computes what they compute."""
    return GroupedNetwork(networks) if why_one_by_one(task, len(networks)) is None else SeparateNetworks(networks)


def why_one_by_one(task: Task, models: int) -> str | None:
    """What speaks against computing so many models of `task` as one grouped network; None if nothing does.

    Compared once for each network and size of images in each process. Raises `UserError` as
    `build_network` does, and whatever the network itself raises.
    """
    build_network(task)
    _, channels, size, _ = task.train.images.shape
    return _objection(NETWORKS[task.network], channels, size, len(task.classes), min(models, MODELS))


@lru_cache
def _objection(builder: Builder, channels: int, size: int, classes: int, models: int) -> str | None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        networks = [_without_dropout(builder(channels, size, classes)) for _ in range(models)]
        images = torch.randn(models, IMAGES, channels, size, size)
        labels = torch.randint(classes, (models, IMAGES))
        try:
            return _difference(networks, images.double(), labels)
        except _SinglesFailError:  # it makes tensors of float32 itself, say
            return _difference(networks, images.float(), labels)


def _without_dropout(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, _INDEPENDENT):
            module.p = 0.0
    return network


class _SinglesFailError(Exception):
    """The networks can't compute with this type of numbers, not even by themselves."""


def _difference(networks: Sequence[nn.Module], images: Tensor, labels: Tensor) -> str | None:
    """How a grouped network differs from single ones, which are computed in the type of `images`; None: it doesn't."""
    try:
        single = _tried(SeparateNetworks(networks).to(images.dtype), images, labels, seed=0)
        first = {name: values[:1] for name, values in single.items()}
        again = _tried(SeparateNetworks(networks[:1]).to(images.dtype), images[:1], labels[:1], seed=1)
    except Exception as error:
        if images.dtype == torch.float64:
            raise _SinglesFailError from error
        raise
    if _first_difference(first, again) is not None:
        return "it draws random numbers in ways that can't be compared"
    try:
        grouped = _tried(GroupedNetwork(networks).to(images.dtype), images, labels, seed=0)
    except Exception as error:
        reason = " ".join(str(error).split())
        return f"as one grouped network they fail ({type(error).__name__}: {reason[:200]})"
    return _first_difference(single, grouped)


def _tried(network: Together, images: Tensor, labels: Tensor, seed: int) -> dict[str, list[Tensor]]:
    """What models give for `images` `(models, batch, C, H, W)` in a step of training and after it.

    By what it is: its values for each model.
    """
    torch.default_generator.manual_seed(seed)
    network.train()
    logits = network(images)  # (models, batch, classes)
    F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").div(labels.shape[1]).backward()
    torch.optim.SGD(network.parameters(), lr=RATE).step()
    network.eval()
    with torch.no_grad():
        after = network(images)
    states = network.states()
    found = {"logits in training": [*logits.detach()], "logits": [*after]}
    return found | {f"{name} after a step of training": [state[name] for state in states] for name in states[0]}


def _first_difference(single: dict[str, list[Tensor]], other: dict[str, list[Tensor]]) -> str | None:
    if single.keys() != other.keys():
        return "as one grouped network they have other weights"
    for name, values in single.items():
        for value, compared in zip(values, other[name], strict=True):
            if value.shape != compared.shape:
                return f"as one grouped network their {name} have another shape"
            difference = (value - compared).double().abs().nan_to_num(0, posinf=torch.inf)
            is_unlike = value.isfinite() != compared.isfinite()
            largest = value.double().abs().nan_to_num(0, posinf=0).amax().item() if value.numel() else 0.0
            tolerance = TOLERANCES.get(value.dtype, 0.0) * max(1.0, largest)
            if is_unlike.any() or (difference > tolerance).any():
                return f"as one grouped network their {name} differ from those of single ones by {difference.max():.2g}"
    return None
