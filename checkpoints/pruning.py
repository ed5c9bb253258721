"""Pruned networks: masks by one-shot and iterative magnitude pruning and by SynFlow, and training under a mask.

A pruned model finds its mask by itself, from its own initial weights and training images:

    omp      train; prune the smallest weights; go back to the weights after `rewind_epoch` epochs, and on from there
    imp      the same in rounds, each of which prunes 20 % of what is left, until `sparsity` is reached
    synflow  prune the initial weights in 100 small steps by their synaptic flow, which needs no data; train

Pruned are the weights of all convolutions together, or of the linear layers of a network without convolutions. A
weight that is pruned is exactly 0, so that the mask of a stored model can be seen in its weights.

Sources: Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (ICML 2020, arXiv 1912.05671) for
rewinding; Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow" (NeurIPS
2020, arXiv 2006.05467); Jia et al., "Model Sparsity Can Simplify Machine Unlearning" (arXiv 2304.04934), who unlearn on
networks pruned so. Their code prunes convolutions alone, too, but after going back trains for all epochs once more.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from checkpoints.grouped import State
from checkpoints.networks import build_network
from checkpoints.together import Together
from checkpoints.training import GroupTrainer, epoch_steps, make_optimizer, ordinary_loader

if TYPE_CHECKING:
    from data.task import Recipe, Task

Mask = dict[str, Tensor]
"""By name of a weight: bool, of its shape, True where it is pruned."""

IMP_SHARE = 0.2
"""Of the weights that are left, this share goes in each round of iterative pruning."""

SYNFLOW_STEPS = 100


@dataclass(frozen=True)
class Round:
    """A part of the training: prune to `sparsity` (if that is not 0), then train the `epochs` of the recipe."""

    sparsity: float
    epochs: range


def rounds(recipe: Recipe) -> list[Round]:
    """The rounds of a recipe, in order."""
    whole, rest = range(recipe.epochs), range(recipe.rewind_epoch, recipe.epochs)
    if recipe.pruning == "none":
        return [Round(0, whole)]
    if recipe.pruning == "synflow":
        return [Round(recipe.sparsity, whole)]
    sparsities = [recipe.sparsity]
    if recipe.pruning == "imp":
        count = math.ceil(math.log(1 - recipe.sparsity) / math.log(1 - IMP_SHARE) - 1e-9)
        sparsities = [1 - (1 - IMP_SHARE) ** number for number in range(1, count)] + sparsities
    return [Round(0, whole), *(Round(sparsity, rest) for sparsity in sparsities)]


def epochs_in_all(recipe: Recipe) -> int:
    """Epochs that training takes, with all rounds of pruning."""
    return sum(len(one.epochs) for one in rounds(recipe))


# ----------------------------------------------------------------------------------------------------------------------
# Masks
# ----------------------------------------------------------------------------------------------------------------------


def prunable(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The modules whose weights are pruned, by name: the convolutions, or else the linear layers."""
    modules = dict(network.named_modules())
    convolutions = {name: module for name, module in modules.items() if isinstance(module, nn.Conv2d)}
    linear = {name: module for name, module in modules.items() if isinstance(module, nn.Linear)}
    return {**convolutions} or {**linear}


def prune_smallest(network: nn.Module, sparsity: float, scores: Mapping[str, Tensor] | None = None) -> Mask:
    """Prune the share `sparsity` of smallest weights, of all layers together, in place; the mask.

    By magnitude, or by `scores`, which have the name of a module. What is 0 already is the smallest.
    """
    modules = prunable(network)
    total = sum(module.weight.numel() for module in modules.values())
    prune.global_unstructured(
        [(module, "weight") for module in modules.values()],
        prune.L1Unstructured,
        importance_scores=scores and {(modules[name], "weight"): values for name, values in scores.items()},
        amount=round(sparsity * total),
    )
    mask = {f"{name}.weight": module.get_buffer("weight_mask") == 0 for name, module in modules.items()}
    for module in modules.values():
        prune.remove(module, "weight")
    return mask


def synflow(network: nn.Module, sparsity: float, image_shape: Sequence[int]) -> Mask:
    """The mask of the share `sparsity` of weights with the least synaptic flow; `image_shape` is `(C, H, W)`.

    Step k of 100 keeps the share (1 - sparsity)^(k / 100) of weights with the largest |w dR/dw|, where R is the sum of
    the outputs for an image of ones, of the network with |w| for each parameter w.
    """
    network = copy.deepcopy(network).double().eval()  # the flow through many layers exceeds float32
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    device = next(network.parameters()).device
    ones = torch.ones(1, *image_shape, dtype=torch.float64, device=device)
    mask: Mask = {}
    for step in range(1, SYNFLOW_STEPS + 1):
        modules = prunable(network)
        weights = [module.weight for module in modules.values()]
        flows = torch.autograd.grad(network(ones).sum(), weights)
        scores = {name: (w * flow).detach() for name, w, flow in zip(modules, weights, flows, strict=True)}
        mask = prune_smallest(network, 1 - (1 - sparsity) ** (step / SYNFLOW_STEPS), scores)
    return mask


