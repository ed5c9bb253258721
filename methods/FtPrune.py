"""Prune the original, then fine-tune what is left on the retain set."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader


class FtPrune(BaseMethod):
    """Set the smallest weights to zero, fine-tune the others on the retain set, and keep the zeros.

    Of the weights of all convolutions and linear layers together, the `share` with the smallest absolute value becomes
    0 and stays 0. The others minimise CE(retain) + alpha_e |weights|_1 with alpha_e = alpha (1 - e / E) in epoch e
    (from 0) of E. At share 0 it is `l1_sparse`, and with alpha 0, too, `finetune`, bit for bit.

    Source: "prune first, then unlearn" of Jia et al., "Model Sparsity Can Simplify Machine Unlearning" (NeurIPS 2023,
    arXiv 2304.04934), with one-shot magnitude pruning (95 %), which has its own fine-tuning there before it unlearns.
    The function of this name in their code has the penalty; the paper's "prune, then fine-tune" is without (alpha 0).
    """

    tried_with: ClassVar = {"share": 0.3}  # of a network that is half pruned already, most of the rest is to stay
    search_space: ClassVar = {
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-4, 0.3, log=True),
        "share": Between(0.1, 0.99),
    }

    share: float = 0.95
    """Share of the weights that are pruned."""
    epochs: int = 10
    """Passes over the retain set."""
    learning_rate: float = 0.01
    """Step size of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 256
    """Images in a step."""
    alpha: float = 0.0
    """Weight of an L1 penalty in the first epoch."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for a share that is none."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is from 0 to 1, not {self.share}.")
        device = next(net.parameters()).device
        layers = [module.weight for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        masks = self._masks(layers)
        self._prune(layers, masks)
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

        for epoch in range(self.epochs):
            alpha = self.alpha * (1 - epoch / self.epochs)
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                net.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
                loss = F.cross_entropy(net(images), labels)
                if alpha:
                    loss = loss + alpha * torch.stack([weight.abs().sum() for weight in net.parameters()]).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                self._prune(layers, masks)
        net.eval()

    def _masks(self, layers: list[torch.Tensor]) -> list[torch.Tensor]:
        """True where a weight stays; for each layer, in its shape."""
        sizes = torch.cat([weight.detach().abs().flatten() for weight in layers])
        kept = torch.ones_like(sizes, dtype=torch.bool)
        kept[sizes.topk(int(self.share * len(sizes)), largest=False).indices] = False
        parts = kept.split([weight.numel() for weight in layers])
        return [part.view_as(weight) for part, weight in zip(parts, layers, strict=True)]

    @staticmethod
    @torch.no_grad()
    def _prune(layers: list[torch.Tensor], masks: list[torch.Tensor]) -> None:
        for weight, mask in zip(layers, masks, strict=True):
            weight.mul_(mask)
