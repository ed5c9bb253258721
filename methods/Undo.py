"""Unlearn, damage, and distil back in what is to be known: what is learned anew has no memory below it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf
from methods.initialisation import freshly_initialised


class Undo(BaseMethod):
    """Distil an unlearned network into a copy of itself that is partly re-initialised (UNDO).

    1. Unlearn: the teacher is the original after `teacher_epochs` of "finetune" (cross-entropy of the retain set),
       "max_entropy" (that, plus KL(uniform || p) on a forget batch), or the "original" as it is.
    2. Noise: each matrix or kernel of the student is (1 - alpha) theta + alpha beta N, where theta is the teacher's and
       N drawn as when the network was built; each vector (1 - alpha) theta + alpha N.
    3. Distil: minimise KL(teacher || student) on the retain set, until the student's accuracy on the validation set is
       at most `tolerance` below the teacher's, after an epoch, or `epochs` are over.

    Source: Lee et al., "Distillation Robustifies Unlearning" (NeurIPS 2025, arXiv 2506.06278), of language models, and
    its code: beta 0.1, alphas from 0.1 to 0.8 (0.6 is our choice), AdamW at 7e-4 or 9e-4 without decay, gradients
    clipped to 1, a stop at 5 % below the teacher. There the teacher is "max_entropy" (among others), and distils on
    both sets (`on_forget`); on single images a retrained network isn't undecided, so that "finetune" and the retain set
    are ours. Ours, too, are N (theirs is Xavier's uniform for matrices, and 0 for vectors, which are offsets there),
    the batches, the number of epochs, the teacher's settings, accuracy on the validation set as the measure, and a
    constant rate (theirs warms up, and falls on a cosine).
    """

    search_space: ClassVar = {
        "teacher": OneOf(("finetune", "max_entropy", "original")),
        "alpha": Between(0.1, 0.9),
        "beta": Between(0.01, 1.0, log=True),
        "epochs": Between(1, 5),
        "learning_rate": Between(1e-4, 0.03, log=True),
    }

    teacher: str = "finetune"
    """What the teacher is: "finetune", "max_entropy" (published) or "original"."""
    teacher_epochs: int = 2
    """Passes over the retain set in which the teacher unlearns."""
    teacher_rate: float = 0.001
    """Step size of AdamW for the teacher; published 9e-5 and 3e-5."""
    alpha: float = 0.6
    """How much of the teacher's weights is taken away, from 0, nothing, to 1, all."""
    beta: float = 0.1
    """Size of the fresh weights that replace it, in units of those of a new network."""
    epochs: int = 4
    """Passes over what the teacher distils on, at most."""
    learning_rate: float = 7e-4
    """Step size of AdamW for the student."""
    clip: float = 1.0
    """The norm that gradients are clipped to, of both."""
    tolerance: float = 0.05
    """By how much the student may be less accurate than the teacher for it to stop; -1 never stops."""
    on_forget: bool = False
    """Whether the teacher distils on the forget set as well, as published."""
    batch_size: int = 64
    """Images in a step."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for another `teacher` or `alpha`, or weights that stay.

        The notes have the student's accuracy on the validation set less the teacher's, epoch by epoch.
        """
        if self.teacher not in ("finetune", "max_entropy", "original"):
            raise ValueError(f"teacher is finetune, max_entropy or original, not {self.teacher!r}.")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is from 0 to 1, not {self.alpha}.")
        device = next(net.parameters()).device
        if self.teacher != "original":
            self._unlearn(net, retain_loader, forget_loader)
        teacher = copy.deepcopy(net).eval()
        self._damage(net)
        sets = [retain_loader.dataset, forget_loader.dataset] if self.on_forget else [retain_loader.dataset]
        loader = DataLoader(ConcatDataset(sets) if self.on_forget else sets[0], self.batch_size, shuffle=True)
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.learning_rate, weight_decay=0.0)
        target = self._accuracy(teacher, val_loader)

        gaps: list[float] = []
        self.notes = {"accuracy less teacher's": gaps}
        for _ in range(self.epochs):
            for sample in loader:
                images = sample["image"].to(device)
                with torch.no_grad():
                    wanted = F.softmax(teacher(images), dim=1)
                found = F.log_softmax(self._logits(net, images), dim=1)
                self._step(net, optimizer, F.kl_div(found, wanted, reduction="batchmean"))
            gaps.append(self._accuracy(net, val_loader) - target)
            if gaps[-1] >= -self.tolerance:
                break
        net.eval()

    def _unlearn(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader) -> None:
        """The first phase, in place."""
        device = next(net.parameters()).device
        retain, forget = (
            DataLoader(loader.dataset, batch_size=self.batch_size, shuffle=True)
            for loader in (retain_loader, forget_loader)
        )
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.teacher_rate, weight_decay=0.0)
        forgotten: Iterator[dict[str, Any]] = iter(())
        for _ in range(self.teacher_epochs):
            for sample in retain:
                logits = self._logits(net, sample["image"].to(device))
                loss = F.cross_entropy(logits, sample["age_group"].to(device))
                if self.teacher == "max_entropy":
                    other = next(forgotten, None)
                    if other is None:
                        forgotten = iter(forget)
                        other = next(forgotten)
                    found = F.log_softmax(self._logits(net, other["image"].to(device)), dim=1)
                    uniform = torch.full_like(found, 1 / found.shape[1])
                    loss = loss + F.kl_div(found, uniform, reduction="batchmean")
                self._step(net, optimizer, loss)

    @torch.no_grad()
    def _damage(self, net: nn.Module) -> None:
        """The second phase, in place; statistics of batch normalisation stay as they are."""
        for weight, fresh in zip(net.parameters(), freshly_initialised(net).parameters(), strict=True):
            size = self.beta if weight.dim() > 1 else 1.0
            weight.copy_((1 - self.alpha) * weight + self.alpha * size * fresh)

    def _logits(self, net: nn.Module, images: torch.Tensor) -> torch.Tensor:
        # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
        net.train(len(images) > 1 and not self.freeze_bn)
        logits: torch.Tensor = net(images)
        return logits

    def _step(self, net: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), self.clip)
        optimizer.step()

    @staticmethod
    @torch.no_grad()
    def _accuracy(net: nn.Module, loader: Loader) -> float:
        """The share of right answers, in eval mode."""
        device = next(net.parameters()).device
        net.eval()
        hits = [(net(sample["image"].to(device)).argmax(dim=1).cpu() == sample["age_group"].cpu()) for sample in loader]
        return float(torch.cat(hits).double().mean())
