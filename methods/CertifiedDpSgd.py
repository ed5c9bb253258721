"""Certified unlearning of originals that DP-SGD has trained: nothing to hide, only fine-tuning."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf

ASSUMPTIONS = (
    "The original was trained by DP-SGD with these constants, and batches drawn by Poisson sampling.",
    "How many images were trained on is public: sampling rate and steps would be the same without those to forget.",
    "The seed of its noise is secret, and the arithmetic exact: rounding is not accounted for.",
    "Of the training, only the final weights are published.",
    "What comes after it, and every choice on the way, depends on the retain set alone.",
)
ORDERS = sorted({round(2 * 2048 ** (place / 79)) for place in range(80)})  # Renyi orders, 2 to 4096


class CertifiedDpSgd(BaseMethod):
    """Leave an original that was trained by DP-SGD as it is, and fine-tune it on the retain set.

    DP-SGD bounds what any single image has done to the weights, so what k images to forget have done is bounded too:
    they have (epsilon, delta) if one has (epsilon / k, delta exp(-(k - 1) epsilon / k) / k). The latter follows from
    the Renyi divergence of T steps of the Gaussian mechanism with Poisson sampling, of rate q = 1 / ceil(n / batch).
    Noise can't be added afterwards: it is refused if training had too little for this epsilon, delta and k.

    `optimizer`, `noise_multiplier`, `epochs` and `batch_size` are the original's, from the task's recipe. Of originals
    that were not trained by DP-SGD nothing can be certified: no certificate is given, and `notes` say why. The same
    holds for those that were fine-tuned, without noise, after an earlier request, on images that are now to be
    forgotten.

    Source: the baseline of Koloskova et al., "Certified Unlearning for Neural Networks" (ICML 2025, arXiv
    2506.06985), epsilon 50. Its code leaves the factor 1 / k out ("code_compat"), which does not hold. Mironov et al.,
    "Renyi Differential Privacy of the Sampled Gaussian Mechanism" (arXiv 1908.10530), equation 6.
    """

    guarantee = "(epsilon, delta), `certificate.json`, if DP-SGD trained the original"
    published_figures = "validation 63.8, 68.8, 87.2 % after 1, 2, 50 epochs (CIFAR-10 features, epsilon 50)"
    mechanism = "dp_sgd"
    follows_recipe = True
    recipe_is_binding = True
    certifies = True
    search_space: ClassVar = {
        "finetune_epochs": Between(1, 12),
        "finetune_learning_rate": Between(0.01, 0.5, log=True),
        "finetune_momentum": OneOf((0.0, 0.9)),
        "finetune_batch_size": OneOf((16, 32, 64, 128)),
    }

    epsilon: float = 50.0
    """What is to be certified, with `delta`: exp(epsilon) bounds how much more likely any outcome can become."""
    delta: float = 1e-5
    """Probability that is left out of this bound."""
    accounting: str = "exact"
    """How a group's budget follows from that of an image: "exact", or "code_compat", which does not hold."""
    optimizer: str = "unknown"
    """What trained the original: if not "dp_sgd", no certificate is given."""
    noise_multiplier: float = 0.0
    """Standard deviation of its noise on the sum of a batch's gradients, in units of the norm they are clipped to."""
    epochs: int = 50
    """Passes over the training set that the original took."""
    batch_size: int = 128
    """Images in a step of the original's training, on average."""
    finetune_epochs: int = 6
    """Passes over the retain set, without noise."""
    finetune_learning_rate: float = 0.1
    """Largest step size of these; it rises for 30 % of the steps, then falls."""
    finetune_linear: bool = False
    """Whether it rises and falls linearly, not as a cosine."""
    finetune_momentum: float = 0.0
    """Momentum of these."""
    finetune_weight_decay: float = 5e-4
    """L2 regularisation of these."""
    finetune_batch_size: int = 128
    """Images in a step of these."""
    constants_chosen_on: str = "published"
    """Where the values above come from: "published", or as `tune` says; "forget" voids the certificate: refused."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for what would void the certificate."""
        data: list[Any] = [retain_loader.dataset, forget_loader.dataset]
        before = int(getattr(self, "memory", {}).get("forgotten", 0))  # images of earlier requests
        forgotten = before + len(data[1])
        notes: dict[str, Any] = {"certificate": None}
        if self.optimizer != "dp_sgd":
            notes["no certificate"] = f"The original was not trained by DP-SGD: its optimizer is {self.optimizer}."
        elif before > 0 and self.finetune_epochs > 0:
            notes["no certificate"] = "The request before was followed by fine-tuning on what is now to be forgotten."
        else:
            notes["certificate"] = self._certificate(net, len(data[0]), forgotten)
        self.memory = {"forgotten": torch.tensor(forgotten)}
        notes["history"] = {"validation accuracy": self._finetune(net, retain_loader, val_loader)}
        self.notes = notes

    def _certificate(self, net: nn.Module, retain: int, forget: int) -> dict[str, Any]:
        if self.noise_multiplier <= 0:
            raise ValueError("DP-SGD without noise hides nothing: the noise multiplier must be positive.")
        _refuse_uncovered(net, self.constants_chosen_on)
        batches = math.ceil((retain + forget) / self.batch_size)
        constants = {
            "noise_multiplier": self.noise_multiplier,
            "sampling_rate": 1 / batches,
            "steps": self.epochs * batches,
            "group": forget,
        }
        self._refuse_too_little_noise(1 / batches, self.epochs * batches, forget)
        return {
            "method": "certified_dp_sgd",
            "epsilon": self.epsilon,
            "delta": self.delta,
            "accounting": self.accounting,
            "constants": constants,
            "conditions": {"batch_norm_statistics": "none", "constants_chosen_on": self.constants_chosen_on},
            "assumptions": list(ASSUMPTIONS),
        }

    def _refuse_too_little_noise(self, sampling_rate: float, steps: int, group: int) -> None:
        """Raise `ValueError` if the original can't have epsilon and delta for a group of so many images."""
        if not (0 < self.epsilon < math.inf and 0 < self.delta < 1):
            raise ValueError("epsilon must be positive, and delta between 0 and 1.")
        if self.accounting not in ("exact", "code_compat"):
            raise ValueError(f"accounting is exact or code_compat, not {self.accounting!r}.")
        allowed = self.epsilon / group
        logarithm = math.log(self.delta) - (group - 1) * allowed  # of the delta of one image
        if self.accounting == "exact":
            logarithm -= math.log(group)
        has = min(
            steps * _renyi(order, sampling_rate, self.noise_multiplier)
            - (logarithm + math.log(order)) / (order - 1)
            + math.log1p(-1 / order)
            for order in ORDERS
        )
        if has > allowed * (1 + 1e-9):
            raise ValueError(
                f"The original's noise multiplier, {self.noise_multiplier:g}, is too little for epsilon = "
                f"{self.epsilon:g} and {group} images to forget: each may have {allowed:.4g}, and has {has:.4g}."
            )

    def _finetune(self, net: nn.Module, retain_loader: Loader, val_loader: Loader) -> list[float]:
        """Train without noise. The validation accuracy at first, and after each epoch."""
        device = next(net.parameters()).device
        loader = DataLoader(retain_loader.dataset, batch_size=self.finetune_batch_size, shuffle=True)
        optimizer = torch.optim.SGD(
            net.parameters(),
            lr=self.finetune_learning_rate,
            momentum=self.finetune_momentum,
            weight_decay=self.finetune_weight_decay,
        )
        steps = max(1, self.finetune_epochs * len(loader))
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.finetune_learning_rate,
            total_steps=steps,
            anneal_strategy="linear" if self.finetune_linear else "cos",
            cycle_momentum=False,
        )
        accuracies = [_accuracy(net, val_loader)]
        for _ in range(self.finetune_epochs):
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                net.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
                optimizer.zero_grad()
                F.cross_entropy(net(images), labels).backward()
                optimizer.step()
                scheduler.step()
            accuracies.append(_accuracy(net, val_loader))
        return accuracies


