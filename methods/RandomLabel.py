"""Teach random labels on the forget set, and the true ones on the retain set."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class RandomLabel(BaseMethod):
    """Train on random labels of the forget set, then on true ones of the retain set, in every epoch.

    A batch of the forget set gets uniformly random labels, drawn anew each time it comes; with `draw_once` an image
    keeps its first. As published they may be the true ones, one in `classes` of them; with `exclude_true` the label is
    one of the others.

    Source: "RL" as in the code of Fan et al., "SalUn" (ICLR 2024, arXiv 2310.12508), for CIFAR-10; the idea is of
    Golatkar et al. (CVPR 2020, arXiv 1911.04933). For CIFAR-100 that code mixes the two sets:
    `successive_random_label`. `salun` with threshold 1 is this method bit for bit.
    """

    published_figures = "mean gap to retraining of four measures, 7.15 points (CIFAR-10, ResNet-18, 10 %)"
    search_space: ClassVar = {
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-4, 0.3, log=True),
        "exclude_true": OneOf((False, True)),
        "draw_once": OneOf((False, True)),
    }

    epochs: int = 10
    """Passes over both sets."""
    learning_rate: float = 0.013
    """Step size of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 256
    """Images in a step."""
    exclude_true: bool = False
    """Whether a random label is never the true one."""
    draw_once: bool = False
    """Whether an image has the same random label in all epochs, as Golatkar et al. have it."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        forget = DataLoader(forget_loader.dataset, batch_size=self.batch_size, shuffle=True)
        retain = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

        drawn: dict[str, torch.Tensor] = {}  # by image
        for _ in range(self.epochs):
            for loader in (forget, retain):
                for sample in loader:
                    images, labels = sample["image"].to(device), sample["age_group"].to(device)
                    net.train(len(images) > 1 and not self.freeze_bn)  # batch normalisation needs two images
                    logits = net(images)  # (B, classes)
                    if loader is forget:
                        labels = self._random(labels, logits.shape[1])
                        if self.draw_once:
                            names = [str(name) for name in sample["image_id"]]
                            labels = torch.stack(list(map(drawn.setdefault, names, labels)))
                    optimizer.zero_grad()
                    F.cross_entropy(logits, labels).backward()
                    optimizer.step()
        net.eval()

    def _random(self, labels: torch.Tensor, classes: int) -> torch.Tensor:
        """A random class for each true label, `(B,)`."""
        if self.exclude_true:
            return (labels + torch.randint(1, classes, labels.shape).to(labels)) % classes
        return torch.randint(classes, labels.shape).to(labels)
