"""Train from scratch on the retain set: what every unlearning method is measured against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Loader
from methods.initialisation import reinitialise


class Retrain(BaseMethod):
    """Forget everything, then train by the task's own recipe on the retain set alone.

    The oracle: its runs are distributed as the retrained models are, so its score is the ceiling (about 0.18,
    not 1). It takes as long as retraining does, and is exempt from the budget. The recipe of the task, where
    there is one, replaces the defaults below.

    With `sharpness` rho > 0 it is no oracle any more, but retraining with adaptive sharpness-aware minimisation, of Jia
    et al., "Model Sparsity Can Simplify Machine Unlearning" (NeurIPS 2023, arXiv 2304.04934; rho = 2): the gradient of
    a step is that at w + rho w^2 g / |w g|, g being the gradient at w (Kwon et al., ICML 2021, arXiv 2102.11600).
    """

    guarantee = "exact: the definition"
    exempt_from_budget = True
    follows_recipe = True

    optimizer: str = "sgd"
    """Either "sgd" or "adam"."""
    learning_rate: float = 0.1
    """Step size in the first epoch."""
    momentum: float = 0.9
    """Momentum of SGD; Adam keeps PyTorch's betas."""
    weight_decay: float = 5e-4
    """L2 regularisation."""
    schedule: str = "cosine"
    """Either "cosine" (from epoch to epoch, to zero) or "constant"."""
    epochs: int = 60
    """Passes over the retain set."""
    batch_size: int = 64
    """Images in a step."""
    class_weights: bool = False
    """Weight the loss of a class by 1 / its count in the retain and the forget set together."""
    sharpness: float = 0.0
    """Rho of adaptive sharpness-aware minimisation; 0: none."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for a network that can't be initialised anew."""
        device = next(net.parameters()).device
        weights = self._class_weights(net, retain_loader, forget_loader) if self.class_weights else None
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        reinitialise(net)
        optimizer = self._make_optimizer(net)
        scheduler = None
        if self.schedule == "cosine":
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)

        for _ in range(self.epochs):
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                net.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
                loss = F.cross_entropy(net(images), labels, weight=weights)
                optimizer.zero_grad()
                loss.backward()
                if self.sharpness:
                    moves = self._climb(net)
                    optimizer.zero_grad()
                    F.cross_entropy(net(images), labels, weight=weights).backward()
                    with torch.no_grad():
                        for weight, move in zip(net.parameters(), moves, strict=True):
                            weight.sub_(move)
                optimizer.step()
            if scheduler is not None:
                scheduler.step()
        net.eval()

    @torch.no_grad()
    def _climb(self, net: nn.Module) -> list[torch.Tensor]:
        """Move each weight up the loss, relative to its size; the moves."""
        grads = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in net.parameters()]
        scaled = [weight.abs() * grad for weight, grad in zip(net.parameters(), grads, strict=True)]
        norm = torch.cat([one.flatten() for one in scaled]).norm()
        moves = [
            self.sharpness * weight.abs() * one / (norm + 1e-12)
            for weight, one in zip(net.parameters(), scaled, strict=True)
        ]
        for weight, move in zip(net.parameters(), moves, strict=True):
            weight.add_(move)
        return moves

    def _make_optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        rate, decay = self.learning_rate, self.weight_decay
        if self.optimizer == "adam":
            return torch.optim.Adam(net.parameters(), lr=rate, weight_decay=decay)
        return torch.optim.SGD(net.parameters(), lr=rate, momentum=self.momentum, weight_decay=decay)

    @staticmethod
    def _class_weights(net: nn.Module, *loaders: Loader) -> torch.Tensor:
        labels = torch.cat([sample["age_group"] for loader in loaders for sample in loader])  # (retain + forget,)
        device = next(net.parameters()).device
        with torch.no_grad():
            classes = net(next(iter(loaders[0]))["image"].to(device)).shape[1]
        return (1 / torch.bincount(labels, minlength=classes).clamp(min=1).float()).to(device)
