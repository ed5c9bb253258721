"""Training from scratch by a task's recipe: many models at once, and one by one (the slow, obvious way)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from checkpoints.grouped import State
from checkpoints.networks import build_network
from checkpoints.together import Together, together
from data.loaders import ExampleDataset, TensorLoader
from data.seeds import derive_seed

if TYPE_CHECKING:
    from data.task import Recipe, Task


# ----------------------------------------------------------------------------------------------------------------------
# What the two ways share: learning rate, optimiser, class weights, the order of the examples
# ----------------------------------------------------------------------------------------------------------------------


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """The learning rate of epoch `epoch` (from 0): `lr * (1 + cos(pi * epoch / epochs)) / 2`, or constant."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return recipe.learning_rate * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser. Both work element by element, so that a grouped network needs no special one."""
    parameters = list(network.parameters())
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    momentum, decay = recipe.momentum, recipe.weight_decay
    return torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=momentum, weight_decay=decay)


def class_weights(task: Task) -> Tensor | None:
    """1 / count of each class in the whole training split, `(classes,)`, or None when the recipe has no weights."""
    if not task.recipe.class_weights:
        return None
    counts = torch.bincount(task.train.labels, minlength=len(task.classes))
    return 1 / counts.clamp(min=1).to(task.train.images.dtype)


def shuffled(examples: int, generator: torch.Generator) -> Tensor:
    """The order of one epoch: what `DataLoader(shuffle=True, generator=generator)` would visit, int64 `(examples,)`.

    A DataLoader first draws a seed for its worker processes, then its sampler draws the permutation.
    """
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    return torch.tensor(list(RandomSampler(range(examples), generator=generator)))


@contextmanager
def drawing_by(seeds: Sequence[int], epoch: int, device: torch.device) -> Iterator[None]:
    """Inside, what draws from PyTorch's global generators (dropout does) depends on the models' seeds and the epoch."""
    on_host = device.type == "cpu"
    with torch.random.fork_rng([] if on_host else [device], device_type="cuda" if on_host else device.type):
        seed = derive_seed("epoch", *seeds, epoch)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed keeps a note for each GPU that may come later
        if not on_host:
            torch.manual_seed(seed)
        yield


# ----------------------------------------------------------------------------------------------------------------------
# Many at once
# ----------------------------------------------------------------------------------------------------------------------


class GroupTrainer:
    """Trains one model per seed on `task.train[indices]`, all together; an epoch at a time.

    Model m starts from `build_network(task, seeds[m])` and sees the examples in the order that a DataLoader
    with a generator of seed `seeds[m]` gives, so that it is the model that `train_one` makes, up to rounding.
    `snapshot()` and `restore()` carry everything that the next epoch depends on.
    """

    def __init__(self, task: Task, indices: np.ndarray, seeds: Sequence[int]) -> None:
        device = task.train.images.device
        self.recipe = task.recipe
        self.seeds = tuple(seeds)
        self.epoch = 0
        self.images = task.train.images[torch.as_tensor(indices, device=device)]  # (examples, C, H, W)
        self.labels = task.train.labels[torch.as_tensor(indices, device=device)]  # (examples,)
        self.weights = class_weights(task)
        self.network = together(task, [build_network(task, seed) for seed in seeds]).to(device)
        self.optimizer = make_optimizer(task.recipe, self.network)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    @property
    def finished(self) -> bool:
        """Whether the recipe's epochs are done."""
        return self.epoch == self.recipe.epochs

    def train_epoch(self) -> None:
        """One pass of every model over its examples."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.epoch)
        with drawing_by(self.seeds, self.epoch, self.images.device):
            for chosen in self._batches():  # (models, batch)
                self._step(chosen)
        self.epoch += 1

    def _step(self, chosen: Tensor) -> None:
        """One step on a batch for each model, `(models, batch)`."""
        self.network.train(chosen.shape[1] > 1)  # batch normalisation cannot normalise over a single image
        # Gathered as (batch, models, C, H, W), which the network takes without another copy.
        logits = self.network(self.images[chosen.T].transpose(0, 1))  # (models, batch, classes)
        loss = self._losses(logits, self.labels[chosen]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _batches(self) -> Iterator[Tensor]:
        order = torch.stack([shuffled(len(self.labels), generator) for generator in self.generators])
        yield from order.to(self.labels.device).split(self.recipe.batch_size, dim=1)

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Each model's (weighted) mean cross-entropy over its own batch, `(models,)`."""
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        if self.weights is None:
            return losses.mean(dim=1)
        weights = self.weights[labels]  # (models, batch)
        return (weights * losses).sum(dim=1) / weights.sum(dim=1)

    def states(self) -> list[State]:
        """The `state_dict` of each model, on the CPU."""
        return [{name: value.cpu() for name, value in state.items()} for state in self.network.states()]

    def snapshot(self) -> dict[str, object]:
        """Everything that the remaining epochs depend on."""
        return {
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generators": [generator.get_state() for generator in self.generators],
        }

    def restore(self, snapshot: dict[str, object]) -> None:
        """Go on from a `snapshot()` of a trainer with the same arguments."""
        self.epoch = snapshot["epoch"]  # type: ignore[assignment]
        self.network.load_state_dict(snapshot["network"])  # type: ignore[arg-type]
        self.optimizer.load_state_dict(snapshot["optimizer"])  # type: ignore[arg-type]
        for generator, state in zip(self.generators, snapshot["generators"], strict=True):  # type: ignore[call-overload]
            generator.set_state(state)


