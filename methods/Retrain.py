"""Train from scratch on the retain set: what every unlearning method is measured against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Loader


class Retrain(BaseMethod):
    """Forget everything, then train by the task's own recipe on the retain set alone.

    The oracle: its runs are distributed as the retrained models are, so its score is the ceiling (about 0.18,
    not 1). It takes as long as retraining does, and is exempt from the budget. The recipe of the task, where
    there is one, replaces the defaults below.
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

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
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
                optimizer.step()
            if scheduler is not None:
                scheduler.step()
        net.eval()

    def _make_optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        rate, decay = self.learning_rate, self.weight_decay
        if self.optimizer == "adam":
            return torch.optim.Adam(net.parameters(), lr=rate, weight_decay=decay)
        return torch.optim.SGD(net.parameters(), lr=rate, momentum=self.momentum, weight_decay=decay)

    @staticmethod
    def _class_weights(net: nn.Module, *loaders: Loader) -> torch.Tensor:
        labels = torch.cat([sample["age_group"] for loader in loaders for sample in loader])  # (retain + forget,)
        with torch.no_grad():
            classes = net(next(iter(loaders[0]))["image"]).shape[1]
        return 1 / torch.bincount(labels, minlength=classes).clamp(min=1).float()


def reinitialise(net: nn.Module) -> None:
    """Draw all weights anew, as when the network was built, and reset the batch normalisation's statistics."""
    for module in net.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    # torchvision's residual networks initialise their convolutions differently from PyTorch's default.
    if type(net).__module__ == "torchvision.models.resnet":
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
