"""Random labels for salient weights, with a saliency that remembers earlier requests, and a check that none returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf

Samples = Iterable[dict[str, Any]]
Held = list[tuple[nn.Parameter, torch.Tensor, torch.Tensor]]
"""For each parameter: itself, the values it had, and where it may have others."""
Look = Callable[[Samples], dict[str, float]]
"""What a set of images looks like to the network, beside images that it was not trained on."""


class Ams(BaseMethod):
    """Forget one request after another, under a mask of salient weights that remembers earlier requests.

    With s_i = |sum over request i of the gradient of the cross-entropy|, in eval mode, scaled to a sum of 1:

        S <- beta * S + (1 - beta) * s_i, and s_1 at the first request; the mask is the `share` with the largest S.

    An epoch is a pass over the forget set, down `loss`, then one over the retain set; weights outside the mask are put
    back after every step. It ends after `epochs`; when the forget set looks unseen, |A_f - A_val| <= accuracy_gap and
    |AUC - 1/2| <= attack_gap, where AUC is the chance that a validation image's loss is above a forgotten one's (for
    whole classes: A_f <= accuracy_gap or CE_f >= ln(classes), and A_val leaves them out); or when A_val has lost more
    than `largest_drop`. What stays is the epoch nearest to looking unseen among those that have not lost too much.
    The next request may move any weight again. With `recalibrate`, if A_j - A_val of an earlier request j has grown by
    more than `accuracy_gap` since it was forgotten, one more epoch has for its first pass the images of all such j.

    Source: a research idea of a machine-unlearning starter kit, without paper or published numbers, after SalUn (arXiv
    2310.12508): of a single request without `stop`, or of many at beta 0 and no `recalibrate`, it makes what `salun`
    makes at the same settings, bit for bit. The idea leaves two points open; chosen here: a request that is forgotten
    *too* well has not returned, and a pass over an earlier request is followed by one over the retain set. To look at
    earlier requests their images have to be kept, in `memory`; as these are what was to be deleted, this is off by
    default, and there is no such check.
    """

    search_space: ClassVar = {
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-3, 0.3, log=True),
        "share": Between(0.1, 1.0),
        "batch_size": OneOf((16, 64, 256)),
        "loss": OneOf(("random", "uniform")),
    }

    epochs: int = 3
    """Most passes over both sets."""
    learning_rate: float = 0.013
    """Step size of SGD, as in SalUn."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 64
    """Images in a step."""
    share: float = 0.3
    """Share of the weights that may move."""
    beta: float = 0.5
    """Weight of earlier requests in S; with a single request it has no effect, so it is not tuned."""
    union: bool = False
    """Whether the share/2 with the largest s_i may move too, so that no request is ignored."""
    loss: str = "random"
    """What forgetting goes down: cross-entropy of "random" labels, or "uniform", KL(uniform || answer)."""
    stop: bool = True
    """Whether to end early as described above and keep the best epoch; if not, all epochs run and the last is kept."""
    accuracy_gap: float = 0.02
    """Difference in accuracy that is tolerated."""
    attack_gap: float = 0.03
    """Distance of AUC from 1/2 that is tolerated."""
    largest_drop: float = 0.03
    """Validation accuracy that may be lost."""
    recalibrate: bool = False
    """Whether forgotten images are kept, to check that they stay forgotten: not for what the law says to delete."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` if the loss is unknown."""
        if self.loss not in ("random", "uniform"):
            raise ValueError(f"loss is random or uniform, not {self.loss!r}.")
        self.memory = dict(getattr(self, "memory", {}))
        mask = self._mask(_saliency(net, forget_loader))
        weights = list(net.parameters())
        masks = mask.to(weights[0].device).split([weight.numel() for weight in weights])
        held = [(w, w.detach().clone(), part.view_as(w)) for w, part in zip(weights, masks, strict=True)]
        retain = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        retained = torch.cat([sample["age_group"] for sample in retain_loader]).unique().to(weights[0].device)
        look = partial(self._look, net, _in_order(val_loader), retained)
        history, why, kept = self._forget(net, forget_loader, retain, held, look)
        self.notes = {"history": history, "stopped": why, "kept_epoch": kept, "share": float(mask.float().mean())}
        self.notes["touched"] = float(self.memory["touched"].float().mean())
        if self.recalibrate:
            self._recalibrate(net, forget_loader, retain, held, look)
        net.eval()

    def _mask(self, own: torch.Tensor) -> torch.Tensor:
        """Of the saliency of all requests so far, which is remembered, bool `(weights,)`."""
        saliency = own
        if "saliency" in self.memory:
            saliency = self.beta * self.memory["saliency"].cpu().double() + (1 - self.beta) * own
        mask = _largest(saliency, self.share)
        if self.union:
            mask |= _largest(own, self.share / 2)
        touched = self.memory["touched"].cpu() | mask if "touched" in self.memory else mask
        self.memory |= {"saliency": saliency.float(), "touched": touched}
        return mask

    def _forget(
        self, net: nn.Module, forget_loader: Loader, retain: Loader, held: Held, look: Look
    ) -> tuple[dict[str, list[float]], str, int]:
        """Forget the present request: what each epoch came to, why the last was the last, and which one stays."""
        forget = DataLoader(forget_loader.dataset, batch_size=self.batch_size, shuffle=True)
        start = look(_in_order(forget_loader))
        optimizer = self._optimizer(net)
        history: dict[str, list[float]] = {name: [] for name in start}
        best, kept, state = (math.inf, math.inf), 0, net.state_dict()
        why = "epochs"
        for epoch in range(1, self.epochs + 1):
            self._epoch(net, optimizer, forget, retain, held)
            seen = look(_in_order(forget_loader))
            for name, value in seen.items():
                history[name].append(value)
            too_low = seen["validation_accuracy"] < start["validation_accuracy"] - self.largest_drop
            rank = (float(too_low), seen["distance"])
            if rank < best or not self.stop:
                best, kept, state = rank, epoch, _copy(net)
            if self.stop and (too_low or seen["distance"] <= 1):
                why = "enough" if seen["distance"] <= 1 else "validation accuracy"
                break
        net.load_state_dict(state)
        return history, why, kept

    def _recalibrate(self, net: nn.Module, forget_loader: Loader, retain: Loader, held: Held, look: Look) -> None:
        """Look at all earlier requests, forget again those that have returned, and remember the present one."""
        then = self.memory.get("gaps", torch.zeros(0)).tolist()  # A_j - A_val when request j had been forgotten
        earlier = [self._batches(self.memory[f"images {j}"], self.memory[f"labels {j}"]) for j in range(len(then))]
        growth = [_gap(look(samples)) - gap for samples, gap in zip(earlier, then, strict=True)]
        returned = [number for number, by in enumerate(growth) if by > self.accuracy_gap]
        if returned:
            again = [sample for number in returned for sample in earlier[number]]
            self._epoch(net, self._optimizer(net), again, retain, held)
        present = list(_in_order(forget_loader))
        looks = [look(samples) for samples in (*earlier, present)]
        self.notes |= {"returned": returned, "requests": looks}
        self.memory |= {
            f"images {len(then)}": torch.cat([sample["image"] for sample in present]),
            f"labels {len(then)}": torch.cat([sample["age_group"] for sample in present]),
            "gaps": torch.tensor([*then, _gap(looks[-1])]),
        }

    def _optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

    def _batches(self, images: torch.Tensor, labels: torch.Tensor) -> list[dict[str, Any]]:
        parts = zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)
        return [{"image": some, "age_group": theirs} for some, theirs in parts]

    def _epoch(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, forget: Samples, retain: Samples, held: Held
    ) -> None:
        """A pass to forget, then one to retain; after each step, what is held is put back."""
        device = held[0][0].device
        for samples in (forget, retain):
            for sample in samples:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                net.train(len(images) > 1 and not self.freeze_bn)  # batch normalisation needs two images
                logits = net(images)
                if samples is forget and self.loss == "random":
                    labels = torch.randint(logits.shape[1], labels.shape).to(device)
                is_uniform = samples is forget and self.loss == "uniform"
                loss = -F.log_softmax(logits, dim=1).mean() if is_uniform else F.cross_entropy(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    for weight, before, chosen in held:
                        weight.copy_(torch.where(chosen, weight, before))

    def _look(self, net: nn.Module, validation: Samples, retained: torch.Tensor, samples: Samples) -> dict[str, float]:
        """What the end depends on; `retained` are the classes in the retain set."""
        logits, labels = _answers(net, samples)
        unseen_logits, unseen_labels = _answers(net, validation)
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
            "accuracy": accuracy,
            "validation_accuracy": unseen_accuracy,
            "loss": float(losses.mean()),
            "validation_loss": float(unseen_losses.mean()),
            "attack": attack,
            "distance": distance,
        }


