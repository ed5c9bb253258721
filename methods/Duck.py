"""Draw forgotten images to the nearest wrong class in feature space, while learning the retain set."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class Duck(BaseMethod):
    """Draw features of forgotten images to the nearest wrong centroid, and learn retained images beside it (DUCK).

    Features z are the inputs of the last layer (averaged over the image), c_k the mean of those of the retained images
    of class k, by the original. Each forgotten image has one centroid c: of all classes but its own, the one of the
    least cosine distance 1 - cos(z, c_k) by the original. A step minimises

        lambda_1 * mean of 1 - cos(z, c) over a forget batch + lambda_2 * CE(logits / temperature) of a retain batch.

    Each forget batch stays for `retain_batches` steps, each with another retain batch. It ends when an epoch leaves the
    forget accuracy under 0.01, if whole classes are forgotten, else under the original's validation accuracy.

    Source: Cotogni et al., "DUCK: Distance-based Unlearning via Centroid Kinematics" (2023, arXiv 2312.02052): defaults
    of the authors' code, epochs, rate and batch of their example of random images of CIFAR-10. Ours: the validation
    set, where they look at the test set; means over the whole retain set, where the code takes 50 batches; the nearest
    centroid as found by the original, where it is found anew in each step of the first epoch, in train mode, and kept
    by the number of the step. Later code adds two epochs in the end, at rate 1e-4 and a tenth of lambda_1: not here.
    """

    published_figures = "test 71.6 %, forget 1 % (CIFAR-100, a class)"
    search_space: ClassVar = {
        "epochs": Between(1, 30),
        "learning_rate": Between(1e-5, 0.03, log=True),
        "batch_size": OneOf((64, 256, 1024)),
        "lambda_1": Between(0.1, 10, log=True),
        "lambda_2": Between(0.1, 10, log=True),
    }

    epochs: int = 10
    """Most passes over the forget set; the code's own default is 200."""
    learning_rate: float = 0.001
    """Step size of Adam in the first epoch; the code's own default is 4e-4."""
    weight_decay: float = 0.0
    """L2 regularisation of Adam."""
    first_milestone: int = 25
    """The step size is halved after this many epochs."""
    second_milestone: int = 40
    """It is halved again after this many."""
    batch_size: int = 1024
    """Images of each set in a step; the code's own default is 256. Where both sets fit in, runs hardly differ."""
    retain_batches: int = 6
    """Most steps with a forget batch, one for each retain batch; the code's ratio is 5, and counts from 0 to 5."""
    lambda_1: float = 1.0
    """Weight of the distance to the nearest wrong centroid."""
    lambda_2: float = 1.4
    """Weight of the cross-entropy of the retain set."""
    temperature: float = 2.0
    """What the logits of the retain set are divided by."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` without `retain_batches` or `temperature`."""
        for name, value in (("retain_batches", self.retain_batches), ("temperature", self.temperature)):
            if not value > 0:
                raise ValueError(f"{name} must be greater than 0, not {value}.")
        device = next(net.parameters()).device
        original = copy.deepcopy(net).eval()
        centroids = _centroids(original, retain_loader)
        forgotten = torch.cat([sample["age_group"] for sample in forget_loader]).to(device)
        removed = bool(centroids[forgotten].isnan().any())  # there are classes of which nothing is retained
        target = 0.01 if removed else _accuracy(original, val_loader)

        forget = DataLoader(forget_loader.dataset, batch_size=self.batch_size, shuffle=True)
        retain = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        milestones = [self.first_milestone, self.second_milestone]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.5)
        for _ in range(self.epochs):
            for sample in forget:
                images, own = sample["image"].to(device), sample["age_group"].to(device)
                with torch.no_grad():
                    wanted = _nearest(_forward(original, images)[1], own, centroids)
                for _, kept in zip(range(self.retain_batches), retain, strict=False):
                    self._step(net, optimizer, images, wanted, kept)
            schedule.step()
            if _accuracy(net, forget_loader) < target:
                break
        net.eval()

    def _step(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: torch.Tensor,
        wanted: torch.Tensor,
        kept: dict[str, torch.Tensor],
    ) -> None:
        """One step with forgotten images, the centroids `(B, d)` wanted for them, and a retain batch."""
        known, labels = kept["image"].to(images.device), kept["age_group"].to(images.device)
        # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
        net.train(min(len(images), len(known)) > 1 and not self.freeze_bn)
        distance = _distance(_forward(net, images)[1], wanted)
        loss = self.lambda_1 * distance + self.lambda_2 * F.cross_entropy(net(known) / self.temperature, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _forward(net: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits, and the features, `(B, d)`: what the last layer gets; what a convolution gets is averaged."""
    inputs: list[torch.Tensor] = []
    last = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]
    hook = last.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    try:
        logits = net(images)
    finally:
        hook.remove()
    return logits, inputs[0].flatten(2).mean(dim=2) if inputs[0].ndim > 2 else inputs[0]


@torch.no_grad()
def _record(net: nn.Module, loader: Loader) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logits, the features and the labels of all images, in eval mode."""
    device = next(net.parameters()).device
    net.eval()
    parts = [(*_forward(net, sample["image"].to(device)), sample["age_group"].to(device)) for sample in loader]
    logits, features, labels = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(features), torch.cat(labels)


def _accuracy(net: nn.Module, loader: Loader) -> float:
    logits, _, labels = _record(net, loader)
    return float((logits.argmax(dim=1) == labels).double().mean())


def _centroids(net: nn.Module, loader: Loader) -> torch.Tensor:
    """The mean of the features of each class, `(classes, d)`; NaN for a class without an image."""
    logits, features, labels = _record(net, loader)
    return torch.stack([features[labels == label].mean(dim=0) for label in range(logits.shape[1])])


def _nearest(features: torch.Tensor, own: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The nearest centroid of another class than one's own, by the angle: `(B, d)`; NaN if there is none."""
    cosines = F.normalize(features, dim=1) @ F.normalize(centroids.nan_to_num(), dim=1).T  # (B, classes)
    unknown = centroids.isnan().any(dim=1).repeat(len(own), 1)
    excluded = unknown.scatter(1, own[:, None], True)
    nearest = centroids[cosines.masked_fill(excluded, -torch.inf).argmax(dim=1)]
    return nearest.masked_fill(excluded.all(dim=1, keepdim=True), torch.nan)


def _distance(features: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The mean of 1 - cosine; 0 for an image without a centroid."""
    known = ~wanted.isnan().any(dim=1)
    return (1 - F.cosine_similarity(features[known], wanted[known], dim=1)).sum() / len(features)