@torch.no_grad()
def group_logits(network: Together, images: Tensor) -> Tensor:
    """Logits of every model on the same `images` `(examples, C, H, W)`, in eval mode: `(models, examples, classes)`."""
    network.eval()
    batch_size = max(1, 1000 // network.models)  # a thousand images at a time keep a ResNet under 2 GB
    batches = [batch.expand(network.models, *batch.shape) for batch in images.split(batch_size)]
    return torch.cat([network(batch) for batch in batches], dim=1)


# ----------------------------------------------------------------------------------------------------------------------
# One by one
# ----------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def single_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Logits of an ordinary network, in eval mode, in the form of `group_logits`: `(1, examples, classes)`."""
    network.eval()
    return torch.cat([network(batch) for batch in images.split(1000)])[None]


def train_one(task: Task, indices: np.ndarray, seed: int) -> nn.Module:
    """Train one model on `task.train[indices]` with an ordinary loop over an ordinary loader.

    The reference for `GroupTrainer`, and what "the time that retraining takes" means: no unlearning method
    trains sixteen models at once.
    """
    network = build_network(task, seed)
    for network in training_steps(task, indices, seed):  # noqa: B007
        pass
    return network


def training_steps(task: Task, indices: np.ndarray, seed: int) -> Iterator[nn.Module]:
    """The steps of `train_one`, one at a time: the network after each."""
    network = build_network(task, seed).to(task.train.images.device)
    optimizer = make_optimizer(task.recipe, network)
    loader = ordinary_loader(task, indices, seed)
    for epoch in range(task.recipe.epochs):
        for _ in epoch_steps(task, network, optimizer, loader, epoch):
            yield network


def ordinary_loader(task: Task, indices: np.ndarray, seed: int) -> TensorLoader:
    """The batches of one model, in the order that is a function of its seed."""
    generator = torch.Generator().manual_seed(seed)
    dataset = ExampleDataset(task.train, indices)
    return TensorLoader(dataset, batch_size=task.recipe.batch_size, shuffle=True, generator=generator)


def epoch_steps(
    task: Task, network: nn.Module, optimizer: torch.optim.Optimizer, loader: TensorLoader, epoch: int
) -> Iterator[None]:
    """The steps of one pass, one at a time."""
    weights = class_weights(task)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(task.recipe, epoch)
    for sample in loader:
        network.train(len(sample["image"]) > 1)  # as above
        loss = F.cross_entropy(network(sample["image"]), sample["age_group"], weight=weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield
