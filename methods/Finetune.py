"""Fine-tune the original on the retain set: the plainest baseline, with the literature's settings."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class Finetune(BaseMethod):
    """Fine-tune on the retain set at a constant rate, and let the forget set fade.

    Minimise the cross-entropy of the retain set by SGD with momentum. `my_method` is the same idea with the
    competition's settings: one epoch in batches of 64 at rate 0.001, on a cosine.

    Source: "FT" of Jia et al., "Model Sparsity Can Simplify Machine Unlearning" (NeurIPS 2023, arXiv 2304.04934):
    10 epochs at 0.01 in batches of 256. In the competition fewer epochs were better: 0.049 for one at 5e-4 in
    batches of 32, 0.005 for three at 0.001 in batches of 64.
    """

    published_figures = (
        "0.0002 to 0.049 on Kaggle (a grid); "
        "mean gap to retraining of four measures, 3.78 points (CIFAR-10, ResNet-18, 10 %)"
    )
    search_space: ClassVar = {
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-4, 0.3, log=True),
        "batch_size": OneOf((32, 64, 256)),
    }

    epochs: int = 10
    """Passes over the retain set."""
    learning_rate: float = 0.01
    """Step size of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 256
    """Images in a step."""
    cosine: bool = False
    """Whether the step size falls to 0 on a cosine, epoch by epoch, as in the competition's starter notebook."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)

        for _ in range(self.epochs):
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
                net.train(len(images) > 1 and not self.freeze_bn)
                loss = F.cross_entropy(net(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if self.cosine:
                schedule.step()
        net.eval()
