"""Train from scratch on the retain set for as long as certified methods fine-tune: the baseline of their figures."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf
from methods.initialisation import reinitialise

ASSUMPTIONS = ("Every choice on the way depends on the retain set alone.",)


class CertifiedRetrain(BaseMethod):
    """Train a new network on the retain set, within the budget and the schedule of the certified methods.

    Nothing of the original is left, so epsilon and delta are 0. What the certified methods gain over this baseline
    is what certification buys; `start_noise` tells how much of that is only another start.

    Source: the baseline of Koloskova et al., "Certified Unlearning for Neural Networks" (ICML 2025, arXiv
    2506.06985), which like its methods has the step size of one cycle, 0.1 at most. `retrain` is the task's own recipe.
    """

    guarantee = "exact (epsilon = 0)"
    published_figures = "validation 67.8, 74.1, 79.9 % after 1, 2, 6 epochs (MNIST)"
    mechanism = "retraining"
    certifies = True
    search_space: ClassVar = {
        "epochs": Between(1, 12),
        "learning_rate": Between(0.01, 0.5, log=True),
        "momentum": OneOf((0.0, 0.9)),
        "batch_size": OneOf((16, 32, 64, 128)),
    }

    start_noise: float = 0.0
    """Standard deviation of normally distributed weights to start from; 0 takes a usual initialisation."""
    epochs: int = 6
    """Passes over the retain set; published 1 to 10 for MNIST, 50 for CIFAR-10."""
    learning_rate: float = 0.1
    """Largest step size; it rises for 30 % of the steps, then falls."""
    linear: bool = False
    """Whether it rises and falls linearly, not as a cosine."""
    momentum: float = 0.0
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 128
    """Images in a step."""
    constants_chosen_on: str = "published"
    """Where the values above come from: "published", or as `tune` says; "forget" voids the certificate: refused."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for what would void the certificate."""
        _refuse_uncovered(net, self.constants_chosen_on)
        reinitialise(net)
        if self.start_noise > 0:
            for parameter in net.parameters():
                nn.init.normal_(parameter, std=self.start_noise)
        certificate = {
            "method": "certified_retrain",
            "epsilon": 0.0,
            "delta": 0.0,
            "accounting": "exact",
            "constants": {},
            "conditions": {
                "batch_norm_statistics": "reset" if list(net.buffers()) else "none",
                "constants_chosen_on": self.constants_chosen_on,
            },
            "assumptions": list(ASSUMPTIONS),
        }
        history = {"validation accuracy": self._finetune(net, retain_loader, val_loader)}
        self.notes = {"certificate": certificate, "history": history}

    def _finetune(self, net: nn.Module, retain_loader: Loader, val_loader: Loader) -> list[float]:
        """Train. The validation accuracy at first, and after each epoch."""
        device = next(net.parameters()).device
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.learning_rate,
            total_steps=max(1, self.epochs * len(loader)),
            anneal_strategy="linear" if self.linear else "cos",
            cycle_momentum=False,
        )
        accuracies = [_accuracy(net, val_loader)]
        for _ in range(self.epochs):
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                net.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
                optimizer.zero_grad()
                F.cross_entropy(net(images), labels).backward()
                optimizer.step()
                scheduler.step()
            accuracies.append(_accuracy(net, val_loader))
        return accuracies


def _refuse_uncovered(net: nn.Module, chosen_on: str) -> None:
    """Raise `ValueError` for what would not be new."""
    if chosen_on not in ("published", "retain", "retrained"):
        raise ValueError(f"Constants must be chosen without the forget set, not on {chosen_on!r}.")
    normalising = [module for module in net.modules() if hasattr(module, "reset_running_stats")]
    known = {id(buffer) for module in normalising for buffer in module.buffers(recurse=False)}
    unknown = [name for name, buffer in net.named_buffers() if id(buffer) not in known]
    unknown += [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
    if unknown:
        raise ValueError(f"{unknown[0]} may have seen the forget set, and stays: no certificate can be given.")


@torch.no_grad()
def _accuracy(net: nn.Module, loader: Loader) -> float:
    net.eval()
    device = next(net.parameters()).device
    right = [net(sample["image"].to(device)).argmax(dim=1) == sample["age_group"].to(device) for sample in loader]
    return float(torch.cat(right).double().mean())
