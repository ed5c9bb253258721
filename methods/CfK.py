"""Fine-tune only the last layers on the retain set, and let them forget."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader


class CfK(BaseMethod):
    """Fine-tune the last k layers on the retain set ("catastrophic forgetting"), all others frozen.

    A layer is a convolution or linear map with the batch normalisation that follows it. Frozen layers keep their
    weights and the statistics of their batch normalisation, bit for bit. If there are no more than k, all are trained.

    Source: Goel et al., "Towards Adversarial Evaluation of Inexact Machine Unlearning" (arXiv 2201.06640). k = 3 is
    the last block and the head of a ResNet-18, as in SCRUB's experiments (arXiv 2302.09880) and Deep Unlearn (arXiv
    2410.01276), where it is 10 epochs at 0.01; others train the head only (k = 1).
    """

    search_space: ClassVar = {
        "k": Between(1, 3),
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-4, 0.3, log=True),
    }

    k: int = 3
    """Layers to train, counted from the end."""
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

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        if self.k < 1:
            raise ValueError(f"k is the number of layers to train, 1 or more, not {self.k}.")
        device = next(net.parameters()).device
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        modules = [module for module in net.modules() if not list(module.children())]
        layers = [place for place, module in enumerate(modules) if isinstance(module, (nn.Conv2d, nn.Linear))]
        trained = nn.ModuleList(modules[layers[-self.k :][0] :])
        chosen = set(trained.parameters())
        frozen = [weight for weight in net.parameters() if weight.requires_grad and weight not in chosen]
        for weight in frozen:
            weight.requires_grad_(False)
        optimizer = torch.optim.SGD(
            trained.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

        net.eval()
        for _ in range(self.epochs):
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                trained.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
                loss = F.cross_entropy(net(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()
        for weight in frozen:
            weight.requires_grad_(True)
