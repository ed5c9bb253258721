"""Perturb the first layer, then fine-tune: the simplest method that makes its runs differ as retraining does."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from methods.BaseMethod import BaseMethod, Between, Loader


class NoisyFinetune(BaseMethod):
    """Add Gaussian noise to the first layer, then fine-tune on the retain set.

    Fine-tuning alone leaves every run beside the original, while retrained models differ from seed to seed; the
    noise throws each run to a different place, from which the retain set alone brings it back.

    Source: the idea that Seif (third place of the competition, Kaggle discussion 459334) starts from, reduced
    to its core: noise on the first convolution, a few epochs on the retain set.
    """

    search_space: ClassVar = {
        "noise": Between(0.01, 3, log=True),
        "epochs": Between(1, 6),
        "learning_rate": Between(1e-4, 0.3, log=True),
    }

    noise: float = 0.3
    """Standard deviation of the noise on each weight of the first layer."""
    epochs: int = 4
    """Passes over the retain set."""
    learning_rate: float = 0.05
    """Step size of SGD in the first epoch; a cosine takes it to zero."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        with torch.no_grad():
            first = next(module.weight for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
            first.add_(self.noise * torch.randn_like(first))
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)

        for _ in range(self.epochs):
            for sample in retain_loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                net.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
                loss = F.cross_entropy(net(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            scheduler.step()
        net.eval()
