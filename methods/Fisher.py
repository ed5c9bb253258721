"""Noise on every weight, the larger the less the retain set depends on it."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev, vmap

from methods.BaseMethod import BaseMethod, Between, Loader


class Fisher(BaseMethod):
    """Add Gaussian noise to each weight; its variance is inverse to the Fisher information on the retain set.

    F = mean over retained images of sum_k p_k (d log p_k / dw)^2, in eval mode. The variance of the noise is
    alpha * min(1 / (F + 1e-8), 1e3), or 1e2 in the last layer; it is averaged over the input channels of a weight;
    and ten times that in the last layer and in all vectors (biases, batch normalisation). If a class is in the forget
    set only, the mean of its weights in the last layer is moved to 0, and their variance is 1e-3.

    Source: Golatkar et al., "Eternal Sunshine of the Spotless Net" (CVPR 2020, arXiv 1911.04933). Their code and most
    that follow it square the gradient of each image. Unlearn-Sparse (arXiv 2304.04934) has images_squared=32 alpha=0.2:
    it takes the mean over 32 images of p_k and of the derivative before it squares that, which makes F smaller. The
    notebooks of Golatkar et al. and SCRUB's run 1e-6 to 1e-8.
    """

    search_space: ClassVar = {"alpha": Between(1e-9, 1e-3, log=True)}

    alpha: float = 1e-6
    """Scale of the variance of the noise."""
    images_squared: int = 1
    """Images over which derivatives and probabilities are averaged before the derivatives are squared."""
    examples: int = 0
    """Most retained images that F is a mean over; 0 takes all of them."""
    chunk_numbers: int = 30_000_000
    """Most numbers that the derivatives of the images treated at once may have; fewer need less memory."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        net.eval()
        information = self._information(net, retain_loader)
        last = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]
        retained, forgotten = _classes(retain_loader), _classes(forget_loader)
        unlearned = forgotten[~torch.isin(forgotten, retained)].to(next(net.parameters()).device)
        with torch.no_grad():
            for name, weight in net.named_parameters():
                in_last = any(weight is own for own in last.parameters())
                variance = (1 / (information[name] + 1e-8)).clamp(max=1e2 if in_last else 1e3) * self.alpha
                if weight.ndim > 1:
                    variance = variance.mean(dim=1, keepdim=True).expand_as(weight).clone()
                if in_last:
                    weight[unlearned] = 0
                    variance[unlearned] = 1e-4
                if in_last or weight.ndim == 1:
                    variance *= 10
                weight.add_(variance.sqrt() * torch.randn_like(weight))

    def _information(self, net: nn.Module, loader: Loader) -> dict[str, torch.Tensor]:
        """The diagonal of the Fisher information, by parameter and in its shape."""
        weights = {name: weight.detach() for name, weight in net.named_parameters()}
        device = next(net.parameters()).device
        information = {name: torch.zeros_like(weight) for name, weight in weights.items()}

        def log_probabilities(weights: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
            return F.log_softmax(functional_call(net, weights, (image[None],)), dim=1)[0]  # (classes,)

        images = torch.cat([sample["image"] for sample in loader])[: self.examples or None]
        with torch.no_grad():
            classes = net(images[:1].to(device)).shape[1]
        numbers = classes * sum(weight.numel() for weight in weights.values())  # derivatives of one image
        group = max(1, self.images_squared)
        groups = math.ceil(len(images) / group)
        for part in images.to(device).split(group * max(1, self.chunk_numbers // (numbers * group))):
            derivatives = vmap(jacrev(log_probabilities), in_dims=(None, 0))(weights, part)
            with torch.no_grad():
                probabilities = _means(F.softmax(net(part), dim=1), group)  # (groups, classes)
            for name, derivative in derivatives.items():  # (B, classes, *weight.shape)
                squares = _means(derivative, group).square_()
                information[name] += torch.einsum("bk,bk...->...", probabilities, squares)
        return {name: total / groups for name, total in information.items()}


def _means(values: torch.Tensor, group: int) -> torch.Tensor:
    """The means of so many rows at a time, `(groups, ...)`; the last may be of fewer."""
    return values if group == 1 else torch.stack([part.mean(dim=0) for part in values.split(group)])


def _classes(loader: Loader) -> torch.Tensor:
    """The classes of which the loader has an image."""
    return torch.cat([sample["age_group"] for sample in loader]).unique().cpu()
