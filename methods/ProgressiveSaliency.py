"""Forget in rounds, each with a mask of its own, until forgotten images cannot be told from images never seen."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import islice
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader


class ProgressiveSaliency(BaseMethod):
    """Forget in rounds: choose the salient weights, change them, rehearse, and check whether it is enough.

    Round r of `rounds` may move a share of the weights that rises linearly from `first_share` to `last_share`:

        mask      those with the largest |sum over the forget set of the gradient of the cross-entropy|, in eval mode
        forget    a pass over the forget set, down `loss`; all other weights, and their momentum, are put back. Losses
                  are: cross-entropy of "random" labels, which may be the true ones; "uniform", KL(uniform || answer);
                  "match", (cross-entropy of a batch - mean validation loss)^2
        rehearse  `rehearsal` times as many steps down the cross-entropy of the retain set, under the same mask
        look      accuracies A_f, A_val; AUC, the chance that a validation image's loss is above a forgotten one's

    It is enough when distance = max(|A_f - A_val| / accuracy_gap, |AUC - 1/2| / attack_gap) <= 1. Of whole classes
    nothing is to be known: then distance = ln(classes) / CE_f, or 0 if A_f <= accuracy_gap, and A_val leaves them out.
    It also ends when A_val has lost more than `largest_drop`, or another round would take more than is left of
    `seconds` (half of what the last one took plus half of what was expected of that one). What stays is the round of
    the least distance among those that have not lost too much.

    Source: a research idea of a machine-unlearning starter kit, without paper or published numbers; a round is one
    epoch of SalUn (arXiv 2310.12508). The rounds, shares, rates, steps and limits are the idea's; batches, the attack
    and what "best" means are ours. Of its losses "random" and "uniform" the first was better on digits; its option
    "match" forgets little and costs little. At a fixed share, `once`, with one rate and a rehearsal of the whole retain
    set, and without `stop`, it is `salun` bit for bit.
    """

    search_space: ClassVar = {
        "rounds": Between(1, 8),
        "forget_rate": Between(1e-3, 0.3, log=True),
        "retain_rate": Between(1e-3, 0.3, log=True),
        "last_share": Between(0.1, 1.0),
        "rehearsal": Between(0, 12),
    }

    rounds: int = 8
    """Most rounds; the last is the one with `last_share`."""
    first_share: float = 0.1
    """Share of the weights that the first of several rounds moves; equal to `last_share`, an ablation."""
    last_share: float = 0.5
    """Share of the weights that the last round moves."""
    once: bool = False
    """Whether saliency is measured in the first round alone, an ablation."""
    loss: str = "random"
    """What forgetting goes down: random, uniform or match."""
    forget_rate: float = 0.013
    """Step size of SGD on the forget set, as in SalUn."""
    rehearsal: int = 2
    """Retain steps for each forget step; 0 is an ablation."""
    rehearse_own: bool = False
    """Whether rehearsal may move as many weights again, those most salient for the retain set."""
    retain_rate: float = 0.01
    """Step size of SGD on the retain set."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 64
    """Images in a step."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""
    stop: bool = True
    """Whether to end early as described above and keep the best round; if not, all rounds run and the last is kept."""
    accuracy_gap: float = 0.02
    """Difference in accuracy that is tolerated."""
    attack_gap: float = 0.03
    """Distance of AUC from 1/2 that is tolerated."""
    largest_drop: float = 0.03
    """Validation accuracy that may be lost."""
    seconds: float = 0.0
    """Limit on the time of all rounds (processor time on a CPU); 0: none. With one, equal seeds may give other bits."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` if the loss is unknown."""
        if self.loss not in ("uniform", "random", "match"):
            raise ValueError(f"loss is uniform, random or match, not {self.loss!r}.")
        saliency = _saliency(net, forget_loader)
        touched = torch.zeros_like(saliency, dtype=torch.bool)
        retained = torch.cat([sample["age_group"] for sample in retain_loader]).unique().to(saliency.device)
        seen = start = self._look(net, forget_loader, val_loader, retained)
        forget = DataLoader(forget_loader.dataset, batch_size=self.batch_size, shuffle=True)
        rehearsal = _endless(DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True))
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.forget_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        history: dict[str, list[float]] = {}
        best, kept, state, why = (math.inf, math.inf), 0, net.state_dict(), ""
        for number in range(1, self.rounds + 1):
            began = _clock(saliency.device)
            if number > 1 and not self.once:
                saliency = _saliency(net, forget_loader)
            share = self._share(number)
            mask = _largest(saliency, share)
            self._train(net, optimizer, forget, mask, level=seen["validation_loss"])
            if self.rehearse_own:
                mask = mask | _largest(_saliency(net, retain_loader), share)
            self._train(net, optimizer, islice(rehearsal, self.rehearsal * len(forget)), mask)
            touched |= mask
            seen = self._look(net, forget_loader, val_loader, retained)
            row = {"share": share, "touched": float(touched.float().mean()), "seconds": _clock(mask.device) - began}
            for name, value in {**seen, **row}.items():
                history.setdefault(name, []).append(value)
            drop = start["validation_accuracy"] - seen["validation_accuracy"]
            rank = (float(drop > self.largest_drop), seen["distance"])
            if rank < best or not self.stop:
                best, kept, state = rank, number, _copy(net)
            why = self._why_stop(seen["distance"], drop, history["seconds"]) if self.stop else ""
            if why:
                break
        net.load_state_dict(state)
        net.eval()
        self.notes = {"history": history, "stopped": why or "rounds", "kept_round": kept}

    def _share(self, number: int) -> float:
        """Of the weights, in round `number`."""
        left = (self.rounds - number) / max(1, self.rounds - 1)
        return self.last_share - left * (self.last_share - self.first_share)

    def _train(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        samples: Iterable[dict[str, Any]],
        mask: torch.Tensor,
        level: float | None = None,
    ) -> None:
        """A step for each sample: to forget it, if there is a validation loss to go to; else to learn it."""
        weights = list(net.parameters())
        masks = mask.split([weight.numel() for weight in weights])
        held = [(w, w.detach().clone(), part.view_as(w)) for w, part in zip(weights, masks, strict=True)]
        optimizer.param_groups[0]["lr"] = self.retain_rate if level is None else self.forget_rate
        for sample in samples:
            images, labels = sample["image"].to(mask.device), sample["age_group"].to(mask.device)
            net.train(len(images) > 1 and not self.freeze_bn)  # batch normalisation needs two images
            logits = net(images)
            loss = F.cross_entropy(logits, labels) if level is None else self._forget_loss(logits, labels, level)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for weight, before, chosen in held:  # momentum, too, or it would repeat the step
                    weight.copy_(torch.where(chosen, weight, before))
                    momentum = optimizer.state[weight].get("momentum_buffer")
                    if momentum is not None:
                        momentum.mul_(chosen)

    def _forget_loss(self, logits: torch.Tensor, labels: torch.Tensor, level: float) -> torch.Tensor:
        if self.loss == "random":
            return F.cross_entropy(logits, torch.randint(logits.shape[1], labels.shape).to(labels.device))
        if self.loss == "match":
            return (F.cross_entropy(logits, labels) - level).square()
        return -F.log_softmax(logits, dim=1).mean() - math.log(logits.shape[1])

    def _look(
        self, net: nn.Module, forget_loader: Loader, val_loader: Loader, retained: torch.Tensor
    ) -> dict[str, float]:
        """What a round is judged by; `retained` are the classes in the retain set."""
        logits, labels = _answers(net, forget_loader)
        unseen_logits, unseen_labels = _answers(net, val_loader)
        known = torch.isin(unseen_labels, retained)
        known = known if known.any() else torch.ones_like(known)
        accuracy, losses = _judged(logits, labels)
        unseen_accuracy, unseen_losses = _judged(unseen_logits[known], unseen_labels[known])
        attack = _chance_above(unseen_losses, losses)
        if torch.isin(labels, retained).any():
            distance = max(abs(accuracy - unseen_accuracy) / self.accuracy_gap, abs(attack - 0.5) / self.attack_gap)
        else:
            distance = math.log(logits.shape[1]) / float(losses.mean()) if accuracy > self.accuracy_gap else 0.0
        return {
            "forget_accuracy": accuracy,
            "validation_accuracy": unseen_accuracy,
            "forget_loss": float(losses.mean()),
            "validation_loss": float(unseen_losses.mean()),
            "attack": attack,
            "distance": distance,
        }

    def _why_stop(self, distance: float, drop: float, seconds: list[float]) -> str:
        """Why there is no other round; "" if there is one."""
        if distance <= 1:
            return "enough"
        if drop > self.largest_drop:
            return "validation accuracy"
        expected = reduce(lambda before, last: (before + last) / 2, seconds)
        return "seconds" if 0 < self.seconds < sum(seconds) + expected else ""


