"""Teach the nearest images that the original mistakes for another class, with that class, beside the true data."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class Amun(BaseMethod):
    """Fine-tune on adversarial examples of the forget set, with the wrong classes that they are taken for (AMUN).

    For a forgotten image x of class y, radius e = `radius`, 2 `radius`, 4 `radius`, ...: from x' = x, at most `steps`
    times, and until the original f takes x' for another class y',

        x' <- the nearest point to x' + (e / 10) * u within e of x and the range of pixels,

    u being the gradient of CE(f(x'), y) with respect to x', of norm 1. The first e that gets there gives (x', y'). Then
    minimise the cross-entropy of the retain set, the forget set with its true labels and all (x', y'), shuffled
    together: near each forgotten image the network learns to doubt, and is not told anything new elsewhere. An image
    that the original takes for another class already is its own example.

    Source: Ebrahimpour-Boroojeny et al., "Not All Wrong is Bad: Using Adversarial Examples for Unlearning" (AMUN, ICML
    2025, arXiv 2503.00917); defaults of the authors' code for CIFAR-10, where rates from 1e-5 to 0.1 and
    `learning_rate_steps` of 1, 5 and 10 were searched. `with_forget` false is its "advonly". Ours: distances are
    measured with pixels as parts of the range that their channel has in the forget set, which stands for [0, 1] there;
    the search ends, without an example, when e is twice the diagonal of that range; the first radius, as each that is
    too small costs `steps` passes: on digits 0.04 finds examples 1 % nearer and takes more than the budget. (The
    authors search for all images in advance, or take the median radius of 50 images for the others.)
    """

    published_figures = "mean gap to retraining of four measures, 1.46 points (CIFAR-10, ResNet-18, 10 %)"
    search_space: ClassVar = {
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-5, 0.1, log=True),
        "learning_rate_steps": OneOf((1, 5, 10)),
        "with_forget": OneOf((True, False)),
    }

    epochs: int = 3
    """Passes over all three sets; published 10, of which all but the first 3, at rates under 1e-4, move little."""
    learning_rate: float = 0.01
    """Step size of SGD in the first epoch."""
    learning_rate_steps: int = 1
    """The step size becomes a tenth after each so many epochs."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 128
    """Images in a step, and in the search."""
    radius: float = 0.64
    """The first e: a Euclidean distance of images, with pixels as parts of their range. Published 0.04 or 0.01."""
    steps: int = 50
    """Most steps of the search with one radius, each a tenth of it."""
    with_retain: bool = True
    """Whether the retain set is used."""
    with_forget: bool = True
    """Whether the forget set with its true labels is used."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` without `learning_rate_steps` or `radius`."""
        if not self.radius > 0:  # it grows by multiples
            raise ValueError(f"radius must be greater than 0, not {self.radius}.")
        if self.learning_rate_steps < 1:
            raise ValueError(f"learning_rate_steps must be at least 1, not {self.learning_rate_steps}.")
        device = next(net.parameters()).device
        forget = _everything(forget_loader)
        parts = [self._examples(net.eval(), *forget)]
        if self.with_retain:
            parts.append(_everything(retain_loader))
        if self.with_forget:
            parts.append(forget)
        everything, all_labels = (torch.cat(part) for part in zip(*parts, strict=True))
        if len(all_labels) == 0:
            return  # nothing is used but examples, and there are none
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=self.learning_rate_steps, gamma=0.1)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(all_labels)).split(self.batch_size):
                # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
                net.train(len(rows) > 1 and not self.freeze_bn)
                loss = F.cross_entropy(net(everything[rows].to(device)), all_labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        net.eval()

    def _examples(self, net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Examples:
        """The images that were found, and the classes they are taken for, on the CPU; `net` is the original."""
        device = next(net.parameters()).device
        low, high = images.amin(dim=(0, 2, 3))[:, None, None], images.amax(dim=(0, 2, 3))[:, None, None]
        pixel_range = (low.to(device), high.to(device))
        found = [(images[:0], labels[:0])]
        for batch, own in zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True):
            found += self._of_batch(net, batch.to(device), own.to(device), pixel_range)
        examples, classes = zip(*found, strict=True)
        return torch.cat(examples), torch.cat(classes)

    def _of_batch(
        self, net: nn.Module, images: torch.Tensor, labels: torch.Tensor, pixel_range: Examples
    ) -> list[Examples]:
        """The examples of images `(B, C, H, W)`, those of a radius together."""
        found = []
        radius, diagonal = self.radius, images[0].numel() ** 0.5
        while len(images) and radius < 2 * diagonal:
            moved, classes = self._search(net, images, labels, pixel_range, radius)
            across = classes != labels
            found.append((moved[across].cpu(), classes[across].cpu()))
            images, labels = images[~across], labels[~across]
            radius *= 2
        return found

    def _search(
        self, net: nn.Module, images: torch.Tensor, labels: torch.Tensor, pixel_range: Examples, radius: float
    ) -> Examples:
        """Where the search with one radius ends, `(B, C, H, W)`, and the class that the original sees there, `(B,)`."""
        low, high = pixel_range
        scale = (high - low).clamp(min=1e-12)  # a channel may be of one shade throughout
        moved, classes = images.clone(), labels.clone()
        inside = torch.arange(len(images), device=images.device)  # the images that are not across yet
        for step in range(self.steps + 1):
            start, here, own = images[inside], moved[inside].requires_grad_(), labels[inside]
            logits = net(here)
            classes[inside] = logits.argmax(dim=1)
            stays = classes[inside] == own
            inside = inside[stays]
            if step == self.steps or len(inside) == 0:
                break
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, own, reduction="sum"), here)
            way = F.normalize((gradient * scale).flatten(1), dim=1).view_as(here)  # with pixels in [0, 1]
            shift = (here.detach() - start) / scale + radius / 10 * way
            length = shift.flatten(1).norm(dim=1)[:, None, None, None]
            there = start + scale * shift * (radius / length.clamp(min=1e-12)).clamp(max=1)
            moved[inside] = torch.clamp(there, low, high)[stays]
        return moved, classes


Examples = tuple[torch.Tensor, torch.Tensor]
"""Images and labels; or two images of the bounds of all pixels."""


def _everything(loader: Loader) -> Examples:
    """All images and their labels, on the CPU."""
    batches = [(sample["image"].cpu(), sample["age_group"].cpu()) for sample in loader]
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)
