"""Forget as much as the retain loss allows: optimisation under a constraint, and a phase that refines the result."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader
from methods.initialisation import freshly_initialised

Sample = dict[str, Any]
History = dict[str, list[float]]

SOLVERS = ("penalty", "lagrange", "augmented_lagrange")
STOPS = ("none", "unlearning", "feasible", "forget_forever", "confusion", "refining")
SMALL_NORM, GROWTH = 5.0, 1.05
"""After an epoch whose mean gradient norm is below the first, a penalty's `alpha` is multiplied by the second."""


class Constrained(BaseMethod):
    """Maximise the forget loss subject to retain loss <= epsilon; then, as an option, refine.

    With CE_f and CE_r the cross-entropies of a forget and a retain batch, and r the residual of the constraint:

        unlearning  min -CE_f  subject to  r = CE_r - epsilon <= 0,  epsilon the original's retain loss
        refining    min  CE_r  subject to  r = CE_f - level    = 0,  level the validation loss after unlearning

    SGD minimises the objective plus a term for the constraint; an epoch has as many steps as the forget set has
    batches:

        penalty             alpha max(0, r)^2; after an epoch of small gradients alpha grows (`SMALL_NORM`, `GROWTH`)
        lagrange            lambda r; after the step lambda <- max(0, lambda + dual_rate r), r measured anew
        augmented_lagrange  lambda s + alpha s^2 with s = max(r, -lambda / (2 alpha)); lambda as above, by s

    An equality has s = r, and no max. After each epoch, `stop` (or `refine_stop`) decides whether the phase ends early:

        none            nothing
        unlearning      forget loss >= validation loss
        feasible        that, and the loss of the whole retain set is at most epsilon (with a `cap` it can come back)
        forget_forever  retain accuracy <= 90 %: top-5, or top-1 where there are 10 classes or fewer
        confusion       forget loss >= that of a network that has learned nothing
        refining        validation loss not lower for two epochs in a row, and |r| <= `tolerance`

    The history in `notes` has a number for each epoch: multiplier (lambda, or a penalty's alpha), epsilon (or level),
    mean norm of the gradient, forget and validation loss after the epoch, and mean retain loss of its batches.

    Source: "Machine Unlearning: A Constraint-Based Approach", known by its code alone (github.com/makamoa/unlearning);
    the defaults are those of its best figures: lagrange, 0.025, batches of 128 (its command line: 0.001, 32, 5 epochs).
    Its penalty spends an epoch on measuring epsilon in train mode, which moves batch normalisation; here it is eval
    mode, or train mode without the move. Its augmented Lagrangian knows equalities only. Refining would start with its
    lambda of 1, which learns the forget set again (`refine_multiplier`). "feasible", `slack` and `cap` are ours.
    """

    published_figures = "retain 97.7, forget 68.9, validation 64.8 % top-5 (CIFAR-100, 10 %)"
    search_space: ClassVar = {
        "epochs": Between(1, 40),
        "learning_rate": Between(1e-3, 0.1, log=True),
        "multiplier": Between(0.3, 30, log=True),
        "cap": Between(0, 3),
        "refine_epochs": Between(0, 10),
    }

    solver: str = "lagrange"
    """What is added for the constraint: penalty, lagrange or augmented_lagrange."""
    stop: str = "unlearning"
    """What ends unlearning before all its epochs: one of the names above."""
    epochs: int = 13
    """Most epochs of unlearning."""
    learning_rate: float = 0.025
    """Step size of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    batch_size: int = 128
    """Images of either set in a step."""
    multiplier: float = 1.0
    """Lambda at the beginning."""
    dual_rate: float = 0.025
    """Step size of lambda; in the published code that of the weights."""
    alpha: float = 10.0
    """Weight of the square of a residual, at the beginning."""
    slack: float = 0.0
    """Share by which epsilon exceeds the original's retain loss."""
    epsilon_in_train_mode: bool = False
    """Whether epsilon is measured with the batch normalisation of training, as published."""
    cap: float = 0.0
    """Forget loss beyond which unlearning does not climb, in validation losses; 0 is no limit, as published."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics; with large steps that diverges."""
    refine_epochs: int = 0
    """Most epochs of refining; 0 leaves it out."""
    refine_stop: str = "refining"
    """What ends refining early; with "confusion" the level is the loss of a network that has learned nothing."""
    refine_multiplier: float = 0.0
    """Lambda at the beginning of refining."""
    tolerance: float = 0.1
    """Residual that "refining" tolerates."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for an unknown `solver`, `stop` or `refine_stop`."""
        for value, known in ((self.solver, SOLVERS), (self.stop, STOPS), (self.refine_stop, STOPS)):
            if value not in known:
                raise ValueError(f"{value!r} is not one of {', '.join(known)}.")
        loaders = (retain_loader, forget_loader, val_loader)
        blank = (
            _mean_loss(freshly_initialised(net), forget_loader)
            if "confusion" in (self.stop, self.refine_stop)
            else math.inf
        )
        epsilon = _mean_loss(copy.deepcopy(net), retain_loader, training=self.epsilon_in_train_mode)
        bound = Constraint(self.solver, epsilon * (1 + self.slack), self.multiplier, self.alpha)
        self._most = self.cap * _mean_loss(net, val_loader) if self.cap else math.inf
        history = self._phase(net, loaders, bound, self.epochs, self.stop, blank)
        if self.refine_epochs:
            level = blank if self.refine_stop == "confusion" else _mean_loss(net, val_loader)
            bound = Constraint(self.solver, level, self.refine_multiplier, self.alpha, is_equality=True)
            refining = self._phase(net, loaders, bound, self.refine_epochs, self.refine_stop, blank)
            history |= {f"refine_{name}": values for name, values in refining.items()}
        self.notes = {"history": history}
        net.eval()

    def _phase(
        self, net: nn.Module, loaders: tuple[Loader, ...], bound: Constraint, epochs: int, stop: str, blank: float
    ) -> History:
        """Unlearn, or refine if the constraint is an equality: what happened in each epoch."""
        retain, forget = (DataLoader(loader.dataset, self.batch_size, shuffle=True) for loader in loaders[:2])
        retained = _forever(retain)
        optimizer = torch.optim.SGD(net.parameters(), lr=self.learning_rate, momentum=self.momentum)
        history: History = {}
        for _ in range(epochs):
            steps = [self._step(net, optimizer, bound, next(retained), sample) for sample in forget]
            retain_loss, norm = (sum(values) / len(steps) for values in zip(*steps, strict=True))
            epoch = {
                "multiplier": bound.alpha if self.solver == "penalty" else bound.multiplier,
                "level" if bound.is_equality else "epsilon": bound.level,
                "forget_loss": _mean_loss(net, loaders[1]),
                "retain_loss": retain_loss,
                "validation_loss": _mean_loss(net, loaders[2]),
                "gradient_norm": norm,
            }
            for name, value in epoch.items():
                history.setdefault(name, []).append(value)
            if self._is_over(stop, history, net, loaders[0], bound, blank):
                break
            if self.solver == "penalty" and norm < SMALL_NORM:
                bound.alpha *= GROWTH
        return history

    def _step(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, bound: Constraint, retain: Sample, forget: Sample
    ) -> tuple[float, float]:
        """Move the weights, then lambda. The retain loss as it was before, and the norm of the gradient."""
        # Batch normalisation cannot normalise over a single image: then it keeps to its statistics.
        net.train(not self.freeze_bn and min(len(retain["image"]), len(forget["image"])) > 1)
        retain_loss, forget_loss = _loss(net, retain), _loss(net, forget)
        if bound.is_equality:
            total = retain_loss + bound.price(forget_loss)
        else:
            total = bound.price(retain_loss) - forget_loss.clamp(max=self._most)
        optimizer.zero_grad()
        total.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), math.inf)  # measured, not clipped
        optimizer.step()
        if self.solver != "penalty":
            with torch.no_grad():
                bound.move(_loss(net, forget if bound.is_equality else retain), self.dual_rate)
        return float(retain_loss.detach()), float(norm)

    def _is_over(
        self, stop: str, history: History, net: nn.Module, retain_loader: Loader, bound: Constraint, blank: float
    ) -> bool:
        forget_loss, validation_losses = history["forget_loss"][-1], history["validation_loss"]
        if stop == "confusion":
            return forget_loss >= blank
        if stop == "forget_forever":
            return _accuracy(net, retain_loader) <= 0.9
        if stop == "refining":
            bounded = forget_loss if bound.is_equality else history["retain_loss"][-1]
            rising = len(validation_losses) > 2 and sorted(validation_losses[-3:]) == validation_losses[-3:]
            return rising and abs(bounded - bound.level) <= self.tolerance
        is_forgotten = stop != "none" and forget_loss >= validation_losses[-1]
        return is_forgotten and (stop == "unlearning" or _mean_loss(net, retain_loader) <= bound.level)