def pruned_weights(network: nn.Module) -> Mask:
    """The mask of a pruned network, as its weights show it."""
    return {f"{name}.weight": module.weight.detach() == 0 for name, module in prunable(network).items()}


def zero(network: nn.Module, mask: Mask) -> None:
    """Set what is pruned to 0, in place.

    Behind autograd's back (`data`): what a computation has kept of weights that are 0 anyway stays valid.
    """
    for name, parameter in network.named_parameters():
        if name in mask:
            parameter.data.masked_fill_(mask[name], 0)


def zero_before_forward(mask: Mask, network: nn.Module, inputs: object) -> None:
    """`zero`, as a forward pre-hook if `functools.partial` gives it the mask. A copy of the network has it too."""
    zero(network, mask)


# ----------------------------------------------------------------------------------------------------------------------
# Training, many at once
# ----------------------------------------------------------------------------------------------------------------------


class PrunedTrainer:
    """Trains one pruned model per seed on `task.train[indices]`, as `GroupTrainer` does; an epoch at a time."""

    def __init__(self, task: Task, indices: np.ndarray, seeds: Sequence[int]) -> None:
        self.recipe = task.recipe
        self.template = build_network(task)
        self.trainer = GroupTrainer(task, indices, seeds)
        self.images = self.trainer.images
        self.plan = [(one, epoch) for one in rounds(task.recipe) for epoch in one.epochs]
        self.epoch = 0  # of all rounds
        self.early = self.trainer.states()  # what rounds go back to
        self.masks: list[Mask] = []  # of each model

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return self.epoch == len(self.plan)

    @property
    def network(self) -> Together:
        """The models behind one interface."""
        return self.trainer.network

    def train_epoch(self) -> None:
        """One pass of every model over its examples, after pruning if a round begins."""
        this, epoch = self.plan[self.epoch]
        if this.sparsity and epoch == this.epochs[0]:
            masks = [_mask(self._single(state), this, self.recipe, self.images) for state in self.states()]
            self.network.load_states(self.early)
            self._wear(masks)
        self.trainer.epoch = epoch
        self.trainer.train_epoch()
        self.epoch += 1
        if self.epoch == self.recipe.rewind_epoch:
            self.early = self.states()

    def states(self) -> list[State]:
        """The `state_dict` of each model, on the CPU."""
        return self.trainer.states()

    def snapshot(self) -> dict[str, Any]:
        """Everything that the remaining epochs depend on."""
        own = {"done": self.epoch, "early": self.early, "masks": self.masks}
        return {**self.trainer.snapshot(), **own}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go on from a `snapshot()` of a trainer with the same arguments."""
        self._wear(snapshot["masks"])
        self.trainer.restore(snapshot)
        self.epoch, self.early = snapshot["done"], snapshot["early"]

    def _single(self, state: State) -> nn.Module:
        network = copy.deepcopy(self.template)
        network.load_state_dict(state)
        return network

    def _wear(self, masks: list[Mask]) -> None:
        """From now on, keep to these masks; with a fresh optimiser, as a round begins with one."""
        self.masks = masks
        self.trainer.optimizer = make_optimizer(self.recipe, self.network)
        if not masks:
            return
        network = self.network
        joined = {name: mask.to(self.images.device) for name, mask in network.join(masks).items()}
        zero(network, joined)
        self.trainer.optimizer.register_step_post_hook(lambda *arguments: zero(network, joined))


def _mask(network: nn.Module, this: Round, recipe: Recipe, images: Tensor) -> Mask:
    """The mask with which a round begins, for the weights that the one before has left in `network` (now to drop)."""
    if recipe.pruning == "synflow":
        return synflow(network, this.sparsity, images.shape[1:])
    return prune_smallest(network, this.sparsity)


# ----------------------------------------------------------------------------------------------------------------------
# Training, one by one
# ----------------------------------------------------------------------------------------------------------------------


def pruned_steps(task: Task, indices: np.ndarray, seed: int) -> Iterator[nn.Module]:
    """The steps of one pruned model, one at a time: the network after each. PyTorch's own masks do the pruning.

    The reference for `PrunedTrainer`, as `train_one` is for `GroupTrainer`.
    """
    images = task.train.images
    network = build_network(task, seed).to(images.device)
    loader = ordinary_loader(task, indices, seed)
    early = copy.deepcopy(network.state_dict())
    for this in rounds(task.recipe):
        if this.sparsity:
            mask = _mask(network, this, task.recipe, images)
            network.load_state_dict(early)
            for name, module in prunable(network).items():
                prune.custom_from_mask(module, "weight", (~mask[f"{name}.weight"]).to(images.dtype))
        optimizer = make_optimizer(task.recipe, network)
        for epoch in this.epochs:
            for _ in epoch_steps(task, network, optimizer, loader, epoch):
                yield network
            if not this.sparsity and epoch + 1 == task.recipe.rewind_epoch:
                early = copy.deepcopy(network.state_dict())
        if this.sparsity:
            for module in prunable(network).values():
                prune.remove(module, "weight")
