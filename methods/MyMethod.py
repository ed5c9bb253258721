"""The competition's baseline, and a place to start from: fine-tune the original on the retain set."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from methods.BaseMethod import BaseMethod, Loader


class MyMethod(BaseMethod):
    """Fine-tune on the retain set, as the competition's starter notebook does.

    Minimise the cross-entropy of the retain set by SGD with momentum, the learning rate following a cosine
    from epoch to epoch. What was learned from the forget set is not attacked; it only fades.

    Source: the starter notebook of the NeurIPS 2023 competition (Kaggle, `run-unlearn-finetune`), where it
    scored 0.046 to 0.061. Expect a small fraction of the ceiling on small data: an epoch has few steps. It is what
    others are compared with, so `tune` leaves it as it is; `finetune` is the same with more to choose.
    """

    published_figures = "0.046 to 0.061 on Kaggle"

    epochs: int = 1
    """Passes over the retain set."""
    learning_rate: float = 0.001
    """Step size of SGD in the first epoch."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)
        device = next(net.parameters()).device

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
