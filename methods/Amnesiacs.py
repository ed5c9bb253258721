"""Sixth place: reset the two ends of the network, and distil the original into it on unseen images first."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf
from methods.initialisation import reinitialise


class Amnesiacs(BaseMethod):
    """Re-initialise the first and the last layer, distil on the validation set, then on the retain set.

    With p and q the original's and the network's predictions at `temperature`, the warm-up minimises KL(p || q) on the
    validation set, which teaches without the forget set; then the retain set, with the cross-entropy of the labels
    plus two terms, cross-entropy(p, q) and KL(p || q), whose gradients are the same.

    Source: sixth place of the competition (Kaggle discussion 458740; `kgltop6`, or KDE, of Deep Unlearn, arXiv
    2410.01276). Descriptions have a symmetric divergence where the code has the two equal terms: `symmetric` has
    KL(p || q) + KL(q || p). The team's best private score was of a warm-up on validation images of classes 0 and 1
    only (`warm_up_classes` "0,1": 0.0783 against 0.0722).
    """

    published_figures = "0.0838 (public), 0.0722 (private) on Kaggle"
    search_space: ClassVar = {
        "warm_up_epochs": Between(0, 6),
        "epochs": Between(1, 6),
        "warm_up_rate": Between(1e-4, 0.3, log=True),
        "learning_rate": Between(1e-4, 0.3, log=True),
        "symmetric": OneOf((False, True)),
    }

    warm_up_epochs: int = 3
    """Passes over the validation set."""
    warm_up_rate: float = 9e-4
    """Step size of SGD in the warm-up."""
    warm_up_classes: str = ""
    """The classes that the warm-up is restricted to, separated by commas; all if empty."""
    epochs: int = 3
    """Passes over the retain set."""
    learning_rate: float = 0.001
    """Step size of SGD in the first pass over the retain set; a cosine takes it to zero."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    temperature: float = 5.0
    """What logits are divided by; the loss is not multiplied by its square."""
    symmetric: bool = False
    """Whether the retain loss has the divergence both ways."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        original = copy.deepcopy(net).eval()
        layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        reinitialise(layers[0])
        reinitialise(layers[-1])
        classes = [int(text) for text in self.warm_up_classes.split(",") if text]
        momentum, weight_decay = self.momentum, self.weight_decay
        warm_up = torch.optim.SGD(net.parameters(), self.warm_up_rate, momentum, weight_decay=weight_decay)
        optimizer = torch.optim.SGD(net.parameters(), self.learning_rate, momentum, weight_decay=weight_decay)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)

        for _ in range(self.warm_up_epochs):
            for sample in val_loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                if classes:
                    images = images[torch.isin(labels, torch.tensor(classes, device=device))]
                if len(images) > 0:
                    wanted, logits = self._both(original, net, images)
                    loss = self.kl(wanted, logits)
                    warm_up.zero_grad()
                    loss.backward()
                    warm_up.step()
        for _ in range(self.epochs):
            for sample in retain_loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                wanted, logits = self._both(original, net, images)
                loss = F.cross_entropy(logits, labels) + self.kl(wanted, logits)
                if self.symmetric:
                    loss = loss + self.kl(logits, wanted)
                else:
                    soft_labels = F.softmax(wanted / self.temperature, dim=1)
                    loss = loss + F.cross_entropy(logits / self.temperature, soft_labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            scheduler.step()
        net.eval()

    @staticmethod
    def _both(original: nn.Module, net: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The original's logits and the network's, `(B, classes)` each."""
        with torch.no_grad():
            wanted = original(images)
        net.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
        return wanted, net(images)

    def kl(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """KL(first || second) of the predictions from logits `(B, classes)` at the temperature; mean over the batch."""
        log_first, log_second = (F.log_softmax(logits / self.temperature, dim=1) for logits in (first, second))
        return F.kl_div(log_second, log_first, reduction="batchmean", log_target=True)
