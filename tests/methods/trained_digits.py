"""Trained originals on a few digits, and what tests of methods ask about a network. Not a test by itself.

What a method does to one network differs from network to network, and so from processor to processor, whose last bits
make another network of the same seed. Tests of such effects ask for means over `originals`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import torch
import torch.nn.functional as F
from torch import nn

from checkpoints.networks import build_network
from checkpoints.workers import seed_everything
from data import Task, TaskSpec, load
from data.loaders import run_loaders
from methods.BaseMethod import BaseMethod

SEED = 0
"""Of the network, and added to that of runs. `benchmarks/checks/seed_robustness.py` asks what holds with others."""


@cache
def digits(*forget: str) -> Task:
    """200 digits; without a request, 30 of them at random are to be forgotten, which is one batch."""
    return load(TaskSpec("digits", train_size=200, forget=forget))


ORIGINALS = 4
"""Networks that effects are averaged over."""


@lru_cache(maxsize=ORIGINALS)
def trained(number: int) -> nn.Module:
    """A network that knows the 200 digits by heart, in eval mode; each number is another. To be copied, not changed."""
    task = digits()
    seed = SEED + 1000 * number
    network = build_network(task, seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    network.train()
    for _ in range(40):
        for rows in torch.randperm(200).split(50):
            optimizer.zero_grad()
            F.cross_entropy(network(task.train.images[rows]), task.train.labels[rows]).backward()
            optimizer.step()
    return network.eval()


def unlearn(method: BaseMethod, original: nn.Module, task: Task, seed: int = 1, batch_size: int = 64) -> nn.Module:
    """A copy of the original after a run of the method."""
    network = copy.deepcopy(original)
    seed_everything(seed + SEED)
    method.run(network, *run_loaders(task, seed + SEED, batch_size))
    return network


def unlearn_each(
    make: Callable[[], BaseMethod], originals: Sequence[nn.Module], task: Task, batch_size: int = 64
) -> list[nn.Module]:
    """A copy of each original after a run, each run with a seed and a method of its own."""
    return [unlearn(make(), one, task, seed, batch_size) for seed, one in enumerate(originals, start=1)]


def part(task: Task, which: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of the "forget", "retain" or "validation" set."""
    if which == "validation":
        return task.validation.images, task.validation.labels
    rows = torch.as_tensor(task.request_indices if which == "forget" else task.retain_indices)
    return task.train.images[rows], task.train.labels[rows]


@torch.no_grad()
def loss(network: nn.Module, task: Task, which: str) -> float:
    """The mean cross-entropy."""
    images, labels = part(task, which)
    return float(F.cross_entropy(network(images), labels))


@torch.no_grad()
def accuracy(network: nn.Module, task: Task, which: str) -> float:
    """The accuracy."""
    images, labels = part(task, which)
    return float((network(images).argmax(dim=1) == labels).double().mean())


def mean_loss(networks: Sequence[nn.Module], task: Task, which: str) -> float:
    """The mean over networks of their mean cross-entropy."""
    return sum(loss(network, task, which) for network in networks) / len(networks)


def mean_accuracy(networks: Sequence[nn.Module], task: Task, which: str) -> float:
    """The mean over networks of their accuracy."""
    return sum(accuracy(network, task, which) for network in networks) / len(networks)


def gradients(network: nn.Module, value: torch.Tensor) -> list[torch.Tensor]:
    """Of the value, with respect to all parameters."""
    return list(torch.autograd.grad(value, list(network.parameters())))


def moves(before: nn.Module, after: nn.Module) -> list[torch.Tensor]:
    """How far each parameter went."""
    return [new.detach() - old.detach() for new, old in zip(after.parameters(), before.parameters(), strict=True)]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-3) -> None:
    """Equal but for rounding, relative to the largest number; and not all zero."""
    scale = max(float(value.abs().max()) for value in expected)
    assert scale > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * scale)


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether all weights and statistics are equal, bit for bit."""
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())