def _copy(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def _gap(seen: dict[str, float]) -> float:
    return seen["accuracy"] - seen["validation_accuracy"]


def _saliency(net: nn.Module, loader: Loader) -> torch.Tensor:
    """|Sum over batches of the gradient of the cross-entropy|, in eval mode, as shares of 1, float64 `(weights,)`.

    In float64, so that numbers which differ still differ as shares, and the order of weights is SalUn's.
    """
    weights = list(net.parameters())
    device = weights[0].device
    sums = [torch.zeros_like(weight) for weight in weights]
    net.eval()
    for sample in loader:
        loss = F.cross_entropy(net(sample["image"].to(device)), sample["age_group"].to(device))
        for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
            total += gradient
    saliency = torch.cat([total.flatten() for total in sums]).abs().cpu().double()
    return saliency / saliency.sum().clamp(min=1e-300)


def _largest(saliency: torch.Tensor, share: float) -> torch.Tensor:
    """True for the share of the weights with the largest saliency, bool `(weights,)`."""
    mask = torch.zeros_like(saliency, dtype=torch.bool)
    mask[saliency.topk(int(share * len(saliency))).indices] = True
    return mask


def _in_order(loader: Loader) -> Loader:
    """The same images in few batches; a generator of its own, so that to look draws no random numbers."""
    return DataLoader(loader.dataset, batch_size=256, generator=torch.Generator())


@torch.no_grad()
def _answers(net: nn.Module, samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of all images, `(images, classes)`, and their labels."""
    net.eval()
    device = next(net.parameters()).device
    batches = [(net(sample["image"].to(device)), sample["age_group"].to(device)) for sample in samples]
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
