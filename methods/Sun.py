"""Seventh place: reset the head, then noise and train a few random layers at a time, and at last all."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf
from methods.initialisation import reinitialise


class Sun(BaseMethod):
    """Reset the last layer, fine-tune random noisy parts of the network in turn, then the whole.

    Each epoch but the final ones trains `tensors` randomly chosen weight tensors and all batch normalisation, on
    cross-entropy of the retain set; all but the first of them begin with noise on int(`noisy_share` * `tensors`) of
    those chosen, except tensors that were chosen in an earlier epoch. A network that has no more than `tensors`
    tensors is trained in full from the start, so that as published it gets no noise at all: `noise_again` lifts this.

    Source: seventh place of the competition (Kaggle discussion 459095, without numbers; `kgltop7`, or RNI, of Deep
    Unlearn, arXiv 2410.01276). Batch normalisation is recognised by its type; the code looks for "bn" in the name, and
    so counts that of a ResNet's shortcuts as weights. The write-up trains all in the first epoch (`whole_first`).
    """

    published_figures = "under 0.0783 on Kaggle (private, by rank)"
    search_space: ClassVar = {
        "epochs": Between(2, 10),
        "learning_rate": Between(1e-4, 0.3, log=True),
        "noise": Between(0.01, 1.0, log=True),
        "final_factors": OneOf(("1,1,1,5", "1,1,1,1", "1,1,1,0.2")),
        "noise_again": OneOf((False, True)),
    }

    epochs: int = 9
    """Passes over the retain set, the final ones included."""
    learning_rate: float = 2e-4
    """Step size of SGD before the final epochs; that of a final epoch is multiplied by its factor."""
    final_factors: str = "1,1,1,5"
    """What the step size of each final epoch is multiplied by; as many epochs as numbers."""
    momentum: float = 0.9
    """Momentum of SGD, which starts from zero in each epoch."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    tensors: int = 9
    """Weight tensors to train in an epoch."""
    noisy_share: float = 0.7
    """Share of these that get noise."""
    noise: float = 0.04
    """Standard deviation of the noise."""
    noise_again: bool = False
    """Whether tensors get noise though they were chosen before."""
    whole_first: bool = False
    """Whether the first epoch trains the whole network."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        reinitialise([module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1])
        everything = list(net.parameters())
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        normalising = [weight for norm in norms for weight in norm.parameters()]
        others = [weight for weight in everything if weight not in set(normalising)]
        factors = [float(text) for text in self.final_factors.split(",")]
        first_final = self.epochs - len(factors)
        chosen_before: set[int] = set()  # places in `others`

        for epoch in range(self.epochs):
            rate, trained = self.learning_rate, everything
            if epoch >= first_final:
                rate *= factors[epoch - first_final]
            elif epoch > 0 or not self.whole_first:
                chosen = torch.randperm(len(others))[: self.tensors].tolist()
                trained = normalising + [others[i] for i in chosen]
                if epoch > 0:
                    noisy = chosen[: int(self.noisy_share * self.tensors)]  # a random choice: the order is random
                    self._perturb([others[i] for i in noisy if self.noise_again or i not in chosen_before])
                chosen_before |= set(chosen)
            optimizer = torch.optim.SGD(trained, lr=rate, momentum=self.momentum, weight_decay=self.weight_decay)
            for sample in retain_loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                net.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
                loss = F.cross_entropy(net(images), labels)
                net.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()

    @torch.no_grad()
    def _perturb(self, weights: list[torch.Tensor]) -> None:
        for weight in weights:
            weight.add_(self.noise * torch.randn_like(weight))
