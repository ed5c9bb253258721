"""Teach new random labels of the forget set in every epoch, mixed into the retain set."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class SuccessiveRandomLabel(BaseMethod):
    """Train on both sets mixed, the forget set with random labels that are drawn anew in each epoch.

    Labels that change cannot be learned by heart, so the forget examples drift to a flat prediction. Both sets end
    together: each batch of the retain set is joined by its share of the shuffled forget set.

    Source: "SRL" of Deep Unlearn (Cadet et al., arXiv 2410.01276), with the rate and epochs of SalUn's random labels
    (arXiv 2310.12508). As there, a random label may be the true one; with `exclude_true` it is one of the others.
    """

    search_space: ClassVar = {
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-4, 0.3, log=True),
        "exclude_true": OneOf((False, True)),
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
    """Images of the retain set in a step."""
    exclude_true: bool = False
    """Whether a random label is never the true one."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        forget = list(forget_loader)
        forget_images = torch.cat([sample["image"] for sample in forget]).to(device)  # (forget, C, H, W)
        true_labels = torch.cat([sample["age_group"] for sample in forget]).to(device)  # (forget,)
        with torch.no_grad():
            classes = net(forget_images[:1]).shape[1]
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

        for _ in range(self.epochs):
            random_labels = self._random(true_labels, classes)
            shares = torch.randperm(len(true_labels)).to(device).tensor_split(len(loader))
            for sample, rows in zip(loader, shares, strict=True):
                images = torch.cat([sample["image"].to(device), forget_images[rows]])
                labels = torch.cat([sample["age_group"].to(device), random_labels[rows]])
                net.train(len(images) > 1 and not self.freeze_bn)  # batch normalisation needs two images
                loss = F.cross_entropy(net(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()

    def _random(self, labels: torch.Tensor, classes: int) -> torch.Tensor:
        """A random class for each true label, `(forget,)`."""
        if self.exclude_true:
            return (labels + torch.randint(1, classes, labels.shape).to(labels)) % classes
        return torch.randint(classes, labels.shape).to(labels)
