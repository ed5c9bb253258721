"""One Newton step: estimate what leaving the forget set out of training would have changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jvp, vjp
from torch.nn.utils import parameters_to_vector

from methods.BaseMethod import BaseMethod, Between, Loader

Losses = list[Callable[[torch.Tensor], torch.Tensor]]


class Influence(BaseMethod):
    """Move the weights by their influence function: an inverse Fisher matrix times the forget set's gradient.

    With g_i the gradient of the cross-entropy of image i, n the number of forgotten, m of retained images:
    w <- w + alpha H^-1 v, where v = (sum of g over forgotten - n/m * sum of g over retained) / (n + m), and
    H = I + (sum of g g^T over at most `examples` retained images) / `examples`, the empirical Fisher matrix of
    WoodFisher. H^-1 v is found by conjugate gradients; neither a matrix nor the gradient of a single image is stored.
    With `recursion`, what is done to v is the published recursion over single retained images: o = g_1, and for each
    other one t = o . g_i, then v <- v - (v . g_i) / (N + t) o and o <- o - t / (N + t) o, with N = `examples`.

    Source: Izzo et al. (AISTATS 2021) with WoodFisher, as in Jia et al., "Model Sparsity Can Simplify Machine
    Unlearning" (NeurIPS 2023, arXiv 2304.04934). Their recursion stands for this H^-1 v, but takes the product with
    the first gradient for that with every other's, so that it computes something else; we do what it stands for, unless
    `recursion` is set (as in SalUn's row "IU", arXiv 2310.12508). It takes images in the order of the data set, we in
    that of the loader.
    """

    published_figures = "mean gap to retraining of four measures, 4.06 points (CIFAR-10, ResNet-18, 10 %)"
    search_space: ClassVar = {"alpha": Between(0.1, 100, log=True)}

    alpha: float = 0.2
    """Length of the step; published 0.2, searched from 0.1 to 20."""
    recursion: bool = False
    """Whether to do as published."""
    examples: int = 1000
    """Most retained images in H, and what their sum is divided by; N of the recursion."""
    iterations: int = 50
    """Most steps of the conjugate gradients; they stop earlier at a residual of 1e-5 of the beginning."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` without `examples`."""
        if self.examples < 1:
            raise ValueError(f"examples must be at least 1, not {self.examples}.")
        net.eval()
        retained, forgotten = _images_and_labels(retain_loader), _images_and_labels(forget_loader)
        n, m = len(forgotten[1]), len(retained[1])
        weights = parameters_to_vector(net.parameters()).detach()  # (weights,)
        of_forgotten, of_retained = (_gradient(_losses(net, *data), weights) for data in (forgotten, retained))
        target = (of_forgotten - n / m * of_retained) / (n + m)
        if self.recursion:
            self._move(net, self._recursion(net, retained, target, weights))
            return
        some = _losses(net, retained[0][: self.examples], retained[1][: self.examples])

        def multiply(vector: torch.Tensor) -> torch.Tensor:
            return vector + _fisher_product(some, weights, vector) / self.examples

        self._move(net, self._solve(multiply, target))

    @torch.no_grad()
    def _move(self, net: nn.Module, direction: torch.Tensor) -> None:
        step = self.alpha * direction
        for weight, part in zip(net.parameters(), step.split([w.numel() for w in net.parameters()]), strict=True):
            weight.add_(part.view_as(weight))

    def _solve(self, multiply: Callable[[torch.Tensor], torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """H^-1 target by conjugate gradients, where `multiply` is the product with H."""
        solution, residual, direction = torch.zeros_like(target), target, target
        size = start = residual.dot(residual)
        for _ in range(self.iterations):
            if size <= 1e-10 * start:
                break
            product = multiply(direction)
            length = size / direction.dot(product)
            solution, residual = solution + length * direction, residual - length * product
            before, size = size, residual.dot(residual)
            direction = residual + size / before * direction
        return solution

    def _recursion(
        self, net: nn.Module, retained: tuple[torch.Tensor, torch.Tensor], target: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """What the published recursion makes of the vector `target`, `(weights,)`."""
        images = zip(*(part[: self.examples].split(1) for part in retained), strict=True)
        gradients = (_gradient(_losses(net, *image), weights) for image in images)
        first = next(gradients)
        for gradient in gradients:
            product = first.dot(gradient)
            target = target - target.dot(gradient) / (self.examples + product) * first
            first = first - product / (self.examples + product) * first
        return target


def _images_and_labels(loader: Loader) -> tuple[torch.Tensor, torch.Tensor]:
    batches = [(sample["image"], sample["age_group"]) for sample in loader]
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def _losses(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Losses:
    """For each batch of 256 images: a function from the weights to the cross-entropy of each image, `(B,)`."""
    shapes = {name: weight.shape for name, weight in net.named_parameters()}
    device = next(net.parameters()).device

    def losses_of(images: torch.Tensor, labels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        def losses(weights: torch.Tensor) -> torch.Tensor:
            parts = weights.split([shape.numel() for shape in shapes.values()])
            named = {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
            return F.cross_entropy(functional_call(net, named, (images,)), labels, reduction="none")

        return losses

    parts = zip(images.to(device).split(256), labels.to(device).split(256), strict=True)
    return [losses_of(images, labels) for images, labels in parts]


def _gradient(losses: Losses, weights: torch.Tensor) -> torch.Tensor:
    """The sum over all images of the gradients: `(weights,)`."""
    return torch.stack([grad(lambda weights, loss=loss: loss(weights).sum())(weights) for loss in losses]).sum(dim=0)


def _fisher_product(losses: Losses, weights: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """(sum over all images of g g^T) times the vector: first each g^T vector, then the sum of g times that."""
    total = torch.zeros_like(vector)
    for loss in losses:
        products = jvp(loss, (weights,), (vector,))[1]  # (B,)
        total += vjp(loss, weights)[1](products)[0]
    return total
