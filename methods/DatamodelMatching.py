"""Predict how sure a model without the forget set would be of each forgotten image, and fine-tune to that."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class DatamodelMatching(BaseMethod):
    """Predict the margin of each forgotten image as if it had not been trained on, and fine-tune to it (DMM).

    The margin of an image of class y is m = z_y - log sum of exp(z_k) over the other classes, z being the logits. All
    images together, minimise the mean of (m - m*)^2, where m* is the original's own margin on retained images, and a
    prediction on forgotten ones. The prediction asks a surrogate which has never seen them: kernel ridge regression
    of the one-hot labels, less their mean, on the pixels of the retain set, with kernel exp(-width |x - x'|^2 / median
    of all |x - x'|^2). Its own margin s is the score of y less the best other one. On the validation set, which the
    original has not seen either, least squares gives m = a s + b; then m* = a s + b, plus `noise` times what is left
    over there, as chance has it in a retrained model.

    Source: Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching" (ICLR 2025, arXiv
    2410.23232) for the idea, and for fine-tuning to predicted outputs by squared error. Their predictions are sums of
    the influences of all forgotten images, estimated from very many trained models, which no run has the budget for.
    Ours: the surrogate and its calibration, retained images that stay as they are, the chance, and all values. On
    digits, where width and ridge were chosen by it, the mean margins of retrained models correlate with predictions at
    0.88, with the original's margins at 0.55 to 0.65; in the original's features the same kernel predicts at 0.3 to
    0.5, as they have learned the forget set. Validation images of classes that are wholly forgotten are left out.
    """

    search_space: ClassVar = {
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-4, 0.03, log=True),
        "batch_size": OneOf((32, 64, 128)),
        "noise": Between(0.0, 2.0),
    }

    epochs: int = 5
    """Passes over both sets together."""
    learning_rate: float = 0.003
    """Step size of Adam."""
    batch_size: int = 64
    """Images in a step."""
    width: float = 1.0
    """The larger, the narrower the kernel."""
    ridge: float = 0.5
    """What is added to the diagonal of the kernel matrix, whose diagonal is 1."""
    surrogate_images: int = 2000
    """Most retained images, drawn at random, that the surrogate learns; its cost grows with the cube of them."""
    noise: float = 1.0
    """Size of the chance in m*, in standard deviations of what the calibration leaves over; drawn once a run."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` without `surrogate_images`."""
        if self.surrogate_images < 1:
            raise ValueError(f"surrogate_images must be at least 1, not {self.surrogate_images}.")
        device = next(net.parameters()).device
        retain, forget, unseen = (_everything(loader) for loader in (retain_loader, forget_loader, val_loader))
        predicted = self._predictions(net, retain, forget, unseen)
        wanted = torch.cat([predicted, _margins_of(net, retain)])
        images, labels = (torch.cat(pair) for pair in zip(forget, retain, strict=True))
        optimizer = torch.optim.Adam(net.parameters(), lr=self.learning_rate)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(labels)).split(self.batch_size):
                # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
                net.train(len(rows) > 1 and not self.freeze_bn)
                found = _margins(net(images[rows].to(device)), labels[rows].to(device))
                loss = (found - wanted[rows].to(device)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()

    def _predictions(self, net: nn.Module, retain: Examples, forget: Examples, unseen: Examples) -> torch.Tensor:
        """m* of the forgotten images, `(images,)`; `net` is the original."""
        known = torch.isin(unseen[1], retain[1])
        if known.any():
            unseen = (unseen[0][known], unseen[1][known])
        margins = _margins_of(net, unseen).double()
        chosen = torch.randperm(len(retain[1]))[: self.surrogate_images]
        classes = int(torch.cat([retain[1], forget[1], unseen[1]]).max()) + 1
        scores = self._surrogate((retain[0][chosen], retain[1][chosen]), [unseen, forget], classes)
        calibrating, asked = (torch.stack([score, torch.ones_like(score)], dim=1) for score in scores)
        line = torch.linalg.lstsq(calibrating, margins[:, None], driver="gelsd").solution  # a and b
        left_over = (margins - (calibrating @ line)[:, 0]).square().mean().sqrt()
        chance = self.noise * left_over * torch.randn(len(asked))
        return ((asked @ line)[:, 0] + chance).float()

    def _surrogate(self, learned: Examples, asked: list[Examples], classes: int) -> list[torch.Tensor]:
        """The surrogate's own margins s of each of the `asked` sets, float64 `(images,)`."""
        pixels = learned[0].flatten(1).double()
        distances = torch.cdist(pixels, pixels).square()
        scale = self.width / distances.median().clamp(min=1e-12)
        matrix = torch.exp(-scale * distances) + self.ridge * torch.eye(len(pixels), dtype=torch.float64)
        targets = F.one_hot(learned[1], classes).double()
        weights = torch.linalg.solve(matrix, targets - targets.mean(dim=0))  # (learned, classes)
        found = []
        for images, labels in asked:
            kernel = torch.exp(-scale * torch.cdist(images.flatten(1).double(), pixels).square())
            scores = kernel @ weights  # (images, classes)
            own = scores.gather(1, labels[:, None])
            found.append((own - scores.scatter(1, labels[:, None], -torch.inf).amax(dim=1, keepdim=True))[:, 0])
        return found


Examples = tuple[torch.Tensor, torch.Tensor]
"""Images and labels."""


def _everything(loader: Loader) -> Examples:
    """All images and their labels, on the CPU."""
    batches = [(sample["image"].cpu(), sample["age_group"].cpu()) for sample in loader]
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def _margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The logit of the probability of each image's class, `(B,)`."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return logits.gather(1, labels[:, None])[:, 0] - others.logsumexp(dim=1)


@torch.no_grad()
def _margins_of(net: nn.Module, examples: Examples) -> torch.Tensor:
    """The margins of all images, in eval mode, on the CPU."""
    net.eval()
    device = next(net.parameters()).device
    parts = zip(examples[0].split(256), examples[1].split(256), strict=True)
    return torch.cat([_margins(net(images.to(device)), labels.to(device)).cpu() for images, labels in parts])
