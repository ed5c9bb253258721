"""Fine-tune against an attacker that tries to tell forgotten images from unseen ones, until it can't."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf

Examples = tuple[Tensor, Tensor]
"""Images `(n, C, H, W)` and labels `(n,)`."""

SCENARIOS = ("auto", "random", "class")
ALIGN = ("features", "logits")
PRETRAIN_PAIRS = 32
"""`pairs` of the attacker's pre-training."""
MOST_JUDGED = 256
"""The most forgotten images, and the most unseen ones, on which the attacker's accuracy is measured."""


class Adversarial(BaseMethod):
    """Fine-tune on the retain set while deceiving an attacker that tells forgotten from unseen images.

    Discriminative adversarial unlearning, DAU. In each step a batch F of the forget and one V of the validation set, of
    equal size, are drawn. First the attacker A minimises [CE(A(F), 1) + CE(A(V), 0)] / 2, then the network minimises

        CE(retain) + beta (attack_weight * [CE(A(F), 0) + CE(A(V), 1)] / 2 + align_weight * L),
        L = sum_k (M_kk - 1)^2 + decorrelation * sum_{k != l} M_kl^2,  M = mean over i of V_i F_i^T  (Barlow Twins)

    with V_i, F_i the inputs of the last layer, each entry standardised over its batch. The attacker sees of an image a
    token for each class: its logit, whether it is the label, and how sensitive the logit is to noise in the pixels,
    mean |f(x + noise z) - f(x)| / noise over some z ~ N(0, I). It is pre-trained on the training set against the
    validation set. To forget a class, beta is 0 after `stop_step` steps: the rest repairs. beta = 0 is `finetune`.

    Source: Sharma et al., "Discriminative Adversarial Unlearning" (2024, arXiv 2402.06864); defaults of the authors'
    code for 10 % of CIFAR-10. For one of its classes: learning_rate=0.02; for CIFAR-100: epochs=5, and for a class
    repair_learning_rate=0.02; 95 % sparse: 0.03, or stop_step=20 for a class. Where theirs is other: they put F, V and
    their noisy copies through batch normalisation in train mode, so that its statistics remember them (`published_bn`);
    their V has images of the class to be forgotten, which should then be known (`filter_validation`). V_i and F_i are
    features in their code, and logits in the paper (`align`). Their `pairs` are 256; a step of the attacker on 8 costs
    as much as some ten of a small network, and 256 exceed the budget. Their 30 steps are 6 % of all steps. They
    pre-train once, as `prepare` does, but on 256; where nobody has prepared an attacker, a run begins with
    `warm_up_steps` of that, on the retain set.
    """

    published_figures = "retain 96.7, forget 0.6, test 91.3 % (CIFAR-10, a class)"
    search_space: ClassVar = {
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-5, 0.1, log=True),
        "beta": Between(0.01, 10, log=True),
        "pairs": OneOf((8, 16, 32, 64)),
        "through_sensitivity": OneOf((True, False)),
    }

    prepares_with: ClassVar = ("pretrain_steps", "attacker_learning_rate", "noise", "noisy_copies")

    scenario: str = "auto"
    """"random" or "class"; "auto": class if all that is to be forgotten is of one."""
    epochs: int = 2
    """Passes over the retain set; published 3."""
    learning_rate: float = 0.01
    """Step size of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 256
    """Images of the retain set in a step."""
    pairs: int = 8
    """Images of the forget set in a step, and of the validation set, unless one has fewer; published 256."""
    stop_step: int = 30
    """To forget a class: steps until the repair."""
    repair_learning_rate: float = 0.01
    """Step size in the repair."""
    filter_validation: bool = True
    """To forget a class: whether the validation set is taken without it."""

    beta: float = 1.0
    """Weight of all but the retain loss."""
    attack_weight: float = 0.9
    """Weight of the deception."""
    align_weight: float = 0.001
    """Weight of L, the self-supervised loss."""
    decorrelation: float = 5e-3
    """Weight in L of what is off the diagonal."""
    align: str = "features"
    """What is aligned: "features" or "logits"."""
    published_bn: bool = False
    """Whether forgotten and validation images go through batch normalisation as in training, and move it."""

    attacker_steps: int = 1
    """Steps of the attacker for each of the network, at least 1."""
    attacker_learning_rate: float = 1e-3
    """Its step size, of Adam."""
    noise: float = 1e-3
    """Size of the noise in pixels."""
    noisy_copies: int = 10
    """Noisy copies of an image."""
    through_sensitivity: bool = True
    """Whether the network is moved by its sensitivity too, as published, or by its logits alone."""
    pretrain_steps: int = 1000
    """Steps of its pre-training, once for each original."""
    warm_up_steps: int = 50
    """Steps of pre-training in a run for which none was done."""

    def prepare(self, net: nn.Module, train_loader: Loader, val_loader: Loader) -> dict[str, Tensor]:
        """The weights of an attacker that is pre-trained on an original, see `BaseMethod.prepare`."""
        device = next(net.parameters()).device
        train, unseen = _everything(train_loader, device), _everything(val_loader, device)
        return self._pretrained(net, train, unseen, self.pretrain_steps).state_dict()

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for an unknown `scenario` or `align`, and where nothing is left."""
        for value, known in ((self.scenario, SCENARIOS), (self.align, ALIGN)):
            if value not in known:
                raise ValueError(f"{value!r} is not one of {', '.join(known)}.")
        for name in ("attacker_steps", "noisy_copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        duel = self._make_duel(net, retain_loader, forget_loader, val_loader) if self.beta else None
        before = duel.accuracy(net) if duel else None
        device = next(net.parameters()).device
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        history: dict[str, list[float]] = {}
        step = 0
        for _ in range(self.epochs):
            noted: list[dict[str, float]] = []
            for sample in loader:
                repairing = duel is not None and duel.is_classwise and step >= self.stop_step
                if repairing:
                    optimizer.param_groups[0]["lr"] = self.repair_learning_rate
                terms = duel.terms(net) if duel and not repairing else {}
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                # Batch normalisation cannot normalise over a single image: then it keeps to its statistics.
                net.train(len(images) > 1)
                terms["retain_loss"] = F.cross_entropy(net(images), labels)
                loss = terms["retain_loss"]
                if "deception_loss" in terms:
                    deception, alignment = terms["deception_loss"], terms["align_loss"]
                    loss = loss + self.beta * (self.attack_weight * deception + self.align_weight * alignment)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                noted.append({name: float(value.detach()) for name, value in terms.items()})
                step += 1
            for name in noted[0]:
                values = [one[name] for one in noted if name in one]
                history.setdefault(name, []).append(sum(values) / len(values))
        self.notes = {"history": history}
        if duel is not None:
            self.notes |= {"attacker_accuracy_before": before, "attacker_accuracy_after": duel.accuracy(net)}
        net.eval()

    def _make_duel(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> Duel:
        device = next(net.parameters()).device
        forget, unseen = _everything(forget_loader, device), _everything(val_loader, device)
        one_class = bool((forget[1] == forget[1][0]).all())
        is_classwise = self.scenario == "class" or (self.scenario == "auto" and one_class)
        if is_classwise and self.filter_validation:
            others = ~torch.isin(unseen[1], forget[1])
            unseen = (unseen[0][others], unseen[1][others]) if others.any() else unseen
        if hasattr(self, "prepared"):
            attacker = Attacker(_classes(net, forget)).to(device)
            attacker.load_state_dict(self.prepared)
        else:  # with as many retained images as unseen ones: loaders shuffle, and more would take its time
            members = [part[: len(unseen[1])] for part in _everything(retain_loader, device)]
            attacker = self._pretrained(net, (members[0], members[1]), unseen, self.warm_up_steps)
        return Duel(self, attacker, forget, unseen, is_classwise)

    def _pretrained(self, net: nn.Module, members: Examples, unseen: Examples, steps: int) -> Attacker:
        """An attacker that has learned to tell images that `net` was trained on from those it was not."""
        attacker = Attacker(_classes(net, members)).to(members[0].device)
        optimizer = torch.optim.Adam(attacker.parameters(), lr=self.attacker_learning_rate)
        net.eval()
        with torch.no_grad():  # the network stays as it is, so that it is asked once
            seen = [
                torch.cat([self.seen(net, images, labels)[0] for images, labels in zip(*split, strict=True)])
                for split in ([part.split(256) for part in data] for data in (members, unseen))
            ]
        size = min(PRETRAIN_PAIRS, *map(len, seen))
        for _ in range(steps):
            batches = [features[torch.randperm(len(features))[:size].to(features.device)] for features in seen]
            attacker.learn(optimizer, *batches)
        return attacker

    def seen(self, net: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What the attacker sees of images, `(B, classes, 3)`, and what is aligned, `(B, features)`."""
        logits, features = _logits_and_features(net, images)  # (B, classes), (B, features)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.through_sensitivity):
            noise = self.noise * torch.randn(self.noisy_copies, *images.shape, device=images.device)
            noisy = net((images + noise).flatten(0, 1)).unflatten(0, (self.noisy_copies, -1))  # (copies, B, classes)
            sensitivity = (noisy - logits).abs().mean(dim=0) / self.noise
        is_label = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return torch.stack([logits, is_label, sensitivity], dim=2), features if self.align == "features" else logits


class Attacker(nn.Module):
    """Tells images that a network was trained on from others: a transformer with a token for each class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3 * classes)
        self.embed = nn.Linear(3, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.2, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64 * classes, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, seen: Tensor) -> Tensor:
        """From `(B, classes, 3)` to logits of "unseen" and "trained on", `(B, 2)`."""
        tokens = self.norm(seen.flatten(1)).view_as(seen)
        verdict: Tensor = self.head(self.encoder(F.gelu(self.embed(tokens))))
        return verdict

    def learn(self, optimizer: torch.optim.Optimizer, members: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
        """A step on as many members as unseen images. The loss and the accuracy as they were before."""
        verdict = self.train()(torch.cat([members, unseen]))  # (2 B, 2)
        truth = is_member(len(members), verdict.device)
        loss = F.cross_entropy(verdict, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss, (verdict.argmax(dim=1) == truth).float().mean()


class Duel:
    """The attacker, what it trains on, and what the network is to lower beside its retain loss."""

    def __init__(
        self, method: Adversarial, attacker: Attacker, forget: Examples, unseen: Examples, is_classwise: bool
    ) -> None:
        self.method = method
        self.attacker = attacker
        self.optimizer = torch.optim.Adam(attacker.parameters(), lr=method.attacker_learning_rate)
        self.sides = (forget, unseen)
        self.is_classwise = is_classwise
        self.size = min(method.pairs, len(forget[1]), len(unseen[1]))

    def terms(self, net: nn.Module) -> dict[str, Tensor]:
        """Train the attacker, then say how badly it is deceived and F and V are aligned, and how it did before."""
        net.train(self.method.published_bn and self.size > 1)
        for _ in range(self.method.attacker_steps):
            drawn = [self.method.seen(net, *self._draw(side, self.size)) for side in self.sides]
            (forget, forget_features), (unseen, features) = drawn
            loss, accuracy = self.attacker.learn(self.optimizer, forget.detach(), unseen.detach())
        self.attacker.requires_grad_(False)  # it is not to learn from this
        verdict = self.attacker(torch.cat([forget, unseen]))
        self.attacker.requires_grad_(True)
        return {
            "deception_loss": F.cross_entropy(verdict, 1 - is_member(self.size, verdict.device)),
            "align_loss": cross_correlation_loss(forget_features, features, self.method.decorrelation),
            "attacker_loss": loss,
            "attacker_accuracy": accuracy,
        }

    def _draw(self, side: Examples, size: int) -> Examples:
        images, labels = side
        rows = torch.randperm(len(labels))[:size].to(labels.device)
        return images[rows], labels[rows]

    @torch.no_grad()
    def accuracy(self, net: nn.Module) -> float:
        """How often the attacker is right about the network, over as many forgotten as unseen images."""
        net.eval()
        self.attacker.eval()
        size = min(MOST_JUDGED, *(len(labels) for _, labels in self.sides))
        seen = torch.cat([self.method.seen(net, *self._draw(side, size))[0] for side in self.sides])
        return float((self.attacker(seen).argmax(dim=1) == is_member(size, seen.device)).float().mean())


def is_member(size: int, device: torch.device) -> Tensor:
    """The truth about `size` forgotten images followed by as many unseen ones: int64 `(2 size,)`."""
    return torch.arange(2 * size, device=device).lt(size).long()


def cross_correlation_loss(forget: Tensor, unseen: Tensor, decorrelation: float) -> Tensor:
    """L of two batches of features `(B, features)`, whose rows are paired as they come."""

    def standardised(values: Tensor) -> Tensor:
        # A feature may be the same throughout, where a ReLU is dead: the constant keeps it, and its gradient, finite.
        return (values - values.mean(dim=0)) * (values.var(dim=0, unbiased=False) + 1e-5).rsqrt()

    correlation = standardised(unseen).T @ standardised(forget) / len(forget)  # (features, features)
    diagonal = correlation.diagonal()
    off_diagonal = correlation.square().sum() - diagonal.square().sum()
    return (diagonal - 1).square().sum() + decorrelation * off_diagonal


def _logits_and_features(net: nn.Module, images: Tensor) -> Examples:
    """The logits, and what the last layer gets; what a convolution gets is averaged over the image."""
    last = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]
    got: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda module, inputs: got.append(inputs[0]))
    try:
        logits = net(images)
    finally:
        hook.remove()
    return logits, got[0].flatten(2).mean(dim=2) if got[0].ndim == 4 else got[0]


def _everything(loader: Loader, device: torch.device) -> Examples:
    batches = [(sample["image"].to(device), sample["age_group"].to(device)) for sample in loader]
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


@torch.no_grad()
def _classes(net: nn.Module, examples: Examples) -> int:
    return int(net.eval()(examples[0][:1]).shape[1])
