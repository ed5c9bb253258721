"""Third place: drown the first convolution in noise, then fine-tune mostly on one class."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class Seif(BaseMethod):
    """Add noise to the first layer, fine-tune on a weighted loss, and add a little more before the last epoch.

    The loss of a retain batch is its mean cross-entropy times the mean weight of its images: 1 for those of class
    `heavy_class`, `light_weight` for others. So the number of images of that class sets the length of the step.

    Source: third place of the competition (Kaggle discussion 459334; `kgltop3`, or CFW, of Deep Unlearn, arXiv
    2410.01276). Descriptions say that the noise is on "the convolutional layers"; the code names only a ResNet's first,
    and 0.6 on all (`noisy_layers` "all") would wipe the network. Others describe a weighted mean of the losses of
    single images (`per_image`). Deep Unlearn has weights that balance the classes instead (`balanced`).
    """

    published_figures = "0.092 (public), 0.0885 (private) on Kaggle"
    search_space: ClassVar = {
        "epochs": Between(1, 6),
        "learning_rate": Between(1e-4, 0.3, log=True),
        "noise": Between(0.01, 3.0, log=True),
        "light_weight": Between(0.01, 1.0, log=True),
        "balanced": OneOf((False, True)),
    }

    epochs: int = 4
    """Passes over the retain set."""
    learning_rate: float = 7e-4
    """Step size of SGD in the first epoch; a cosine takes it to zero."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    noise: float = 0.6
    """Standard deviation of the noise before the first epoch."""
    late_noise: float = 0.005
    """Standard deviation of the noise before the last epoch, if it is not the first."""
    noisy_layers: str = "first"
    """Either "first" (convolution, or linear layer if there is none) or "all" of them but the last layer."""
    heavy_class: int = 0
    """The class whose images weigh 1: the competition's most frequent."""
    light_weight: float = 0.05
    """The weight of images of all other classes."""
    balanced: bool = False
    """Whether a class weighs images / (classes * images of the class) instead."""
    per_image: bool = False
    """Whether the loss is the weighted mean of the losses of single images instead."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        if self.noisy_layers not in ("first", "all"):
            raise ValueError(f"noisy_layers is first or all, not {self.noisy_layers!r}.")
        device = next(net.parameters()).device
        layers = [module.weight for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][:-1]
        noisy = layers[:1] if self.noisy_layers == "first" else layers
        class_weights = self._class_weights(net, retain_loader).to(device)  # (classes,)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)

        self._perturb(noisy, self.noise)
        for epoch in range(self.epochs):
            if epoch > 0 and epoch == self.epochs - 1:
                self._perturb(noisy, self.late_noise)
            for sample in retain_loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                net.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
                losses = F.cross_entropy(net(images), labels, reduction="none")  # (B,)
                weights = class_weights[labels]  # (B,)
                loss = (losses * weights).sum() / weights.sum() if self.per_image else losses.mean() * weights.mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            scheduler.step()
        net.eval()

    @staticmethod
    @torch.no_grad()
    def _perturb(weights: list[torch.Tensor], deviation: float) -> None:
        for weight in weights:
            weight.add_(deviation * torch.randn_like(weight))

    @torch.no_grad()
    def _class_weights(self, net: nn.Module, loader: Loader) -> torch.Tensor:
        if self.balanced:
            labels = torch.cat([sample["age_group"] for sample in loader])  # (retain,)
            counts = torch.bincount(labels)
            return len(labels) / ((counts > 0).sum() * counts.clamp(min=1))
        classes = net(next(iter(loader))["image"].to(next(net.parameters()).device)).shape[1]
        weights = torch.full((classes,), self.light_weight)
        weights[self.heavy_class] = 1.0
        return weights
