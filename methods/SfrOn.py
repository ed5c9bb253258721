"""Ascend on the forget set with the retain set's curvature in view, repairing all along."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader


class SfrOn(BaseMethod):
    """Alternate steps of adaptive gradient ascent on the forget set with steps on the retain set (SFR-on).

    Of T steps in all, step t descends on a retain batch; every `forget_every`-th first ascends on a forget batch:
    the loss is -c_t * sum_i w_i * l_i with l_i the cross-entropy of image i, w_i in proportion to 1 / l_i^lambda and
    of sum 1, c_t = `ascent` * (1 + cos(pi t / T)) / 2. Its gradient is kept only for weights whose importance on the
    forget set is at least `threshold` times that on the retain set (importance: mean squared gradient of a batch, in
    eval mode), and clipped. After each step w <- (1 - slow_rate) * w before it + slow_rate * w.

    Source: Huang et al., "Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement" (NeurIPS 2024,
    arXiv 2409.19732), CIFAR-10. Its code has slow_rate 1, so the slow weights of the paper are the plain ones. Its
    1500 steps of 128 images are about 4 passes over CIFAR-10's retain set; here their number follows the data, and so
    do batches with batch_size 0. For TinyImageNet it has optimizer=adamw weight_decay=0.05 learning_rate=2e-5
    forget_every=1 ascent=500, 500 steps, and a gamma of 0.6, which we take for adaptivity=0.6. Its plain ascent is
    adaptivity=0.
    """

    search_space: ClassVar = {
        "epochs": Between(1, 8),
        "learning_rate": Between(1e-3, 0.3, log=True),
        "ascent": Between(0.1, 100, log=True),
        "forget_every": Between(1, 10),
        "slow_rate": Between(0.1, 1.0),
    }

    epochs: int = 4
    """Passes over the retain set."""
    learning_rate: float = 0.01
    """Step size in the first step; a cosine takes it to zero."""
    optimizer: str = "sgd"
    """Either "sgd" or "adamw"; one does both kinds of steps."""
    momentum: float = 0.9
    """Momentum of SGD."""
    batch_size: int = 0
    """Images in a step of either kind; 0: as the loaders have it. Published 128."""
    schedule: str = "cosine"
    """How the weight of the ascent falls to 0: "cosine", "linear" (1 - t/T), or "exponential" ((1 - t/T)^2)."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    forget_every: int = 5
    """Steps from one ascent to the next."""
    ascent: float = 25.0
    """Weight of the ascent in the first step (the code's `forget_alpha`)."""
    adaptivity: float = 0.5
    """Lambda: how much more the images with a small loss count in the ascent."""
    threshold: float = 1.0
    """Gamma: how important a weight must be to the forget set, relative to the retain set, to take part."""
    largest_norm: float = 7.0
    """Norm to which the gradient of an ascent is clipped."""
    slow_rate: float = 1.0
    """Beta: how far the weights follow each step; 1 is all the way."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for an unknown optimizer or schedule, or no `forget_every`."""
        if self.forget_every < 1:
            raise ValueError(f"forget_every must be at least 1, not {self.forget_every}.")
        strength_at(self.schedule, 0.0)
        if self.batch_size:
            loaders = (retain_loader, forget_loader)
            retain_loader, forget_loader = (
                DataLoader(loader.dataset, batch_size=self.batch_size, shuffle=True) for loader in loaders
            )
        masks = self._masks(net, retain_loader, forget_loader)
        optimizer = self._optimizer(net)
        steps = self.epochs * len(retain_loader)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, steps))
        retained, forgotten = _forever(retain_loader), _forever(forget_loader)
        for step in range(steps):
            before = [weight.detach().clone() for weight in net.parameters()]
            if step % self.forget_every == 0:
                losses = _losses(net, next(forgotten), self.freeze_bn)
                shares = 1 / (losses.detach() ** self.adaptivity + 1e-15)  # (B,)
                strength = self.ascent * strength_at(self.schedule, step / steps)
                optimizer.zero_grad()
                (-strength * (shares / shares.sum() * losses).sum()).backward()
                for weight, mask in zip(net.parameters(), masks, strict=True):
                    if weight.grad is not None:
                        weight.grad *= mask
                nn.utils.clip_grad_norm_(net.parameters(), self.largest_norm)
                optimizer.step()
            optimizer.zero_grad()
            _losses(net, next(retained), self.freeze_bn).mean().backward()
            optimizer.step()
            scheduler.step()
            with torch.no_grad():
                for weight, earlier in zip(net.parameters(), before, strict=True):
                    weight.copy_((1 - self.slow_rate) * earlier + self.slow_rate * weight)
        net.eval()

    def _optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        rate, decay = self.learning_rate, self.weight_decay
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"optimizer is sgd or adamw, not {self.optimizer!r}.")
        if self.optimizer == "adamw":
            return torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=decay)
        return torch.optim.SGD(net.parameters(), lr=rate, momentum=self.momentum, weight_decay=decay)

    def _masks(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader) -> list[torch.Tensor]:
        """True where a weight may take part in the ascent; for each parameter, in its shape."""
        retained, forgotten = _importance(net, retain_loader), _importance(net, forget_loader)
        return [
            (of_forgotten + 1e-15) / (of_retained + 1e-15) >= self.threshold
            for of_forgotten, of_retained in zip(forgotten, retained, strict=True)
        ]


def strength_at(schedule: str, done: float) -> float:
    """The share of the ascent's weight when a share of the steps is done. Raises `ValueError` if there is no such."""
    shares = {
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "linear": 1 - done,
        "exponential": (1 - done) ** 2,
    }
    if schedule not in shares:
        raise ValueError(f"schedule is {', '.join(shares)}, not {schedule!r}.")
    return shares[schedule]


def _forever(loader: Loader) -> Iterator[dict[str, Any]]:
    while True:
        yield from loader


def _losses(net: nn.Module, sample: dict[str, Any], freeze_bn: bool) -> torch.Tensor:
    """The cross-entropy of each image, in train mode unless `freeze_bn`, `(B,)`."""
    device = next(net.parameters()).device
    images, labels = sample["image"].to(device), sample["age_group"].to(device)
    net.train(len(images) > 1 and not freeze_bn)  # batch normalisation needs two images
    return F.cross_entropy(net(images), labels, reduction="none")


def _importance(net: nn.Module, loader: Loader) -> list[torch.Tensor]:
    """The mean over batches of the squared gradient, for each parameter, in its shape."""
    device = next(net.parameters()).device
    weights = list(net.parameters())
    total = [torch.zeros_like(weight) for weight in weights]
    net.eval()
    for sample in loader:
        loss = F.cross_entropy(net(sample["image"].to(device)), sample["age_group"].to(device))
        for value, gradient in zip(total, torch.autograd.grad(loss, weights), strict=True):
            value += gradient**2 / len(loader)
    return total
