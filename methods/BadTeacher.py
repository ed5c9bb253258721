"""Two teachers: the original on the retain set, a network that knows nothing on the forget set."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf
from methods.initialisation import freshly_initialised


class BadTeacher(BaseMethod):
    """Learn from the original on retained images, and from a random network on forgotten ones.

    Over the forget set (l = 1) and a random part of the retain set (l = 0), shuffled together, minimise
    KL_T((1 - l) * good + l * bad || student), where good is the softmax of the original and bad that of a freshly
    initialised network of the same architecture, both at temperature T.

    Source: Chundawat et al., "Can Bad Teaching Induce Forgetting?" (AAAI 2023, arXiv 2205.08096). Its code averages
    the divergence over images and classes (`reduction="mean"`), which is not a divergence; the default averages over
    images alone, as the formula and the code of DELETE do. With Adam the two differ little.
    """

    search_space: ClassVar = {
        "epochs": Between(1, 8),
        "learning_rate": Between(1e-5, 0.03, log=True),
        "batch_size": OneOf((32, 64, 256)),
        "retain_fraction": Between(0.1, 1.0),
    }

    epochs: int = 1
    """Passes over the forget set and the chosen part of the retain set."""
    learning_rate: float = 1e-4
    """Step size of Adam."""
    batch_size: int = 256
    """Images in a step."""
    retain_fraction: float = 0.3
    """Part of the retain set that is used; drawn once."""
    temperature: float = 1.0
    """Temperature T of all softmax functions."""
    reduction: str = "batchmean"
    """Mean of the divergence over "batchmean": the images; "mean": the images and the classes, as published."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` if `reduction` is unknown, or there can't be a new network."""
        if self.reduction not in ("batchmean", "mean"):
            raise ValueError(f"reduction is batchmean or mean, not {self.reduction!r}.")
        device = next(net.parameters()).device
        good, bad = copy.deepcopy(net).eval(), freshly_initialised(net).eval()
        loaders = (retain_loader, forget_loader)
        retained, forgotten = (torch.cat([sample["image"].cpu() for sample in one]) for one in loaders)
        retained = retained[torch.randperm(len(retained))[: int(self.retain_fraction * len(retained))]]
        is_forgotten = torch.arange(len(retained) + len(forgotten)) >= len(retained)  # (images,)
        dataset = TensorDataset(torch.cat([retained, forgotten]), is_forgotten)
        loader = DataLoader(dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.learning_rate)

        for _ in range(self.epochs):
            for batch, unwanted in loader:
                images = batch.to(device)
                with torch.no_grad():
                    logits = torch.where(unwanted[:, None].to(device), bad(images), good(images))  # (B, classes)
                wanted = F.softmax(logits / self.temperature, dim=1)
                net.train(len(images) > 1 and not self.freeze_bn)  # batch normalisation needs two images
                found = F.log_softmax(net(images) / self.temperature, dim=1)
                divergence = F.kl_div(found, wanted, reduction="batchmean") * self.temperature**2
                if self.reduction == "mean":
                    divergence = divergence / wanted.shape[1]
                optimizer.zero_grad()
                divergence.backward()
                optimizer.step()
        net.eval()
