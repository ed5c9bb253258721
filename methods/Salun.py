"""Random labels on the forget set, but only for the weights that the forget set depends on most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf

OBJECTIVES = ("random_label", "gradient_ascent", "finetune")


class Salun(BaseMethod):
    """Train on random labels of the forget set and true ones of the retain set, changing salient weights only.

    The salient weights are the share `threshold` of all with the largest |sum over forget batches of the gradient of
    the cross-entropy|, in eval mode. An epoch is a pass over the forget set, with uniformly random labels that are
    drawn anew for every batch and may be the true ones, then a pass over the retain set. `mode` "hard" puts all other
    weights, and their momentum, back after every step; "soft" instead lets all weights change, but after every step
    shrinks all changes by the size below which a share of them lies, to 0 at most: a share that falls linearly from
    1 - `threshold` to 0 over the epochs. That changes are measured from the original is ours; with `from_epoch` they
    are those of the epoch, as in the published code, which also is `mixed`.

    Source: Fan et al., "SalUn" (ICLR 2024, arXiv 2310.12508), CIFAR-10; `mixed` is its epoch for CIFAR-100, and its
    mask is for gradient ascent and fine-tuning, too. Its first code only set gradients to zero, so that weight decay
    and momentum moved masked weights; the newer, followed here, holds them. At threshold 1 it is `random_label` bit for
    bit.
    """

    published_figures = "mean gap to retraining of four measures, 1.15 points (CIFAR-10, ResNet-18, 10 %)"
    search_space: ClassVar = {
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-3, 0.3, log=True),
        "threshold": Between(0.1, 1.0),
        "mode": OneOf(("hard", "soft")),
    }

    epochs: int = 10
    """Passes over both sets."""
    learning_rate: float = 0.013
    """Step size of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 256
    """Images in a step."""
    threshold: float = 0.5
    """Share of the weights that are salient."""
    mode: str = "hard"
    """Either "hard" (a mask) or "soft" (a proximal step)."""
    from_epoch: bool = False
    """Mode "soft": whether changes are measured from the weights at the start of the epoch, not from the original."""
    objective: str = "random_label"
    """What salient weights learn: "random_label" as above, "gradient_ascent" (climb the cross-entropy of the forget set
    alone), or "finetune" (the retain set alone)."""
    mixed: bool = False
    """Whether an epoch is one pass over both sets mixed, with random labels that are drawn once for each epoch."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for an unknown mode or objective, or a threshold of no share."""
        if self.mode not in ("hard", "soft"):
            raise ValueError(f"mode is hard or soft, not {self.mode!r}.")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is from 0 to 1, not {self.threshold}.")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {', '.join(OBJECTIVES)}, not {self.objective!r}.")
        device = next(net.parameters()).device
        original = [weight.detach().clone() for weight in net.parameters()]
        masks = self._masks(net, forget_loader) if self.mode == "hard" else []
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        for epoch in range(self.epochs):
            start = [weight.detach().clone() for weight in net.parameters()] if self.from_epoch else original
            for images, labels, forgotten in self._batches(retain_loader, forget_loader):
                images, labels = images.to(device), labels.to(device)
                net.train(len(images) > 1 and not self.freeze_bn)  # batch normalisation needs two images
                logits = net(images)
                if forgotten.any() and self.objective == "random_label":
                    random = torch.randint(logits.shape[1], labels.shape)
                    labels = torch.where(forgotten.to(device), random.to(device), labels)
                loss = F.cross_entropy(logits, labels)
                optimizer.zero_grad()
                (-loss if self.objective == "gradient_ascent" else loss).backward()
                optimizer.step()
                if self.mode == "hard":
                    self._restore(optimizer, masks, original)
                else:
                    self._shrink(net, start, (1 - self.threshold) * (1 - epoch / self.epochs))
        net.eval()

    def _batches(
        self, retain_loader: Loader, forget_loader: Loader
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """An epoch: images, labels, and whether each is to be forgotten."""
        if self.mixed and self.objective == "random_label":
            loaders = ((forget_loader, True), (retain_loader, False))
            samples = [(sample, own) for loader, own in loaders for sample in loader]
            images = torch.cat([sample["image"].cpu() for sample, _ in samples])
            labels = torch.cat([sample["age_group"].cpu() for sample, _ in samples])
            forgotten = torch.cat([torch.full(sample["age_group"].shape, own) for sample, own in samples])
            yield from DataLoader(TensorDataset(images, labels, forgotten), batch_size=self.batch_size, shuffle=True)
            return
        forget, retain = (forget_loader.dataset, True), (retain_loader.dataset, False)
        passes = {"random_label": (forget, retain), "gradient_ascent": (forget,), "finetune": (retain,)}
        for dataset, own in passes[self.objective]:
            for sample in DataLoader(dataset, batch_size=self.batch_size, shuffle=True):
                yield sample["image"], sample["age_group"], torch.full(sample["age_group"].shape, own)

    def _masks(self, net: nn.Module, loader: Loader) -> list[torch.Tensor]:
        """True where a weight is salient; for each parameter, in its shape."""
        device = next(net.parameters()).device
        weights = list(net.parameters())
        sums = [torch.zeros_like(weight) for weight in weights]
        net.eval()
        for sample in loader:
            loss = F.cross_entropy(net(sample["image"].to(device)), sample["age_group"].to(device))
            for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
                total += gradient
        saliency = torch.cat([total.flatten() for total in sums]).abs()  # (weights,)
        chosen = torch.zeros_like(saliency, dtype=torch.bool)
        chosen[saliency.topk(int(self.threshold * len(saliency))).indices] = True
        parts = chosen.split([weight.numel() for weight in weights])
        return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]

    @staticmethod
    @torch.no_grad()
    def _restore(optimizer: torch.optim.Optimizer, masks: list[torch.Tensor], original: list[torch.Tensor]) -> None:
        """Take the step back where the mask is False, and its momentum too, which would repeat it."""
        for weight, mask, before in zip(optimizer.param_groups[0]["params"], masks, original, strict=True):
            weight.copy_(torch.where(mask, weight, before))
            momentum = optimizer.state[weight].get("momentum_buffer")
            if momentum is not None:
                momentum.mul_(mask)

    @staticmethod
    @torch.no_grad()
    def _shrink(net: nn.Module, original: list[torch.Tensor], share: float) -> None:
        """Soft-threshold the changes since the original, such that `share` of them become 0."""
        changes = [weight - before for weight, before in zip(net.parameters(), original, strict=True)]
        sizes = torch.cat([change.abs().flatten() for change in changes])  # (weights,)
        count = int(share * len(sizes))
        if count > 0:
            limit = sizes.kthvalue(count).values
            for weight, before, change in zip(net.parameters(), original, changes, strict=True):
                weight.copy_(before + change.sign() * (change.abs() - limit).clamp(min=0))
