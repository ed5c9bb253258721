"""Fine-tuning that is paid for going away from the original's weights."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader

TINY = 1e-8
"""Is added to the mean square, so that its root has a gradient at the original too (published; it is 0 there)."""


class DistReg(BaseMethod):
    """Fine-tune on the retain set, and push all weights away from the original's ("weight dist reg").

    Minimise CE(retain batch) - weight * sqrt(mean over all weights of (theta - theta0)^2 + 1e-8). The push has no
    direction of its own: it goes on where the cross-entropy has begun to go. The forget set is not looked at.

    Source: Siddiqui et al., "From Dormant to Deleted: Tamper-Resistant Unlearning Through Weight-Space Regularization"
    (arXiv 2505.22310), and its code (CIFAR-10, ResNet-18): weight 1, Adam at 1e-5 without weight decay in batches of
    128, for 100 epochs. That many epochs are beyond the budget; 10 at 0.001 are ours, as in `weight_distortion`. At
    weight 0 it is `mode_connectivity` at weight 0, bit for bit.
    """

    search_space: ClassVar = {
        "weight": Between(0.1, 100.0, log=True),
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-5, 0.03, log=True),
    }

    weight: float = 1.0
    """Weight of the distance in the loss."""
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
        original = [weight.detach().clone() for weight in net.parameters()]
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

        for _ in range(self.epochs):
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
                net.train(len(images) > 1 and not self.freeze_bn)
                loss = F.cross_entropy(net(images), labels)
                if self.weight != 0:
                    loss = loss - self.weight * self._distance(net, original)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()

    @staticmethod
    def _distance(net: nn.Module, original: list[torch.Tensor]) -> torch.Tensor:
        """The root of the mean square of all changes; a scalar with a gradient."""
        changes = [weight - before for weight, before in zip(net.parameters(), original, strict=True)]
        mean_square = torch.cat([change.flatten() for change in changes]).square().mean()
        return (mean_square + TINY).sqrt()
