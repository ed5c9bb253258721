"""Learn from the original, with its predictions smoothed on the forget set as far as it is too sure of it."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class Lotus(BaseMethod):
    """Learn classes that the original draws on retained images, and smoothed draws on forgotten ones (LoTUS).

    Over the forget set and a random part of the retain set, shuffled together, minimise the cross-entropy -sum t log p
    between targets t and the network's softmax p. With z the original's logits and g Gumbel noise, drawn anew for each
    image of each batch, t is softmax((z + g) / tau) on forgotten images, and the one-hot argmax of z + g, a class drawn
    from the original's softmax, on retained ones. Before each epoch,

        tau = exp(alpha * (forget accuracy of the network - validation accuracy of the original)):

    the more the network knows of the forget set, the smoother; the run ends when that difference is -0.01 or less.
    Where whole classes are forgotten, 0 stands for the validation accuracy.

    Source: Spartalis et al., "LoTUS: Large-Scale Machine Unlearning with a Taste of Uncertainty" (CVPR 2025, arXiv
    2503.18314); defaults of the authors' code and their script for ResNet-18 on CIFAR-10.
    """

    tried_with: ClassVar = {"margin": 2.0}  # a network that has learned nothing may know nothing of the forget set
    search_space: ClassVar = {
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-6, 0.03, log=True),
        "alpha": Between(1, 64, log=True),
        "batch_size": OneOf((32, 64, 128)),
        "retain_fraction": Between(0.1, 1.0),
    }

    epochs: int = 10
    """Most passes over the forget set and the chosen part of the retain set; published 3 for vision transformers."""
    learning_rate: float = 1e-4
    """Step size of AdamW; published 1e-6 for vision transformers."""
    weight_decay: float = 5e-4
    """Weight decay of AdamW."""
    batch_size: int = 128
    """Images in a step."""
    alpha: float = 8.0
    """How fast the temperature grows; published 8 for CIFAR-10, 2 for other data, 32 for whole classes."""
    retain_fraction: float = 0.3
    """Part of the retain set that is used; drawn once."""
    gumbel: bool = True
    """Whether targets are drawn; if not, they have no noise g: softmax(z / tau), and the likeliest class."""
    margin: float = 0.01
    """How far the forget accuracy is to be under the validation accuracy in the end."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for a fraction that is none."""
        if not 0 <= self.retain_fraction <= 1:
            raise ValueError(f"retain_fraction is from 0 to 1, not {self.retain_fraction}.")
        device = next(net.parameters()).device
        original = copy.deepcopy(net).eval()
        (retained, known), (forgotten, labels) = _everything(retain_loader), _everything(forget_loader)
        is_of_classes = not bool(torch.isin(labels, known).all())
        target = 0.0 if is_of_classes else _accuracy(original, val_loader)
        retained = retained[torch.randperm(len(retained))[: int(self.retain_fraction * len(retained))]]
        is_forgotten = torch.arange(len(retained) + len(forgotten)) >= len(retained)  # (images,)
        dataset = TensorDataset(torch.cat([retained, forgotten]), is_forgotten)
        loader = DataLoader(dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

        for _ in range(self.epochs):
            excess = _accuracy(net, forget_loader) - target
            if excess <= -self.margin:
                break
            temperature = math.exp(self.alpha * excess)
            for batch, unwanted in loader:
                images = batch.to(device)
                wanted = self._targets(original, images, unwanted.to(device), temperature)
                # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
                net.train(len(images) > 1 and not self.freeze_bn)
                loss = F.cross_entropy(net(images), wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()

    @torch.no_grad()
    def _targets(
        self, original: nn.Module, images: torch.Tensor, unwanted: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """The probabilities to learn, `(B, classes)`; `unwanted` is True where an image is to be forgotten, `(B,)`."""
        logits = original(images)
        if self.gumbel:
            logits = logits - torch.empty(logits.shape).exponential_().log().to(logits)
        smooth = F.softmax(logits / temperature, dim=1)
        drawn = F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits)
        return torch.where(unwanted[:, None], smooth, drawn)


def _everything(loader: Loader) -> tuple[torch.Tensor, torch.Tensor]:
    """All images and their labels, on the CPU."""
    batches = [(sample["image"].cpu(), sample["age_group"].cpu()) for sample in loader]
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


@torch.no_grad()
def _accuracy(net: nn.Module, loader: Loader) -> float:
    device = next(net.parameters()).device
    net.eval()
    hits = [net(sample["image"].to(device)).argmax(dim=1) == sample["age_group"].to(device) for sample in loader]
    return float(torch.cat(hits).double().mean())
