"""Certified unlearning by noise on the weights, once, then fine-tuning without noise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf
from methods.initialisation import reinitialise

ASSUMPTIONS = (
    "The noise is as good as random, and the arithmetic exact: rounding is not accounted for.",
    "Only the weights after the noise, and what is made of them, are published.",
    "What comes after the noise, and every choice on the way, depends on the retain set alone.",
)


class CertifiedOutputPerturbation(BaseMethod):
    """Hide where the weights came from: clip the model, add noise once, and fine-tune on the retain set.

    Weights of norm `initial_clip` C0 at most are never further than 2 C0 apart, so that noise which hides a
    difference of that norm makes them (epsilon, delta), by the Gaussian mechanism: "analytic", or by the
    classical bound, 2 C0 sqrt(2 ln(1.25 / delta)) / epsilon, which is 30 % more noise than is needed at epsilon = 1
    and proven up to there. Then fine-tune with a fresh optimiser and new statistics of batch normalisation. The
    forget set is not read at all.

    Source: the baseline of Koloskova et al., "Certified Unlearning for Neural Networks" (ICML 2025, arXiv
    2506.06985), whose code has the classical noise and, for MNIST, C0 = 0.01; Balle and Wang, "Improving the Gaussian
    Mechanism" (ICML 2018, arXiv 1805.06530). `notes` have the certificate.
    """

    guarantee = "(epsilon, delta), `certificate.json`"
    published_figures = "validation 57.3, 71.7, 78.3 % after 1, 2, 6 epochs (MNIST)"
    mechanism = "output_perturbation"
    certifies = True
    search_space: ClassVar = {
        "epochs": Between(1, 12),
        "learning_rate": Between(0.01, 0.5, log=True),
        "momentum": OneOf((0.0, 0.9)),
        "batch_size": OneOf((16, 32, 64, 128)),
        "fresh_start": OneOf((False, True)),
    }

    epsilon: float = 1.0
    """What is to be certified, with `delta`: exp(epsilon) bounds how much more likely any outcome can become."""
    delta: float = 1e-5
    """Probability that is left out of this bound."""
    accounting: str = "analytic"
    """How noise follows from epsilon: "analytic", or "classical", as published."""
    initial_clip: float = 0.01
    """Norm to which the weights are shortened before the noise."""
    epochs: int = 6
    """Passes over the retain set without noise; published 1 to 10 for MNIST, 50 for CIFAR-10."""
    learning_rate: float = 0.1
    """Largest step size of these; it rises for 30 % of the steps, then falls."""
    linear: bool = False
    """Whether it rises and falls linearly, not as a cosine."""
    momentum: float = 0.0
    """Momentum of these."""
    weight_decay: float = 5e-4
    """L2 regularisation of these."""
    batch_size: int = 128
    """Images in a step."""
    fresh_start: bool = False
    """Whether to add the noised weights to a usual initialisation first: deeper networks can't be trained otherwise."""
    constants_chosen_on: str = "published"
    """Where the values above come from: "published", or as `tune` says; "forget" voids the certificate: refused."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for what would void the certificate."""
        _refuse_uncovered(net, self.constants_chosen_on)
        noise = self.noise()
        weights = _clipped(_flat(net.parameters()), self.initial_clip)
        _assign(net, weights + noise * torch.randn_like(weights))
        _reset_statistics(net)
        if self.fresh_start:
            _add_initialisation(net)
        conditions = {
            "batch_norm_statistics": "reset" if list(net.buffers()) else "none",
            "start": "projected",
            "constants_chosen_on": self.constants_chosen_on,
        }
        certificate = {
            "method": "certified_output_perturbation",
            "epsilon": self.epsilon,
            "delta": self.delta,
            "accounting": self.accounting,
            "constants": {"initial_clip": self.initial_clip, "noise": noise},
            "conditions": conditions,
            "assumptions": list(ASSUMPTIONS),
        }
        history = {"validation accuracy": self._finetune(net, retain_loader, val_loader)}
        self.notes = {"certificate": certificate, "history": history}

    def noise(self) -> float:
        """The standard deviation of the noise. Raises `ValueError` if the hyper-parameters make no sense."""
        epsilon, delta, sensitivity = self.epsilon, self.delta, 2 * self.initial_clip
        if not (0 < epsilon < math.inf and 0 < delta < 1 and sensitivity > 0):
            raise ValueError("epsilon and initial_clip must be positive, and delta between 0 and 1.")
        if self.accounting == "classical":
            if epsilon > 1:
                raise ValueError(f"The classical bound is proven up to epsilon = 1, not {epsilon}: use analytic.")
            return sensitivity * math.sqrt(2 * math.log(1.25 / delta)) / epsilon
        if self.accounting != "analytic":
            raise ValueError(f"accounting is analytic or classical, not {self.accounting!r}.")
        low, high = 1e-300, 1e300  # of the noise in units of the sensitivity
        for _ in range(60):
            middle = math.sqrt(low) * math.sqrt(high)
            low, high = (low, middle) if _gaussian_delta(epsilon, 1 / middle) <= delta else (middle, high)
        return sensitivity * high

    def _finetune(self, net: nn.Module, retain_loader: Loader, val_loader: Loader) -> list[float]:
        """Train without noise. The validation accuracy at first, and after each epoch."""
        device = next(net.parameters()).device
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.learning_rate,
            total_steps=max(1, self.epochs * len(loader)),
            anneal_strategy="linear" if self.linear else "cos",
            cycle_momentum=False,
        )
        accuracies = [_accuracy(net, val_loader)]
        for _ in range(self.epochs):
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                net.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
                optimizer.zero_grad()
                F.cross_entropy(net(images), labels).backward()
                optimizer.step()
                scheduler.step()
            accuracies.append(_accuracy(net, val_loader))
        return accuracies


