"""Give every forgotten image the class on the other side of the nearest decision boundary."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class BoundaryShrink(BaseMethod):
    """Relabel each forgotten image as the class it is most easily mistaken for, and train on these labels.

    y' = argmax of the original at x + bound * sign(gradient of its cross-entropy with respect to x), kept inside the
    range of pixels; then minimise the cross-entropy of the forget set with y' in place of y. Nothing is done for the
    retain set.

    Source: Chen et al., "Boundary Unlearning" (CVPR 2023, arXiv 2303.11570). The bound is for pixels in [0, 1]: here
    the range of each channel in the forget set stands for it, as a method cannot know how images were normalised, and
    pixels are not rounded to 1/255. Where the step is too short to leave the class, y' = y, so that the published code
    strengthens what it should remove; `other_class` takes the best class but y. The learning rate is the code's; the
    SalUn paper runs 5e-6. The code's two additions: curvature=0.7 adds 0.7 |c(original) - c(network)|_2 to the loss, c
    being for each image |g(x + z) - g(x)|_2, g the gradient with respect to x of the batch's cross-entropy, and z = 0.9
    sign(g) / |sign(g)|_2; reweight=true multiplies the loss of an image by 3 sigmoid(5 (m - 0.5)), m being the
    probability of the best class but y' less that of y', at the moved image. (There y' is the best, so that m <= 0.)
    Runs from one original differ in the order of batches only: not at all if there is one.
    """

    whole_classes = True
    published_figures = "mean gap to retraining of four measures, 2.67 points (CIFAR-10, ResNet-18, 10 %)"
    search_space: ClassVar = {
        "epochs": Between(1, 20),
        "learning_rate": Between(1e-6, 0.1, log=True),
        "bound": Between(0.01, 1.0, log=True),
        "other_class": OneOf((False, True)),
    }

    epochs: int = 10
    """Passes over the forget set."""
    learning_rate: float = 1e-5
    """Step size of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    batch_size: int = 64
    """Images in a step."""
    bound: float = 0.1
    """Size of the step in every pixel, as a part of the range of pixels."""
    other_class: bool = False
    """Whether y' is always another class than y."""
    curvature: float = 0.0
    """Weight of the change of curvature at the forgotten images; published 0.7, as an experiment."""
    reweight: bool = False
    """Whether images near a boundary count more; as an experiment."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        original = copy.deepcopy(net).eval()
        everything = torch.cat([sample["image"] for sample in forget_loader]).to(device)
        low, high = everything.amin(dim=(0, 2, 3))[:, None, None], everything.amax(dim=(0, 2, 3))[:, None, None]
        loader = DataLoader(forget_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(net.parameters(), lr=self.learning_rate, momentum=self.momentum)

        for _ in range(self.epochs):
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                moved = self._moved(original, images, labels, low, high)
                nearest, weights = self._nearest(original, moved, labels)
                # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
                net.train(len(images) > 1 and not self.freeze_bn)
                loss = (weights * F.cross_entropy(net(images), nearest, reduction="none")).mean()
                if self.curvature:
                    change = _curvature(original, images, labels).detach() - _curvature(net, images, labels)
                    loss = loss + self.curvature * change.norm()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()

    def _moved(
        self, original: nn.Module, images: torch.Tensor, labels: torch.Tensor, low: torch.Tensor, high: torch.Tensor
    ) -> torch.Tensor:
        """The images after one step against their labels, `(B, C, H, W)`. `low` and `high` are `(C, 1, 1)`."""
        step = self.bound * (high - low) * _gradient(original, images, labels).sign()
        return torch.clamp(images + step, low, high)

    @torch.no_grad()
    def _nearest(
        self, original: nn.Module, moved: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The class y' of each moved image, int64 `(B,)`, and how much it counts, `(B,)`."""
        logits = original(moved)  # (B, classes)
        if self.other_class:
            logits = logits.scatter(1, labels[:, None], -torch.inf)
        nearest = logits.argmax(dim=1)
        if not self.reweight:
            return nearest, torch.ones_like(logits[:, 0])
        probabilities = logits.softmax(dim=1)
        own = probabilities.gather(1, nearest[:, None])[:, 0]
        rest = probabilities.scatter(1, nearest[:, None], 0.0).amax(dim=1)
        return nearest, 3 * torch.sigmoid(5 * (rest - own - 0.5))


def _gradient(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, differentiable: bool = False) -> torch.Tensor:
    """The gradient of the mean cross-entropy with respect to the images, in their shape."""
    images = images.detach().requires_grad_()
    loss = F.cross_entropy(net(images), labels)
    gradient: torch.Tensor = torch.autograd.grad(loss, images, create_graph=differentiable)[0]
    return gradient


def _curvature(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """By how much the gradient changes along the direction of its signs, for each image, `(B,)`."""
    signs = _gradient(net, images, labels).sign()
    ahead = images + 0.9 * signs / signs.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None, None]
    here, there = (_gradient(net, places, labels, differentiable=True) for places in (images, ahead))
    return (there - here).flatten(1).norm(dim=1)