def _saliency(net: nn.Module, loader: Loader) -> torch.Tensor:
    """|Sum over batches of the gradient of the cross-entropy|, in eval mode, `(weights,)`."""
    weights = list(net.parameters())
    device = weights[0].device
    sums = [torch.zeros_like(weight) for weight in weights]
    net.eval()
    for sample in loader:
        loss = F.cross_entropy(net(sample["image"].to(device)), sample["age_group"].to(device))
        for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
            total += gradient
    return torch.cat([total.flatten() for total in sums]).abs()


def _largest(saliency: torch.Tensor, share: float) -> torch.Tensor:
    """True for the share of the weights with the largest saliency, bool `(weights,)`."""
    mask = torch.zeros_like(saliency, dtype=torch.bool)
    mask[saliency.topk(int(share * len(saliency))).indices] = True
    return mask


@torch.no_grad()
def _answers(net: nn.Module, loader: Loader) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of all images, `(images, classes)`, and their labels; looking draws no random numbers."""
    net.eval()
    device = next(net.parameters()).device
    in_order = DataLoader(loader.dataset, batch_size=256, generator=torch.Generator())
    batches = [(net(sample["image"].to(device)), sample["age_group"].to(device)) for sample in in_order]
    logits, labels = zip(*batches, strict=True)
    return torch.cat(logits), torch.cat(labels)


def _judged(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The accuracy, and the loss of each image, `(images,)`."""
    return float((logits.argmax(dim=1) == labels).float().mean()), F.cross_entropy(logits, labels, reduction="none")


def _chance_above(values: torch.Tensor, others: torch.Tensor) -> float:
    """The chance that one of `values` is above one of `others`; ties count half."""
    ranked = values.sort().values
    not_above = torch.searchsorted(ranked, others) + torch.searchsorted(ranked, others, right=True)
    return 1 - float(not_above.float().mean()) / (2 * len(values))


def _copy(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def _endless(loader: Loader) -> Iterator[dict[str, Any]]:
    while True:
        yield from loader


def _clock(device: torch.device) -> float:
    return time.process_time() if device.type == "cpu" else time.perf_counter()
