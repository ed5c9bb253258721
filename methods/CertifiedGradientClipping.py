"""Certified unlearning by noisy gradient descent with clipped gradients, then fine-tuning without noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf
from methods.initialisation import reinitialise

ASSUMPTIONS = (
    "The noise is as good as random, and the arithmetic exact: rounding is not accounted for.",
    "Only the weights after the last noisy step, and what is made of them, are published.",
    "What comes after the noise, and every choice on the way, depends on the retain set alone.",
)


class CertifiedGradientClipping(BaseMethod):
    """Hide where the weights came from: a few noisy steps on the retain set, with clipped gradients (PABI).

    The weights x, shortened to the norm `initial_clip` C0, make `steps` T steps x <- x - lr (g + wd x) + noise, where
    g is the gradient on a retain batch, shortened to the norm `gradient_clip` C1. Two starts then end at most
    S = 2 C0 r^T + 2 lr C1 (1 + ... + r^(T-1)) apart, r = 1 - lr wd. With noise of variance S^2 / (2 rho (1 + ... +
    r^(2(T-1)))) they are no easier to tell apart than two Gaussians whose means are sqrt(2 rho) deviations apart, which
    gives epsilon and delta. Then fine-tune with a fresh optimiser. Statistics of batch normalisation begin anew with
    each step, and with the fine-tuning. The forget set is not read at all.

    Source: Koloskova et al., "Certified Unlearning for Neural Networks" (ICML 2025, arXiv 2506.06985), values of its
    code for MNIST. There, rho is called epsilon, so that its "1" is 6.57. Here epsilon is what it says, which takes
    5.28 times that noise; `accounting` has the paper's constant, and the code's. The bound by Gaussians: Bok et al.,
    "Shifted Interpolation for Differential Privacy" (ICML 2024, arXiv 2403.00278). `notes` have the certificate.
    """

    guarantee = "(epsilon, delta), `certificate.json`"
    published_figures = "validation 70.3, 74.8, 80.3 % after 1, 2, 6 epochs (MNIST)"
    mechanism = "gradient_clipping"
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
    accounting: str = "gdp"
    """How noise follows from epsilon: "gdp"; with more noise "exact" (zCDP) or "paper"; "code_compat" does not hold."""
    initial_clip: float = 0.01
    """Norm to which the weights are shortened at the start."""
    gradient_clip: float = 10.0
    """Norm to which gradients are shortened in a noisy step."""
    noisy_learning_rate: float = 1e-4
    """Step size of a noisy step, which has no momentum."""
    noisy_weight_decay: float = 750.0
    """L2 regularisation of a noisy step."""
    steps: int = 0
    """Noisy steps; 0 takes the published number, ceil(C0 / (C1 lr)) or ceil(ln(2 wd C0 / C1) / (lr wd))."""
    schedule: str = "constant"
    """Noise of the steps: "constant", or "decreasing", in which each counts as much in the end."""
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
        self._add_noise(net, retain_loader, noise)
        _reset_statistics(net)
        if self.fresh_start:
            _add_initialisation(net)
        constants = {
            "initial_clip": self.initial_clip,
            "gradient_clip": self.gradient_clip,
            "learning_rate": self.noisy_learning_rate,
            "weight_decay": self.noisy_weight_decay,
            "noise": noise,
        }
        conditions = {
            "noisy_phase_reads": "retain set",
            "noisy_phase_momentum": 0.0,
            "batch_norm_statistics": "reset" if list(net.buffers()) else "none",
            "start": "projected",
            "constants_chosen_on": self.constants_chosen_on,
        }
        certificate = {
            "method": "certified_gradient_clipping",
            "epsilon": self.epsilon,
            "delta": self.delta,
            "accounting": self.accounting,
            "constants": constants,
            "conditions": conditions,
            "assumptions": list(ASSUMPTIONS),
        }
        history = {"validation accuracy": self._finetune(net, retain_loader, val_loader)}
        self.notes = {"certificate": certificate, "history": history}

    def noise(self) -> list[float]:
        """The standard deviation of each noisy step. Raises `ValueError` if the hyper-parameters make no sense."""
        start, clip = self.initial_clip, self.gradient_clip
        rate, decay = self.noisy_learning_rate, self.noisy_weight_decay
        if not (min(start, clip, rate) > 0 and 0 <= rate * decay < 1 and self.steps >= 0):
            raise ValueError(
                "Clips and rate must be positive, rate * weight decay from 0 to less than 1, steps from 0."
            )
        if self.schedule not in ("constant", "decreasing"):
            raise ValueError(f"schedule is constant or decreasing, not {self.schedule!r}.")
        steps = self.steps or math.ceil(start / (clip * rate) * (1 - 1e-12))  # rounding is not to add one
        if self.steps == 0 and decay > 0:
            with_decay = math.ceil(math.log(2 * decay * start / clip) / (rate * decay) * (1 - 1e-12))
            steps = with_decay if 0 < with_decay < steps else steps
        left = [(1 - rate * decay) ** later for later in range(steps - 1, -1, -1)]  # of what each step adds
        distance = 2 * start * (1 - rate * decay) ** steps + 2 * rate * clip * sum(left)
        double_rho = 2 * _rho(self.epsilon, self.delta, self.accounting)
        if self.accounting == "code_compat" and decay == 0:
            double_rho *= 2
        if self.schedule == "constant":
            return [distance / math.sqrt(double_rho * sum(part**2 for part in left))] * steps
        return [distance / math.sqrt(double_rho * steps) / part for part in left]

    def _add_noise(self, net: nn.Module, retain_loader: Loader, noise: list[float]) -> None:
        data: Any = retain_loader.dataset
        loader = DataLoader(data, self.batch_size, shuffle=True, drop_last=len(data) > self.batch_size)
        weights = _clipped(_flat(net.parameters()), self.initial_clip)
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        for deviation, sample in zip(noise, batches, strict=False):
            _assign(net, weights)
            gradient = _clipped(_gradient(net, sample), self.gradient_clip)
            step = self.noisy_learning_rate * (gradient + self.noisy_weight_decay * weights)
            weights = weights - step + deviation * torch.randn_like(weights)
        _assign(net, weights)

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


def _rho(epsilon: float, delta: float, accounting: str) -> float:
    """The rho whose zCDP is (epsilon, delta) by this accounting. Raises `ValueError` if there is none."""
    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise ValueError(f"epsilon must be positive and delta between 0 and 1, not {epsilon} and {delta}.")
    if accounting == "paper":
        if epsilon > math.log(1 / delta) / 4:
            raise ValueError(
                f"Theorem 1 of the paper does not hold for epsilon = {epsilon}: more than ln(1/delta) / 4."
            )
        return 2 * epsilon**2 / (9 * math.log(1 / delta))
    if accounting == "code_compat":
        orders = torch.linspace(1.001, 1000, 10_000, dtype=torch.float64)
        rho = epsilon - float((-(delta * orders).log() / (orders - 1) + (-1 / orders).log1p()).min())
        if rho <= 0:
            raise ValueError(f"With code_compat, epsilon = {epsilon} is too small for delta = {delta}.")
        return rho
    if accounting == "gdp":
        return _ratio(epsilon, delta) ** 2 / 2
    if accounting != "exact":
        raise ValueError(f"accounting is gdp, exact, paper or code_compat, not {accounting!r}.")
    rho, low, high = 0.0, 1e-13, 1 / delta - 1  # of the order, less 1, that gives the smallest epsilon
    for _ in range(200):
        above = math.sqrt(low * high)
        rho = -math.log(delta * (1 + above)) / above**2
        too_large = (1 + 2 * above) * rho + math.log(above / (1 + above)) > epsilon
        low, high = (above, high) if too_large else (low, above)
    return rho


def _ratio(epsilon: float, delta: float) -> float:
    """How many deviations apart the means of two Gaussians may be that have epsilon and delta."""
    low, high = 1e-300, 1e300
    for _ in range(60):
        ratio = math.sqrt(low) * math.sqrt(high)
        low, high = (ratio, high) if _gaussian_delta(epsilon, ratio) <= delta else (low, ratio)
    return low


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


def _gradient(net: nn.Module, sample: dict[str, Any]) -> torch.Tensor:
    """The gradient of the cross-entropy, `(weights,)`, which depends on weights and batch alone."""
    _reset_statistics(net)
    device = next(net.parameters()).device
    images, labels = sample["image"].to(device), sample["age_group"].to(device)
    net.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
    loss = F.cross_entropy(net(images), labels)
    return _flat(torch.autograd.grad(loss, list(net.parameters())))


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
