"""Learn on the forget set what the original would say if it did not know the true class."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader


class Delete(BaseMethod):
    """Remove the true class from the original's prediction on the forget set, and learn the rest (DELETE).

    On the forget set alone, minimise KL(q || p): p is the network's softmax, q the softmax of the original's logits
    with the logit of the true class set to minus infinity. The other classes keep their proportions, which is what
    holds the retained knowledge without a retain set.

    Source: Zhou et al., "Decoupled Distillation to Erase" (CVPR 2025), defaults for CIFAR-10. It is meant for the
    removal of a class: on randomly chosen images a retrained model does know the true class, mostly.
    """

    whole_classes = True
    published_figures = "forget accuracy 0.00 % (CIFAR-10, a class)"
    search_space: ClassVar = {"epochs": Between(1, 20), "learning_rate": Between(1e-5, 0.1, log=True)}

    epochs: int = 20
    """Passes over the forget set."""
    learning_rate: float = 1e-4
    """Step size of SGD; published 1e-4 for CIFAR-10, 5e-5 for CIFAR-100."""
    momentum: float = 0.9
    """Momentum of SGD."""
    batch_size: int = 128
    """Images in a step."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics (`disable_bn` in the published code)."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        original = copy.deepcopy(net).eval()
        loader = DataLoader(forget_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(net.parameters(), lr=self.learning_rate, momentum=self.momentum)

        for _ in range(self.epochs):
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                with torch.no_grad():
                    logits = original(images)  # (B, classes)
                    wanted = F.softmax(logits.scatter(1, labels[:, None], -torch.inf), dim=1)
                # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
                net.train(len(images) > 1 and not self.freeze_bn)
                loss = F.kl_div(F.log_softmax(net(images), dim=1), wanted, reduction="batchmean")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()
