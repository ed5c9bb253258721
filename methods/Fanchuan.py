"""First place: flatten the predictions on the forget set, then push it off the retain set again and again."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader


class Fanchuan(BaseMethod):
    """Make forget predictions uniform, then alternate a contrastive forget round and a retain epoch.

    Stage 1 is one pass over the forget set that minimises KL(uniform || p). Stage 2 is `epochs` times: a forget round,
    in which each forget batch meets a retain batch and the mean over all pairs of -log softmax_r(f . r / temperature)
    is minimised, f and r being the logits, those of the retain batch fixed; then a retain epoch with cross-entropy.

    Source: first place of the competition (Kaggle discussion 458721; `kgltop1` of Deep Unlearn, arXiv 2410.01276).
    Where descriptions differ from the code, the default is the code and the description an option: `ascend` climbs the
    contrastive loss, and `reverse_kl` minimises KL(p || uniform). Retain batches are of 256, forget batches are the
    loader's; Deep Unlearn has 256 for both.
    """

    published_figures = "0.091 on Kaggle (public)"
    search_space: ClassVar = {
        "epochs": Between(1, 8),
        "uniform_rate": Between(5e-4, 0.1, log=True),
        "forget_rate": Between(3e-5, 0.01, log=True),
        "retain_rate": Between(4e-4, 0.1, log=True),
    }

    epochs: int = 8
    """Forget rounds, each followed by a pass over the retain set."""
    uniform_rate: float = 0.005
    """Step size of stage 1."""
    forget_rate: float = 3e-4
    """Step size of the first forget round; a cosine takes it to `final_forget_rate` step by step."""
    final_forget_rate: float = 1e-6
    """Step size of the last step of the last forget round."""
    retain_rate: float = 0.004
    """Step size of the retain epochs: 0.001 for every 64 images in a batch."""
    retain_weight_decay: float = 0.01
    """L2 regularisation in the retain epochs; elsewhere there is none."""
    retain_batch_size: int = 256
    """Images of the retain set in a step, of either kind."""
    momentum: float = 0.9
    """Momentum of SGD, in all three."""
    temperature: float = 1.15
    """What similarities are divided by."""
    ascend: bool = False
    """Whether forget rounds climb the contrastive loss."""
    reverse_kl: bool = False
    """Whether stage 1 minimises KL(p || uniform)."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        retain = DataLoader(retain_loader.dataset, batch_size=self.retain_batch_size, shuffle=True)
        weights, momentum = list(net.parameters()), self.momentum
        flatten = torch.optim.SGD(weights, lr=self.uniform_rate, momentum=momentum)
        repel = torch.optim.SGD(weights, lr=self.forget_rate, momentum=momentum)
        repair = torch.optim.SGD(weights, lr=self.retain_rate, momentum=momentum, weight_decay=self.retain_weight_decay)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            repel, T_max=len(forget_loader) * self.epochs, eta_min=self.final_forget_rate
        )

        def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        for sample in forget_loader:
            images = sample["image"].to(device)
            net.train(len(images) > 1 and not self.freeze_bn)  # batch normalisation needs two images
            step(flatten, self.distance_to_uniform(net(images)))
        for _ in range(self.epochs):
            for forget_sample, retain_sample in zip(forget_loader, retain, strict=False):
                forgotten, kept = forget_sample["image"].to(device), retain_sample["image"].to(device)
                net.train(min(len(forgotten), len(kept)) > 1 and not self.freeze_bn)
                loss = self.contrast(net(forgotten), net(kept).detach())
                step(repel, -loss if self.ascend else loss)
                scheduler.step()
            for sample in retain:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                net.train(len(images) > 1 and not self.freeze_bn)
                step(repair, F.cross_entropy(net(images), labels))
        net.eval()

    def distance_to_uniform(self, logits: torch.Tensor) -> torch.Tensor:
        """The divergence between predictions, from logits `(B, classes)`, and the uniform one; mean over images."""
        log_predicted = F.log_softmax(logits, dim=1)
        log_uniform = -torch.full_like(logits, logits.shape[1]).log()
        first, second = (log_predicted, log_uniform) if self.reverse_kl else (log_uniform, log_predicted)
        return (first.exp() * (first - second)).sum(dim=1).mean()  # KL(first || second)

    def contrast(self, forgotten: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """The contrastive loss of forget logits `(F, classes)` against retain logits `(R, classes)`."""
        similarity = forgotten @ kept.T / self.temperature  # (F, R)
        return -F.log_softmax(similarity, dim=1).mean()
