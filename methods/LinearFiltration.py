"""Multiply the last layer by a matrix that makes the network's mean answers those of one that has not learned."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class LinearFiltration(BaseMethod):
    """Multiply the logits by a matrix that moves the mean logits of forgotten classes to chosen values.

    Column c of A, `(classes, classes)`, is the mean of the logits of class c. With B the target for A, F = B A^-1 and
    the last layer becomes F W, F b. There is no training. B keeps the retained classes' columns. Of a forgotten class's
    column x, the rows of retained classes become by `mode`: "normalization", x plus the number that makes their mean
    that of the retained block; "randomization", N(0, 1); "zeroing", 0; "naive", x. The rows of forgotten classes become
    the smallest of the other rows: a network must keep its outputs, and none of them is then likely.

    Source: Baumhauer et al., "Machine Unlearning: Linear Filtration for Logit-based Classifiers" (Machine Learning
    2022, arXiv 2002.02730), which drops the rows. It is for whole classes, those of which nothing is retained. A
    forget set without any is treated by an extension of ours: F = A_v A_f^-1, of the means on the validation and on
    the forget set, moves forgotten images to where unseen ones are; |F - I| is limited to `largest_change`. The
    features are never changed, so what they know of the forget set remains.
    """

    guarantee = "exact filter of the last layer; features keep what they know"
    deterministic = True
    whole_classes = True
    search_space: ClassVar = {
        "mode": OneOf(("normalization", "randomization", "zeroing", "naive")),
        "ridge": Between(0.0, 10.0),
        "largest_change": Between(0.0, 2.0),
    }

    mode: str = "normalization"
    """What forgotten classes become; see above."""
    ridge: float = 0.0
    """Added to the diagonal of A A^T, for an A that can hardly be inverted; 0 takes the pseudo-inverse."""
    largest_change: float = 0.5
    """Largest spectral norm of F - I for a forget set without whole classes."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` if the mode is unknown, or there is no class to retain."""
        if self.mode not in ("normalization", "randomization", "zeroing", "naive"):
            raise ValueError(f"mode is normalization, randomization, zeroing or naive, not {self.mode!r}.")
        net.eval()
        retained, n_retained = _sums(net, retain_loader)
        forgotten, n_forgotten = _sums(net, forget_loader)
        removed = (n_forgotten > 0) & (n_retained == 0)  # (classes,)
        identity = torch.eye(len(removed), dtype=torch.float64)
        if removed.any():
            # A class without images stays as it is: any column does that is independent of the others.
            means = _means(retained + forgotten, n_retained + n_forgotten, otherwise=identity)
            filtration = identity + self._filter(means, self._wanted(means, removed))
        else:
            seen = _means(forgotten, n_forgotten, otherwise=identity)
            unseen = torch.where(n_forgotten > 0, _means(*_sums(net, val_loader), otherwise=seen), seen)
            change = self._filter(seen, unseen)
            norm = torch.linalg.matrix_norm(change, ord=2)
            filtration = identity + change * (self.largest_change / norm.clamp(min=1e-12)).clamp(max=1)
        last = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]
        with torch.no_grad():
            for weight in last.parameters():  # weight, and bias if there is one
                rows = weight.view(len(removed), -1).cpu().double()  # (classes, inputs)
                weight.copy_((filtration @ rows).view_as(weight))

    def _wanted(self, means: torch.Tensor, removed: torch.Tensor) -> torch.Tensor:
        """B of the docstring, `(classes, classes)`."""
        kept = ~removed
        if not kept.any():
            raise ValueError("Linear filtration needs a class to retain; the forget set has all images of all classes.")
        of_retained, of_removed = means[kept][:, kept], means[kept][:, removed]  # (kept, kept), (kept, removed)
        if self.mode == "normalization":
            of_removed = of_removed + of_retained.mean() - of_removed.mean(dim=0)
        elif self.mode == "randomization":
            of_removed = torch.randn(of_removed.shape, dtype=torch.float64)
        elif self.mode == "zeroing":
            of_removed = torch.zeros_like(of_removed)
        rows = torch.empty(len(of_retained), len(means), dtype=torch.float64)
        rows[:, kept], rows[:, removed] = of_retained, of_removed
        wanted = rows.amin(dim=0).expand_as(means).clone()
        wanted[kept] = rows
        return wanted

    def _filter(self, means: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """F - I, where F takes `means` to `wanted`, with the least change among those that do so best."""
        if self.ridge == 0:
            return (wanted - means) @ torch.linalg.pinv(means)
        gram = means @ means.T + self.ridge * torch.eye(len(means), dtype=torch.float64)
        return torch.linalg.solve(gram, means @ (wanted - means).T).T


@torch.no_grad()
def _sums(net: nn.Module, loader: Loader) -> tuple[torch.Tensor, torch.Tensor]:
    """By class, as columns: the sum of the logits, float64 `(classes, classes)`, and the number of images."""
    device = next(net.parameters()).device
    logits, labels = [], []
    for sample in loader:
        logits.append(net(sample["image"].to(device)).cpu().double())  # (B, classes)
        labels.append(sample["age_group"].cpu())
    all_logits = torch.cat(logits)
    is_class = F.one_hot(torch.cat(labels), all_logits.shape[1])  # (images, classes)
    return all_logits.T @ is_class.double(), is_class.sum(dim=0)


def _means(sums: torch.Tensor, counts: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """The mean logits of each class, as columns; those of `otherwise` for classes without images."""
    return torch.where(counts > 0, sums / counts.clamp(min=1), otherwise)