def _renyi(order: int, sampling_rate: float, noise: float) -> float:
    """The Renyi divergence of one step, ln(sum_j C(a, j) (1-q)^(a-j) q^j exp(j (j-1) / (2 noise^2))) / (a - 1)."""
    places = torch.arange(order + 1, dtype=torch.float64)
    rest = order - places
    logarithms = math.lgamma(order + 1) - torch.lgamma(places + 1) - torch.lgamma(rest + 1)
    logarithms += places * math.log(sampling_rate) + torch.xlogy(rest, 1 - sampling_rate)
    return float((logarithms + places * (places - 1) / (2 * noise**2)).logsumexp(0)) / (order - 1)


def _refuse_uncovered(net: nn.Module, chosen_on: str) -> None:
    """Raise `ValueError` for what the noise of the training has not hidden."""
    if chosen_on not in ("published", "retain", "retrained"):
        raise ValueError(f"Constants must be chosen without the forget set, not on {chosen_on!r}.")
    uncovered = [name for name, _ in net.named_buffers()]
    if uncovered:
        raise ValueError(f"{uncovered[0]} has seen the forget set, and DP-SGD adds no noise to it: no certificate.")


@torch.no_grad()
def _accuracy(net: nn.Module, loader: Loader) -> float:
    net.eval()
    device = next(net.parameters()).device
    right = [net(sample["image"].to(device)).argmax(dim=1) == sample["age_group"].to(device) for sample in loader]
    return float(torch.cat(right).double().mean())
