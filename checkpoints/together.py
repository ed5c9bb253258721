"""Several networks behind one interface, in the quickest of three ways that computes what they compute.

- *grouped* (`grouped.py`): layers are replaced by ones for many models, whose channels lie side by side;
- *stacked* (`stacked.py`): any layers, mapped over the models by vmap; on a CPU only if the network is small;
- *separate*: one after another.

Whatever a network does with its channels besides (joins them with others, takes a mean over them, normalises over them)
mixes grouped models, without an error; and vmap can't map all that Python can do. So each way is compared with single
networks before it is used: on a few images, in a step of training and after it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from checkpoints.dropout import WithoutDropout
from checkpoints.grouped import GroupedNetwork, State
from checkpoints.networks import build_network, builder_of
from checkpoints.stacked import StackedNetwork, pays
from checkpoints.trial import Builder

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


Together = GroupedNetwork | StackedNetwork | SeparateNetworks


@dataclass(frozen=True)
class Way:
    """How the networks of a task are computed, if there are several."""

    make: type[GroupedNetwork] | type[StackedNetwork] | type[SeparateNetworks]
    objection: str | None = None
    """What speaks against the quicker ways; None if there are none."""

    @property
    def name(self) -> str:
        """What a manifest and a snapshot call it."""
        return {GroupedNetwork: "grouped", StackedNetwork: "stacked", SeparateNetworks: "separate"}[self.make]

    def remark(self, network: str) -> str | None:
        """What the user is told of it, before models are trained; None if there is nothing to tell."""
        if self.make is GroupedNetwork:
            return None
        if self.make is StackedNetwork:
            return f"{network}: its models are trained many at once by vmap, because {self.objection}."
        return f"{network}: its models are trained one by one, which takes longer, because {self.objection}."


def together(task: Task, networks: Sequence[nn.Module]) -> Together:
    """Networks of `task` behind one interface, in the quickest way that computes what they compute."""
    return way_of(task, len(networks)).make(networks)


def way_of(task: Task, models: int) -> Way:
    """How so many models of `task` are computed: the quickest way that computes what they compute.

    Compared once for each network and size of images in each process. Raises `UserError` as `build_network` does, and
    whatever the network itself raises.
    """
    build_network(task)
    _, channels, size, _ = task.train.images.shape
    on_cpu = task.train.images.device.type == "cpu"
    return quickest_way(builder_of(task), channels, size, len(task.classes), min(models, MODELS), on_cpu)


@lru_cache
def quickest_way(builder: Builder, channels: int, size: int, classes: int, models: int, on_cpu: bool) -> Way:
    """The way for so many networks of a builder; see `way_of`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        networks = [builder(channels, size, classes) for _ in range(models)]
        images = torch.randn(models, IMAGES, channels, size, size)
        labels = torch.randint(classes, (models, IMAGES))
        try:
            return _quickest(networks, images.double(), labels, on_cpu)
        except _SinglesFailError:  # it makes tensors of float32 itself, say
            return _quickest(networks, images.float(), labels, on_cpu)


class _SinglesFailError(Exception):
    """The networks can't compute with this type of numbers, not even by themselves."""


def _quickest(networks: Sequence[nn.Module], images: Tensor, labels: Tensor, on_cpu: bool) -> Way:
    """The way for these networks, compared on images `(models, batch, C, H, W)` in the type of the images."""
    try:
        with WithoutDropout():
            single = _tried(SeparateNetworks(networks).to(images.dtype), images, labels, seed=0)
            first = {name: values[:1] for name, values in single.items()}
            again = _tried(SeparateNetworks(networks[:1]).to(images.dtype), images[:1], labels[:1], seed=1)
    except Exception as error:
        if images.dtype == torch.float64:
            raise _SinglesFailError from error
        raise
    if _first_difference(first, again, "again") is not None:
        return Way(SeparateNetworks, "it draws random numbers in ways that can't be compared")
    grouped = _objection(GroupedNetwork, networks, images, labels, single)
    if grouped is None:
        return Way(GroupedNetwork)
    if on_cpu and not pays(networks[0], images[0, 0]):
        return Way(SeparateNetworks, f"{grouped}, and by vmap so large a network would take no less on a CPU")
    stacked = _objection(StackedNetwork, networks, images, labels, single)
    if stacked is None:
        return Way(StackedNetwork, grouped)
    return Way(SeparateNetworks, f"{grouped}, and {stacked}")


def _objection(
    make: Callable[[Sequence[nn.Module]], Together],
    networks: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    single: dict[str, list[Tensor]],
) -> str | None:
    """How networks computed in a way differ from `single` ones; None if they don't."""
    how = "as one grouped network" if make is GroupedNetwork else "by vmap"
    try:
        with WithoutDropout():
            found = _tried(make(networks).to(images.dtype), images, labels, seed=0)
        if make is StackedNetwork:  # vmap may have no rule for what draws random numbers
            _tried(make(networks).to(images.dtype), images, labels, seed=0)
    except Exception as error:
        reason = " ".join(str(error).split())
        return f"{how} they fail ({type(error).__name__}: {reason[:200]})"
    return _first_difference(single, found, how)


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


def _first_difference(single: dict[str, list[Tensor]], other: dict[str, list[Tensor]], how: str) -> str | None:
    """The first thing in which networks computed in two ways differ, in words; `how` names the other way."""
    if single.keys() != other.keys():
        return f"{how} they have other weights"
    for name, values in single.items():
        for value, compared in zip(values, other[name], strict=True):
            if value.shape != compared.shape:
                return f"{how} their {name} have another shape"
            difference = (value - compared).double().abs().nan_to_num(0, posinf=torch.inf)
            is_unlike = value.isfinite() != compared.isfinite()
            largest = value.double().abs().nan_to_num(0, posinf=0).amax().item() if value.numel() else 0.0
            tolerance = TOLERANCES.get(value.dtype, 0.0) * max(1.0, largest)
            if is_unlike.any() or (difference > tolerance).any():
                return f"{how} their {name} differ from those of single ones by {difference.max():.2g}"
    return None
