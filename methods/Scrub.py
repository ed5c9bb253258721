"""A teacher to disobey on the forget set and to follow on the retain set, with rewinding as an option."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader


class Scrub(BaseMethod):
    """Drive the network away from the original on the forget set, keep it close on the retain set (SCRUB).

    The original, frozen, is the teacher t; `net` is the student s. With KL_T(t || s) at temperature T times T^2, an
    epoch is a pass over the forget set that maximises KL_T, in the first `max_epochs` epochs only, and a pass over
    the retain set that minimises gamma * cross-entropy + alpha * KL_T. With `rewind` (SCRUB+R), of the networks after
    each epoch the one is kept whose forget error is nearest to the validation error that the last one has, the
    validation set weighted to the classes of the forget set.

    Source: Kurmanji et al., "Towards Unbounded Machine Unlearning" (NeurIPS 2023, arXiv 2302.09880). The defaults are
    the code's at large scale (CIFAR-10). At small scale it has optimizer=adam gamma=1 alpha=0.5 temperature=2 epochs=10
    max_epochs=3 decay_after=5,8,9 weight_decay=0.1 retain_batch_size=32 forget_batch_size=64.
    """

    published_figures = "test 77.3 %, forget 2.0 % (CIFAR-100, a class)"
    search_space: ClassVar = {
        "epochs": Between(1, 8),
        "max_epochs": Between(1, 4),
        "learning_rate": Between(1e-4, 0.3, log=True),
        "alpha": Between(1e-3, 1, log=True),
    }

    epochs: int = 3
    """Passes over the retain set."""
    max_epochs: int = 2
    """Epochs, the first ones, that begin with a pass over the forget set (`msteps`)."""
    learning_rate: float = 5e-4
    """Step size in the first epoch."""
    decay_after: str = "3,5,9"
    """Epochs, counted from 1, after each of which the step size falls to a tenth; empty: never."""
    optimizer: str = "sgd"
    """Either "sgd", with momentum 0.9, or "adam"."""
    weight_decay: float = 5e-4
    """L2 regularisation."""
    gamma: float = 0.99
    """Weight of the retain set's cross-entropy."""
    alpha: float = 0.001
    """Weight of the retain set's distance to the teacher."""
    temperature: float = 4.0
    """Temperature T of both softmax functions in KL_T."""
    retain_batch_size: int = 256
    """Retain images in a step."""
    forget_batch_size: int = 512
    """Forget images in a step."""
    rewind: bool = False
    """SCRUB+R: go back to the epoch that forgets as much as the validation set's error asks for."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for an unknown optimizer, or other text than epochs."""
        decays = self._decays()
        teacher = copy.deepcopy(net).eval()
        retain = DataLoader(retain_loader.dataset, batch_size=self.retain_batch_size, shuffle=True)
        forget = DataLoader(forget_loader.dataset, batch_size=self.forget_batch_size, shuffle=True)
        optimizer = self._optimizer(net)
        states, errors = [], []
        for epoch in range(self.epochs):
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * 0.1 ** sum(epoch >= after for after in decays)
            if epoch < self.max_epochs:
                self._pass(net, teacher, forget, optimizer, maximise=True)
            self._pass(net, teacher, retain, optimizer, maximise=False)
            if self.rewind:
                states.append(copy.deepcopy(net.state_dict()))
                errors.append(_errors(net, forget_loader)[0].mean())
        net.eval()
        if self.rewind and states:
            distances = (torch.stack(errors) - _reference_error(net, forget_loader, val_loader)).abs()  # (epochs,)
            net.load_state_dict(states[int(distances.argmin())])

    def _decays(self) -> list[int]:
        try:
            return [int(part) for part in self.decay_after.split(",") if part.strip()]
        except ValueError:
            raise ValueError(f"decay_after is a list of epochs like 5,8,9, not {self.decay_after!r}.") from None

    def _optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer is sgd or adam, not {self.optimizer!r}.")
        if self.optimizer == "adam":
            return torch.optim.Adam(net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(net.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=self.weight_decay)

    def _pass(
        self, net: nn.Module, teacher: nn.Module, loader: Loader, optimizer: torch.optim.Optimizer, maximise: bool
    ) -> None:
        device = next(net.parameters()).device
        for sample in loader:
            images, labels = sample["image"].to(device), sample["age_group"].to(device)
            net.train(len(images) > 1 and not self.freeze_bn)  # batch normalisation needs two images
            with torch.no_grad():
                wanted = F.log_softmax(teacher(images) / self.temperature, dim=1)  # (B, classes)
            logits = net(images)
            found = F.log_softmax(logits / self.temperature, dim=1)
            distance = F.kl_div(found, wanted, reduction="batchmean", log_target=True) * self.temperature**2
            loss = -distance if maximise else self.gamma * F.cross_entropy(logits, labels) + self.alpha * distance
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def _errors(net: nn.Module, loader: Loader) -> tuple[torch.Tensor, torch.Tensor]:
    """1 for each image that is misclassified, 0 for the others, and the labels: `(images,)` both."""
    net.eval()
    device = next(net.parameters()).device
    batches = [(sample["image"].to(device), sample["age_group"].to(device)) for sample in loader]
    wrong = torch.cat([(net(images).argmax(dim=1) != labels).float() for images, labels in batches])
    return wrong, torch.cat([labels for _, labels in batches])


def _reference_error(net: nn.Module, forget_loader: Loader, val_loader: Loader) -> torch.Tensor:
    """The validation error, each class having the weight that it has in the forget set."""
    wrong, labels = _errors(net, val_loader)
    forgotten = _errors(net, forget_loader)[1]
    classes = int(max(labels.max(), forgotten.max())) + 1
    counts = torch.bincount(labels, minlength=classes)
    weights = (torch.bincount(forgotten, minlength=classes) / counts.clamp(min=1))[labels]  # (images,)
    return (weights * wrong).sum() / weights.sum().clamp(min=1e-12)
