"""Train backwards on the forget set: the oldest idea, and an unbounded one."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class GradientAscent(BaseMethod):
    """Climb the cross-entropy of the forget set, and look at nothing else.

    What is climbed is CE(forget batch) - l1 * |weights|_1.
    The objective has no upper bound, and nothing protects the retain set: with more or larger steps the network
    is destroyed. `stop_at_chance` ends the run when a batch is as bad as guessing, at a loss of ln(classes).

    Source: "GA" of Jia et al., "Model Sparsity Can Simplify Machine Unlearning" (NeurIPS 2023, arXiv 2304.04934):
    5 epochs at 1e-4, no stop; its "GA_l1" has the penalty. Deep Unlearn (arXiv 2410.01276) takes 10 epochs at 0.01.
    """

    published_figures = "mean gap to retraining of four measures, 4.12 points (CIFAR-10, ResNet-18, 10 %)"
    search_space: ClassVar = {
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-5, 0.1, log=True),
        "stop_at_chance": OneOf((False, True)),
    }

    epochs: int = 5
    """Passes over the forget set."""
    learning_rate: float = 1e-4
    """Step size of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 256
    """Images in a step."""
    l1: float = 0.0
    """Weight of an L1 penalty on all weights."""
    stop_at_chance: bool = False
    """Whether to stop at the first batch whose loss is ln(classes) or more."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        loader = DataLoader(forget_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

        for sample in (sample for _ in range(self.epochs) for sample in loader):
            images, labels = sample["image"].to(device), sample["age_group"].to(device)
            # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
            net.train(len(images) > 1 and not self.freeze_bn)
            logits = net(images)  # (B, classes)
            loss = F.cross_entropy(logits, labels)
            if self.stop_at_chance and loss >= math.log(logits.shape[1]):
                break
            optimizer.zero_grad()
            if self.l1:
                loss = loss - self.l1 * torch.stack([weight.abs().sum() for weight in net.parameters()]).sum()
            (-loss).backward()
            optimizer.step()
        net.eval()
