"""Certified unlearning by steps that clip the model and add noise to it, then fine-tuning without noise."""

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


class CertifiedModelClipping(BaseMethod):
    """Hide where the weights came from: a few steps on the retain set that clip the model and add noise.

    The weights x, shortened to the norm `initial_clip`, with noise if there is `initial_noise`, make `steps` steps
    x <- clip(x - lr (g + wd x)) + noise, where clip shortens to the norm `model_clip` C2. With a `gradient_clip` C1
    it is x <- clip(x - lr (clipped g + wd x) + noise) instead. Before its noise, x has norm R = C2, or
    |1 - lr wd| C2 + lr C1, at most. So a step multiplies the delta that goes with epsilon by theta(e, 2 R / noise),
    e = ln(1 + (exp(epsilon) - 1) / delta); theta is the delta of the Gaussian mechanism. The noise is the least that
    brings it from 1 to `delta`. Then fine-tune with a fresh optimiser. Statistics of batch normalisation begin anew
    with each step, and with the fine-tuning. The forget set is not read at all.

    Source: Koloskova et al., "Certified Unlearning for Neural Networks" (ICML 2025, arXiv 2506.06985), values of its
    code for MNIST, which gives the noise (0.01) and finds the number of steps. `notes` have the certificate.
    """

    guarantee = "(epsilon, delta), `certificate.json`"
    published_figures = "validation 70.0, 76.6, 80.2 % after 1, 2, 6 epochs (MNIST)"
    mechanism = "model_clipping"
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
    initial_clip: float = 7.0
    """Norm to which the weights are shortened at the start."""
    initial_noise: float = 0.0
    """Standard deviation of noise on the start, in addition to that of the steps."""
    model_clip: float = 0.01
    """Norm to which the weights are shortened in each noisy step."""
    gradient_clip: float = 0.0
    """Norm to which gradients are shortened in noisy steps, which then clip the model after the noise; 0: neither."""
    noisy_learning_rate: float = 1e-3
    """Step size of a noisy step, which has no momentum."""
    noisy_weight_decay: float = 0.01
    """L2 regularisation of a noisy step."""
    steps: int = 6
    """Noisy steps; the published noise, as large as the model clip, takes 6."""
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
            "initial_noise": self.initial_noise,
            "model_clip": self.model_clip,
            "gradient_clip": self.gradient_clip,
            "learning_rate": self.noisy_learning_rate,
            "weight_decay": self.noisy_weight_decay,
            "steps": self.steps,
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
            "method": "certified_model_clipping",
            "epsilon": self.epsilon,
            "delta": self.delta,
            "accounting": "exact",
            "constants": constants,
            "conditions": conditions,
            "assumptions": list(ASSUMPTIONS),
        }
        history = {"validation accuracy": self._finetune(net, retain_loader, val_loader)}
        self.notes = {"certificate": certificate, "history": history}

    def noise(self) -> float:
        """The standard deviation of a step's noise. Raises `ValueError` if the hyper-parameters make no sense."""
        rate, decay = self.noisy_learning_rate, self.noisy_weight_decay
        if not (min(self.initial_clip, self.model_clip, rate) > 0 and min(self.initial_noise, decay) >= 0):
            raise ValueError("Clips and learning rate must be positive, noise and weight decay not negative.")
        if not (0 < self.epsilon < math.inf and 0 < self.delta < 1 and self.steps > 0 and self.gradient_clip >= 0):
            raise ValueError("epsilon and steps must be positive, delta between 0 and 1, gradient_clip not negative.")
        radius = self.model_clip
        if self.gradient_clip > 0:
            radius = abs(1 - rate * decay) * radius + rate * self.gradient_clip
        logarithm = self.epsilon + math.log(-math.expm1(-self.epsilon))  # of exp(epsilon) - 1
        low, high = 1e-300, 1e300  # of the noise in units of the radius
        for _ in range(60):
            noise = math.sqrt(low) * math.sqrt(high)
            left = 1.0
            if self.initial_noise > 0:
                left = _gaussian_delta(self.epsilon, 2 * self.initial_clip / self.initial_noise)
            for _ in range(self.steps):
                if left > 0:  # else it is less than the smallest number
                    above = logarithm - math.log(left)
                    left *= _gaussian_delta(max(0.0, above) + math.log1p(math.exp(-abs(above))), 2 / noise)
            low, high = (low, noise) if left <= self.delta else (noise, high)
        return radius * high

    def _add_noise(self, net: nn.Module, retain_loader: Loader, noise: float) -> None:
        data: Any = retain_loader.dataset
        loader = DataLoader(data, self.batch_size, shuffle=True, drop_last=len(data) > self.batch_size)
        weights = _clipped(_flat(net.parameters()), self.initial_clip)
        if self.initial_noise > 0:
            weights = weights + self.initial_noise * torch.randn_like(weights)
        if self.gradient_clip > 0:
            weights = _clipped(weights, self.model_clip)
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        for sample in itertools.islice(batches, self.steps):
            _assign(net, weights)
            gradient = _gradient(net, sample)
            if self.gradient_clip > 0:
                gradient = _clipped(gradient, self.gradient_clip)
            weights = weights - self.noisy_learning_rate * (gradient + self.noisy_weight_decay * weights)
            if self.gradient_clip > 0:
                weights = _clipped(weights + noise * torch.randn_like(weights), self.model_clip)
            else:
                weights = _clipped(weights, self.model_clip) + noise * torch.randn_like(weights)
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
