"""Push forgotten images to the nearest wrong class in feature space, and hold the other answers by distillation."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class Scar(BaseMethod):
    """Move features of forgotten images to the nearest wrong class; distil the original on surrogate images (SCAR).

    Features z, the inputs of the last layer (averaged over the image), become sqrt(z). Each class has the mean and
    the covariance C of its retained images; C + gamma * mean variance * I + gamma * mean covariance * (1 - I), done
    twice, then scaled to a correlation matrix. A step minimises lambda_1 * d + lambda_2 * KL(original || network): d
    is the mean over forgotten images of the squared Mahalanobis distance to the nearest class but their own, features
    and means having norm 1; KL is over surrogate images. Each forget batch has several steps. The nearest class of an
    image is that of its first step. From the third epoch on, a step that leaves the forget accuracy under 0.01, if
    whole classes are forgotten, else under the original's validation accuracy less 0.015, is the last. For whole
    classes, surrogates taken for one are left out, and the original's logits of these classes are lowered to its
    lowest. Otherwise, images of a class whose forget accuracy is under 0.8 already count less in d.

    Source: Bonato et al., "Is Retain Set All You Need in Machine Unlearning?" (ECCV 2024, arXiv 2404.12922). Its
    surrogates are 10,000 images from ImageNet. A method is given no outside data: here the validation set, which the
    original has not seen either, takes their place, or the forget set. How little images of a class under 0.8 count is
    ours.
    """

    published_figures = "test 72.9 %, forget 2.0 % (CIFAR-100, a class)"
    search_space: ClassVar = {
        "epochs": Between(1, 30),
        "steps_per_batch": Between(1, 6),
        "surrogate_batch_size": OneOf((64, 256, 1024)),
        "learning_rate": Between(1e-5, 0.03, log=True),
        "lambda_2": Between(0.1, 50, log=True),
    }

    epochs: int = 30
    """Most passes over the forget set. Where it does not end earlier, this is over the budget on small data."""
    steps_per_batch: int = 6
    """Steps of Adam on each of its batches, each with other surrogates."""
    learning_rate: float = 5e-4
    """Step size of Adam."""
    lambda_1: float = 1.0
    """Weight of the distance to the nearest wrong class."""
    lambda_2: float = 5.0
    """Weight of the distillation."""
    gamma: float = 3.0
    """How much the covariance matrices are shrunk."""
    batch_size: int = 1024
    """Forgotten images in a step."""
    surrogate_batch_size: int = 1024
    """Surrogates in a step."""
    surrogate: str = "validation"
    """Images to distil on: "validation" or "forget"."""
    self_forget: bool = False
    """Whether to move, in place of the forget set, surrogates that are taken for a forgotten class ("self-forget")."""
    fix_nearest: bool = True
    """Whether the nearest class of an image is that of its first step; else it is looked for in each step."""
    epochs_before_stop: int = 2
    """Epochs after which it may end, as soon as enough is forgotten."""
    weight_under_80: float = 0.5
    """What images of a class whose forget accuracy is under 0.8 count in d, where no whole class is forgotten."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` if `surrogate` is unknown, or nobody can forget by himself."""
        if self.surrogate not in ("validation", "forget"):
            raise ValueError(f"surrogate is validation or forget, not {self.surrogate!r}.")
        net.eval()
        device = next(net.parameters()).device
        logits, features, labels = _record(net, retain_loader)
        forget = [(sample["image"].to(device), sample["age_group"].to(device)) for sample in forget_loader]
        forgotten = Examples(*map(torch.cat, zip(*forget, strict=True)))
        classes = torch.arange(logits.shape[1], device=device)
        removed = torch.isin(classes, forgotten.labels) & ~torch.isin(classes, labels)  # (classes,)
        target = 0.01 if removed.any() else _accuracy(net, val_loader) - 0.015
        clusters = self._clusters(features, labels, len(classes))
        source = val_loader if self.surrogate == "validation" else forget_loader
        surrogates, answers, taken = self._surrogates(net, source, removed)
        if self.self_forget:
            if not len(taken.labels):
                raise ValueError("self_forget needs surrogates that are taken for a class which is forgotten whole.")
            forgotten = taken

        optimizer = torch.optim.Adam(net.parameters(), lr=self.learning_rate)
        nearest = torch.zeros_like(forgotten.labels)
        for epoch in range(self.epochs):
            weights = torch.ones(len(classes), device=device)
            if not removed.any():
                weights[_accuracies(net, forget_loader, len(classes)) < 0.8] = self.weight_under_80
            for rows in torch.randperm(len(nearest)).to(device).split(self.batch_size):
                images, own = forgotten.images[rows], forgotten.labels[rows]
                for step in range(self.steps_per_batch):
                    chosen = torch.randperm(len(surrogates))[: self.surrogate_batch_size].to(device)
                    net.train(min(len(images), len(chosen)) > 1 and not self.freeze_bn)  # normalising needs two images
                    distances = _distances(_forward(net, images)[1], own, *clusters)  # (B, classes)
                    if epoch == step == 0 or not self.fix_nearest:
                        nearest[rows] = distances.argmin(dim=1)
                    reached = distances.gather(1, nearest[rows][:, None])[:, 0]
                    known = reached.isfinite()  # else there is no other class
                    distance = (weights[own] * reached)[known].sum() / len(own)
                    learned = F.log_softmax(net(surrogates[chosen]), dim=1)
                    divergence = F.kl_div(learned, answers[chosen], reduction="batchmean", log_target=True)
                    optimizer.zero_grad()
                    (self.lambda_1 * distance + self.lambda_2 * divergence).backward()
                    optimizer.step()
                    if epoch >= self.epochs_before_stop and _accuracy(net, forget_loader) < target:
                        return
        net.eval()

    def _clusters(
        self, features: torch.Tensor, labels: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Means `(classes, d)` and inverse covariances `(classes, d, d)`; NaN for a class of less than two images."""
        width = features.shape[1]
        means = features.new_full((classes, width), torch.nan)
        inverses = features.new_full((classes, width, width), torch.nan)
        identity = torch.eye(width, device=features.device)
        for label in range(classes):
            of_class = features[labels == label]
            if len(of_class) < 2:
                continue
            covariance = torch.cov(of_class.T).view(width, width)
            for _ in range(2):
                variance = covariance.diagonal().mean()
                other = (covariance * (1 - identity)).sum() / max(1, width * (width - 1))
                covariance = covariance + self.gamma * (variance * identity + other * (1 - identity))
            scale = covariance.diagonal().clamp(min=1e-12).sqrt()
            means[label] = of_class.mean(dim=0)
            inverses[label] = torch.linalg.pinv(covariance / torch.outer(scale, scale), hermitian=True)
        return means, inverses

    @staticmethod
    @torch.no_grad()
    def _surrogates(
        net: nn.Module, loader: Loader, removed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Examples]:
        """Images to distil on, and the logarithms of the probabilities that are to be kept, `(images, classes)`.

        Last, the images that the original takes for one of the removed classes, with these for labels.
        """
        images = torch.cat([sample["image"] for sample in loader]).to(removed.device)
        logits = torch.cat([net(part) for part in images.split(256)])
        guessed = logits.argmax(dim=1)
        kept = ~removed[guessed]
        taken = Examples(images[~kept], guessed[~kept])
        if kept.any():
            images, logits = images[kept], logits[kept]
        return images, F.log_softmax(logits.masked_fill(removed, float(logits.min())), dim=1), taken


class Examples(NamedTuple):
    """Images `(n, C, H, W)` and their classes, int64 `(n,)`."""

    images: torch.Tensor
    labels: torch.Tensor


def _forward(net: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits, and the square roots of the features, `(B, d)`."""
    inputs: list[torch.Tensor] = []
    last = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]
    hook = last.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    logits = net(images)
    hook.remove()
    features = inputs[0].flatten(2).mean(dim=2) if inputs[0].ndim > 2 else inputs[0]
    return logits, (features.clamp(min=0) + 1e-6).sqrt()  # the root has no derivative at 0


