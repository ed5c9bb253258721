"""Training by DP-SGD: the gradient of each image is clipped, and their sum gets noise. Opacus does both.

    theta <- theta - lr * (sum over the batch of clip(g_i, C) + N(0, (z C)^2 I)) / (q n)

with `record_clip` C, `noise_multiplier` z and n images, each of which is in a batch with probability q, whoever else
is (Poisson sampling). A pass has ceil(n / batch_size) steps, and q is 1 / that; a batch has q n images on average.
Momentum and weight decay come after the noise, as in plain SGD.

Source: Abadi et al., "Deep Learning with Differential Privacy" (arXiv 1607.00133), algorithm 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from checkpoints.grouped import State
from checkpoints.networks import build_network
from checkpoints.together import Together, together
from checkpoints.training import drawing_by, learning_rate, make_optimizer
from data.errors import UserError, shortened
from data.seeds import derive_seed

if TYPE_CHECKING:
    from data.task import Recipe, Task

DELTA = 1e-5
"""At which the accounting of a bank states epsilon."""

ORDERS = (*range(2, 64), *(2**power for power in range(6, 13)))
"""Renyi orders to minimise epsilon over. Any set gives a bound."""


def steps_per_epoch(recipe: Recipe, examples: int) -> int:
    """Steps that count as a pass over this many images; 1 over it is the sampling rate."""
    return math.ceil(examples / recipe.batch_size)


def accounting(recipe: Recipe, examples: int) -> dict[str, float]:
    """What training on this many images may reveal about one of them: epsilon at `DELTA`, and what it follows from.

    By Google's dp-accounting, from the Renyi divergence of the Gaussian mechanism with Poisson sampling.
    """
    import dp_accounting
    from dp_accounting import rdp

    each_epoch = steps_per_epoch(recipe, examples)
    step = dp_accounting.PoissonSampledDpEvent(1 / each_epoch, dp_accounting.GaussianDpEvent(recipe.noise_multiplier))
    steps = recipe.epochs * each_epoch
    return {
        "noise_multiplier": recipe.noise_multiplier,
        "record_clip": recipe.record_clip,
        "sampling_rate": 1 / each_epoch,
        "steps": steps,
        "epsilon": float(rdp.RdpAccountant(list(ORDERS)).compose(step, steps).get_epsilon(DELTA)),
        "delta": DELTA,
    }


class PrivateModel:
    """One model in training on `images` `(examples, C, H, W)` and `labels` `(examples,)`, step by step.

    `network` itself is trained, in place; the noise and the batches are functions of `seed`. The seed is kept in the
    bank's manifest, for repeatable measurements: who publishes a model for its privacy must not publish that.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> None:
        opacus = _opacus()
        self.recipe = recipe
        self.network = network
        self.images = images
        self.labels = labels
        self.batches = torch.Generator().manual_seed(derive_seed("batches", seed))  # not those of the start
        self.noise = torch.Generator(images.device).manual_seed(derive_seed("noise", seed))
        # Of the sum of the losses, the gradient of an image does not depend on how many there are: there may be none.
        try:
            self.wrapped = opacus.GradSampleModule(network, loss_reduction="sum")
        except NotImplementedError as error:
            raise _refused(error) from error
        self.optimizer = opacus.optimizers.DPOptimizer(
            make_optimizer(recipe, network),
            noise_multiplier=recipe.noise_multiplier,
            max_grad_norm=recipe.record_clip,
            expected_batch_size=len(labels) / steps_per_epoch(recipe, len(labels)),
            generator=self.noise,
        )

    def steps(self, epoch: int) -> Iterator[None]:
        """The steps of a pass, one at a time."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, epoch)
        for chosen in self._batches():
            self.wrapped.train()
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.wrapped(self.images[chosen]), self.labels[chosen], reduction="sum")
            try:
                loss.backward()
            except RuntimeError as error:
                if "vmap" not in str(error):  # by which Opacus finds gradients of layers that it does not know
                    raise
                raise _refused(error) from error
            self.optimizer.step()
            yield

    def _batches(self) -> Iterator[Tensor]:
        """Which images are in each batch of a pass, `(batch,)`; a batch may be empty."""
        sampler = _opacus().utils.uniform_sampler.UniformWithReplacementSampler(
            num_samples=len(self.labels),
            sample_rate=1 / steps_per_epoch(self.recipe, len(self.labels)),
            steps=steps_per_epoch(self.recipe, len(self.labels)),
            generator=self.batches,
        )
        for chosen in sampler:
            yield torch.tensor(chosen, dtype=torch.int64, device=self.labels.device)


class PrivateTrainer:
    """Trains one model per seed on `task.train[indices]` by DP-SGD, an epoch at a time, as `GroupTrainer` does.

    One after another: what Opacus does to a network can't be done to a group of networks.
    """

    def __init__(self, task: Task, indices: np.ndarray, seeds: Sequence[int]) -> None:
        self.task = task
        self.seeds = tuple(seeds)
        self.recipe = task.recipe
        self.epoch = 0
        self.images, self.labels = _examples(task, indices)
        self.models = [
            PrivateModel(task.recipe, build_network(task, seed).to(self.images.device), self.images, self.labels, seed)
            for seed in seeds
        ]

    @property
    def finished(self) -> bool:
        """Whether the recipe's epochs are done."""
        return self.epoch == self.recipe.epochs

    def train_epoch(self) -> None:
        """One pass of every model over its examples."""
        for model, seed in zip(self.models, self.seeds, strict=True):
            with drawing_by([seed], self.epoch, self.images.device):
                for _ in model.steps(self.epoch):
                    pass
        self.epoch += 1

    @property
    def network(self) -> Together:
        """The models behind one interface, without what Opacus has added to them."""
        for model in self.models:
            model.wrapped.to_standard_module()
        return together(self.task, [model.network for model in self.models])

    def states(self) -> list[State]:
        """The `state_dict` of each model, on the CPU."""
        return [{name: v.cpu().clone() for name, v in model.network.state_dict().items()} for model in self.models]

    def snapshot(self) -> dict[str, object]:
        """Everything that the remaining epochs depend on."""
        return {
            "epoch": self.epoch,
            "networks": [model.network.state_dict() for model in self.models],
            "optimizers": [model.optimizer.state_dict() for model in self.models],
            "generators": [source.get_state() for model in self.models for source in (model.batches, model.noise)],
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go on from a `snapshot()` of a trainer with the same arguments."""
        self.epoch = snapshot["epoch"]
        sources = iter(snapshot["generators"])
        for model, network, optimizer in zip(self.models, snapshot["networks"], snapshot["optimizers"], strict=True):
            model.network.load_state_dict(network)
            model.optimizer.load_state_dict(optimizer)
            model.batches.set_state(next(sources))
            model.noise.set_state(next(sources))


def private_steps(task: Task, indices: np.ndarray, seed: int) -> Iterator[nn.Module]:
    """The steps of one model on `task.train[indices]`, one at a time: the network after each."""
    images, labels = _examples(task, indices)
    model = PrivateModel(task.recipe, build_network(task, seed).to(images.device), images, labels, seed)
    for epoch in range(task.recipe.epochs):
        for _ in model.steps(epoch):
            yield model.network


def _examples(task: Task, indices: np.ndarray) -> tuple[Tensor, Tensor]:
    """Images `(examples, C, H, W)` and labels `(examples,)` of some training indices."""
    chosen = torch.as_tensor(indices, device=task.train.images.device)
    return task.train.images[chosen], task.train.labels[chosen]


def _refused(error: Exception) -> UserError:
    """The error for a network of whose layers Opacus can't tell the gradient of each image."""
    reason = shortened(" ".join(str(error).split()).rstrip("."), 200)
    return UserError(f"DP-SGD can't train this network: Opacus has no gradients of single images for it ({reason}).")


def _opacus() -> Any:
    """The library, with all of it that is used here."""
    try:
        import opacus
        import opacus.optimizers
        import opacus.utils.uniform_sampler
    except ImportError as error:
        raise UserError("Training by DP-SGD needs a package: pip install opacus.") from error
    # It warns once a step that images have no gradients: they are not meant to.
    warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
    return opacus