@dataclass
class Constraint:
    """A loss that is to be at most `level`, or equal to it, and what it costs if it is not."""

    solver: str
    level: float
    multiplier: float
    """Lambda."""
    alpha: float
    is_equality: bool = False

    def priced(self, loss: Tensor) -> Tensor:
        """The residual r = loss - level, or what of it counts: max(0, r) for a penalty, s for the augmented."""
        residual = loss - self.level
        if self.is_equality or self.solver == "lagrange" or self.alpha == 0:
            return residual
        return residual.clamp(min=0.0 if self.solver == "penalty" else -self.multiplier / (2 * self.alpha))

    def price(self, loss: Tensor) -> Tensor:
        """What is added to the objective."""
        part = self.priced(loss)
        if self.solver == "lagrange":
            return self.multiplier * part
        square = self.alpha * part.square()
        return square if self.solver == "penalty" else self.multiplier * part + square

    def move(self, loss: Tensor, rate: float) -> None:
        """Dual ascent: lambda goes up by `rate` times the residual; that of an inequality stays at 0 or above."""
        self.multiplier += rate * float(self.priced(loss).detach())
        if not self.is_equality:
            self.multiplier = max(0.0, self.multiplier)


def _forever(loader: Loader) -> Iterator[Sample]:
    """Batch after batch, epoch after epoch."""
    while True:
        yield from loader


def _loss(net: nn.Module, sample: Sample) -> Tensor:
    device = next(net.parameters()).device
    return F.cross_entropy(net(sample["image"].to(device)), sample["age_group"].to(device))


@torch.no_grad()
def _mean_loss(net: nn.Module, loader: Loader, training: bool = False) -> float:
    """The mean loss of all images; `training` moves the statistics of batch normalisation."""
    losses, images = 0.0, 0
    for sample in loader:
        net.train(training and len(sample["image"]) > 1)
        losses += len(sample["image"]) * float(_loss(net, sample))
        images += len(sample["image"])
    return losses / images


@torch.no_grad()
def _accuracy(net: nn.Module, loader: Loader) -> float:
    """Top-5 accuracy, or top-1 accuracy where there are 10 classes or fewer."""
    net.eval()
    device = next(net.parameters()).device
    hits = []
    for sample in loader:
        logits = net(sample["image"].to(device))  # (B, classes)
        best = logits.topk(5 if logits.shape[1] > 10 else 1).indices  # (B, 5 or 1)
        hits.append((best == sample["age_group"].to(device)[:, None]).any(dim=1))
    return float(torch.cat(hits).double().mean())