def _distances(features: torch.Tensor, own: torch.Tensor, means: torch.Tensor, inverses: torch.Tensor) -> torch.Tensor:
    """The squared distance to each class, `(B, classes)`; infinite to one's own, and to a class without images."""
    shift = F.normalize(features, dim=1)[:, None] - F.normalize(means.nan_to_num(), dim=1)  # (B, classes, d)
    distances = torch.einsum("bkd,kde,bke->bk", shift, inverses.nan_to_num(), shift)
    excluded = means.isnan().any(dim=1).repeat(len(own), 1).scatter(1, own[:, None], True)  # (B, classes)
    return distances.masked_fill(excluded, torch.inf)


@torch.no_grad()
def _record(net: nn.Module, loader: Loader) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logits, the roots of the features and the labels of all images."""
    device = next(net.parameters()).device
    parts = [(*_forward(net, sample["image"].to(device)), sample["age_group"].to(device)) for sample in loader]
    logits, features, labels = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(features), torch.cat(labels)


def _accuracy(net: nn.Module, loader: Loader) -> float:
    """The share of images that are told right; leaves the network in eval mode."""
    logits, _, labels = _record(net.eval(), loader)
    return float((logits.argmax(dim=1) == labels).double().mean())


def _accuracies(net: nn.Module, loader: Loader, classes: int) -> torch.Tensor:
    """The same for each class, `(classes,)`; NaN where there is no image."""
    logits, _, labels = _record(net.eval(), loader)
    right = (logits.argmax(dim=1) == labels).double()
    return torch.bincount(labels, right, minlength=classes) / torch.bincount(labels, minlength=classes)
