"""One training run on all the data, down for what is kept and up for what is to be forgotten."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class NegGrad(BaseMethod):
    """Fine-tune on all data, with the gradients of the forget examples reversed.

    The loss of a batch is the mean over its images of the cross-entropy, times -1 for an image to forget. Both sets
    end together: each batch of the retain set is joined by its share of the shuffled forget set.

    Source: "negative gradient" of Golatkar et al., "Eternal Sunshine of the Spotless Net" (CVPR 2020, arXiv
    1911.04933); rate and epochs are those usual for its sibling NegGrad+. In the competition a NegGrad scored 0.0001.
    Deep Unlearn's code (arXiv 2410.01276) clamps each signed loss between 0 and 1 / classes, so that forget examples
    have no gradient at all and it forgets nothing. `capped` is the bound that was meant: an example to forget is left
    alone while its loss is ln(classes) or more.
    """

    published_figures = "0.0001 on Kaggle"
    search_space: ClassVar = {
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-4, 0.1, log=True),
        "capped": OneOf((False, True)),
    }

    epochs: int = 10
    """Passes over both sets."""
    learning_rate: float = 0.01
    """Step size of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 256
    """Images of the retain set in a step."""
    capped: bool = False
    """Whether images to forget that are no better than guessed are left alone."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        forget = list(forget_loader)
        forget_images = torch.cat([sample["image"] for sample in forget]).to(device)  # (forget, C, H, W)
        forget_labels = torch.cat([sample["age_group"] for sample in forget]).to(device)  # (forget,)
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

        for _ in range(self.epochs):
            shares = torch.randperm(len(forget_labels)).to(device).tensor_split(len(loader))
            for sample, rows in zip(loader, shares, strict=True):
                images = torch.cat([sample["image"].to(device), forget_images[rows]])
                labels = torch.cat([sample["age_group"].to(device), forget_labels[rows]])
                net.train(len(images) > 1 and not self.freeze_bn)  # batch normalisation needs two images
                logits = net(images)  # (B, classes)
                losses = F.cross_entropy(logits, labels, reduction="none")  # (B,)
                kept, forgotten = losses.split([len(images) - len(rows), len(rows)])
                if self.capped:
                    forgotten = forgotten.clamp(max=math.log(logits.shape[1]))  # no gradient beyond
                loss = (kept.sum() - forgotten.sum()) / len(images)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()
