"""Dampen the weights that matter more to the forget set than to all training data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class Ssd(BaseMethod):
    """Shrink the weights that are far more important to the forget set than to all data (SSD).

    With I_f and I the importance of a weight on the forget set and on all training data, weights with
    I_f > alpha * I become w * min(lambda * I / I_f, 1). No training. The importance is the mean over batches of the
    squared gradient of the cross-entropy, in eval mode.

    Source: Foster et al., "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening" (AAAI
    2024, arXiv 2308.07707). The paper's formula is the diagonal of the Fisher matrix, which squares the gradient of
    each image (`per_example`); its code squares the mean gradient of each batch, and that is the default. I_f / I can
    be no more than the number of all batches (or images) to that of the forget set: with more than a tenth of the data
    to forget the published alpha selects nothing. Runs from one original differ only in which images share a batch.
    """

    tried_with: ClassVar = {"alpha": 1.0}
    search_space: ClassVar = {
        "alpha": Between(0.1, 100, log=True),
        "dampening": Between(0.01, 10, log=True),
        "per_example": OneOf((False, True)),
    }

    alpha: float = 10.0
    """How many times as important a weight must be to the forget set to be dampened; 5 for the paper's ViT."""
    dampening: float = 1.0
    """Lambda: the larger, the less a chosen weight is dampened."""
    per_example: bool = False
    """Whether to square the gradient of each image instead of each batch's."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        net.eval()
        of_all = self._importance(net, itertools.chain(retain_loader, forget_loader))
        of_forgotten = self._importance(net, forget_loader)
        with torch.no_grad():
            for name, weight in net.named_parameters():
                chosen = of_forgotten[name] > self.alpha * of_all[name]
                factor = (self.dampening * of_all[name] / of_forgotten[name]).clamp(max=1)
                weight.copy_(torch.where(chosen, weight * factor, weight))

    def _importance(self, net: nn.Module, batches: Iterable[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The mean of the squared gradients, by parameter and in its shape."""
        weights = {name: weight.detach() for name, weight in net.named_parameters()}
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        device = next(net.parameters()).device

        def loss(weights: dict[str, torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(functional_call(net, weights, (images,)), labels)

        count = 0
        for sample in batches:
            images, labels = sample["image"].to(device), sample["age_group"].to(device)
            groups = len(images) if self.per_example else 1
            gradients = vmap(grad(loss), in_dims=(None, 0, 0))(
                weights, images.view(groups, -1, *images.shape[1:]), labels.view(groups, -1)
            )  # each (groups, *weight.shape)
            for name, gradient in gradients.items():
                total[name] += gradient.square().sum(dim=0)
            count += groups
        return {name: value / count for name, value in total.items()}
