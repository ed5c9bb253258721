"""Fine-tuning that raises a barrier of loss between the network and the original."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader


class ModeConnectivity(BaseMethod):
    """Fine-tune on the retain set such that the network halfway to the original is bad.

    Minimise CE(retain batch; theta) + weight * max(-CE(both batches; (theta + theta0) / 2), -ceiling). Both batches
    are the retain batch and one of the forget set, taken together, whose batches come in a cycle. The gradient of the
    second term reaches theta through the midpoint; so the network leaves the valley of the original, where the way back
    to what it knew would be short. At the midpoint, running statistics are the mean of both too; those of the network
    itself see nothing of it.

    Source: Siddiqui et al., "From Dormant to Deleted: Tamper-Resistant Unlearning Through Weight-Space Regularization"
    (arXiv 2505.22310), and its code (CIFAR-10, ResNet-18): weight 0.001, ceiling 50, Adam at 1e-5 without weight decay
    in batches of 128, for 100 epochs. That many epochs are beyond the budget; 5 at 0.001 are ours (an epoch costs more
    than twice that of `weight_distortion`). At weight 0 it is `dist_reg` at weight 0, bit for bit.
    """

    search_space: ClassVar = {
        "weight": Between(1e-4, 1.0, log=True),
        "epochs": Between(1, 5),
        "learning_rate": Between(1e-5, 0.03, log=True),
    }

    weight: float = 0.001
    """Weight of the loss at the midpoint."""
    ceiling: float = 50.0
    """The cross-entropy at the midpoint above which it is bad enough, and has no gradient any more."""
    epochs: int = 5
    """Passes over the retain set; published 100."""
    learning_rate: float = 0.001
    """Step size of Adam; published 1e-5."""
    weight_decay: float = 0.0
    """L2 regularisation of Adam."""
    batch_size: int = 128
    """Images of the retain set in a step, and of the forget set."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        original = copy.deepcopy(net)
        retain, forget = (
            DataLoader(loader.dataset, batch_size=self.batch_size, shuffle=True)
            for loader in (retain_loader, forget_loader)
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

        forgotten: Iterator[dict[str, Any]] = iter(())
        for _ in range(self.epochs):
            for sample in retain:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
                net.train(len(images) > 1 and not self.freeze_bn)
                loss = F.cross_entropy(net(images), labels)
                if self.weight != 0:
                    other = next(forgotten, None)
                    if other is None:
                        forgotten = iter(forget)
                        other = next(forgotten)
                    images = torch.cat([images, other["image"].to(device)])
                    labels = torch.cat([labels, other["age_group"].to(device)])
                    net.train(not self.freeze_bn)
                    logits = torch.func.functional_call(net, self._midpoint(net, original), (images,))
                    loss = loss + self.weight * (-F.cross_entropy(logits, labels)).clamp(min=-self.ceiling)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()

    @staticmethod
    def _midpoint(net: nn.Module, original: nn.Module) -> dict[str, torch.Tensor]:
        """Weights, with the gradient to the network's, and statistics in the middle of both, by name.

        Counts of batches are the network's. All are tensors of their own: what a pass notes in them is lost.
        """
        before = {**dict(original.named_parameters()), **dict(original.named_buffers())}
        middle = {name: (weight + before[name].detach()) / 2 for name, weight in net.named_parameters()}
        for name, value in net.named_buffers():
            middle[name] = (value + before[name]) / 2 if value.is_floating_point() else value.clone()
        return middle
