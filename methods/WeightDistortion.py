"""Noise on all weights, then fine-tuning: the network begins again beside the original, not at it."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader


class WeightDistortion(BaseMethod):
    """Add Gaussian noise to all weights, then fine-tune on the retain set.

    theta <- theta0 + N(0, noise^2) for every parameter, those of batch normalisation and biases too, independently;
    then Adam minimises the cross-entropy of the retain set at a constant rate.

    Source: Siddiqui et al., "From Dormant to Deleted: Tamper-Resistant Unlearning Through Weight-Space Regularization"
    (arXiv 2505.22310), and its code (CIFAR-10, ResNet-18): noise 0.02, Adam at 1e-5 without weight decay in batches of
    128, for 100 epochs. That many epochs are beyond the budget; 10 at 0.001 are ours: a step of Adam moves a weight by
    about its rate, so that fewer steps need a larger one.
    """

    search_space: ClassVar = {
        "noise": Between(0.005, 1.0, log=True),
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-5, 0.03, log=True),
    }

    noise: float = 0.02
    """Standard deviation of the noise on every weight."""
    epochs: int = 10
    """Passes over the retain set; published 100."""
    learning_rate: float = 0.001
    """Step size of Adam; published 1e-5."""
    weight_decay: float = 0.0
    """L2 regularisation of Adam."""
    batch_size: int = 128
    """Images in a step."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(self.noise * torch.randn(weight.shape).to(weight))
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

        for _ in range(self.epochs):
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
                net.train(len(images) > 1 and not self.freeze_bn)
                loss = F.cross_entropy(net(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()