def _gaussian_delta(epsilon: float, ratio: float) -> float:
    """Q(epsilon / r - r / 2) - exp(epsilon) Q(epsilon / r + r / 2): two Gaussians, `ratio` r deviations apart."""
    places = torch.tensor([ratio / 2 - epsilon / ratio, -ratio / 2 - epsilon / ratio], dtype=torch.float64)
    first, second = torch.special.log_ndtr(places).tolist()
    return 0.0 if first == -math.inf else -math.exp(first) * math.expm1(min(0.0, epsilon + second - first))


def _refuse_uncovered(net: nn.Module, chosen_on: str) -> None:
    """Raise `ValueError` for what the noise would not hide."""
    if chosen_on not in ("published", "retain", "retrained"):
        raise ValueError(f"Constants must be chosen without the forget set, not on {chosen_on!r}.")
    normalising = [module for module in net.modules() if hasattr(module, "reset_running_stats")]
    known = {id(buffer) for module in normalising for buffer in module.buffers(recurse=False)}
    unknown = [name for name, buffer in net.named_buffers() if id(buffer) not in known]
    unknown += [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
    if unknown:
        raise ValueError(f"{unknown[0]} may have seen the forget set, and gets no noise: no certificate can be given.")


def _reset_statistics(net: nn.Module) -> None:
    """Make those of batch normalisation what they are in a new network."""
    for module in net.modules():
        reset = getattr(module, "reset_running_stats", None)
        if callable(reset):
            reset()


def _add_initialisation(net: nn.Module) -> None:
    """Add weights drawn as those of a new network: independent of all data, so the certificate stays."""
    noised = _flat(net.parameters())
    reinitialise(net)
    _assign(net, _flat(net.parameters()) + noised)


def _clipped(vector: torch.Tensor, most: float) -> torch.Tensor:
    """The vector, shortened to the norm `most` if it is longer; zeros for what is not finite."""
    return (vector * (most / vector.norm()).clamp(max=1)).nan_to_num(0.0, 0.0, 0.0)


def _flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


@torch.no_grad()
def _assign(net: nn.Module, vector: torch.Tensor) -> None:
    """Make the vector, `(weights,)`, the network's weights."""
    parameters = list(net.parameters())
    for parameter, part in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))


@torch.no_grad()
def _accuracy(net: nn.Module, loader: Loader) -> float:
    net.eval()
    device = next(net.parameters()).device
    right = [net(sample["image"].to(device)).argmax(dim=1) == sample["age_group"].to(device) for sample in loader]
    return float(torch.cat(right).double().mean())
