"""Fine-tune at the rate that each run finds for itself: nothing has to be tuned beforehand."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from methods.BaseMethod import BaseMethod, Loader


class SelfTuned(BaseMethod):
    """Fine-tune copies at several rates, and keep that whose forget images look as unseen as validation images did.

    The original has not seen the validation set, and shows on it how confident a network is in what it has not seen:
    phi = log p_y - log(1 - p_y) for true classes y. A copy is fine-tuned on the retain set for `epochs` epochs, at a
    rate that falls on a cosine, for each of `tries` rates between `lowest_rate` and `highest_rate`. That copy is kept
    whose phi of the forget images is the nearest to the original's of the validation images, in Wasserstein distance
    (the mean distance of their quantiles). All of this is on the clock of the run.

    Source: ours, an example of the rule "self-tuned" of suites. That unseen images tell where forget images belong is
    what membership attacks go by. It misleads where the forget set is unlike the validation set: a whole class, say.
    """

    self_tuning = True

    epochs: int = 2
    """Passes over the retain set at each rate."""
    tries: int = 2
    """Rates that are tried, a geometric series."""
    lowest_rate: float = 0.05
    """The smallest rate of SGD."""
    highest_rate: float = 0.15
    """The largest rate of SGD."""
    noise: float = 0.4
    """Noise on the weights of the first layer, as a share of their standard deviation: it sets runs apart."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        unseen = self.quantiles(net, val_loader)
        ratio = self.highest_rate / self.lowest_rate
        rates = [self.lowest_rate * ratio ** (place / max(self.tries - 1, 1)) for place in range(self.tries)]
        nearest, best = math.inf, copy.deepcopy(net.state_dict())
        for rate in rates:
            candidate = copy.deepcopy(net)
            self.fine_tune(candidate, retain_loader, rate)
            distance = float((self.quantiles(candidate, forget_loader) - unseen).abs().mean())
            if distance < nearest:  # never of NaN
                nearest, best = distance, candidate.state_dict()
        net.load_state_dict(best)
        net.eval()

    def fine_tune(self, net: nn.Module, retain_loader: Loader, rate: float) -> None:
        """Add noise to the first layer, then fine-tune on the retain set."""
        device = next(net.parameters()).device
        with torch.no_grad():
            first = next(module.weight for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
            first.add_(self.noise * first.std() * torch.randn_like(first))
        optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=self.momentum, weight_decay=self.weight_decay)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)
        for _ in range(self.epochs):
            for sample in retain_loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                net.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
                loss = F.cross_entropy(net(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            scheduler.step()

    def quantiles(self, net: nn.Module, loader: Loader) -> torch.Tensor:
        """Quantiles of the confidences phi in the true classes, `(21,)`, from the least to the greatest."""
        device = next(net.parameters()).device
        net.eval()
        found = []
        with torch.no_grad():
            for sample in loader:
                logits, labels = net(sample["image"].to(device)), sample["age_group"].to(device)
                others = logits.masked_fill(F.one_hot(labels, logits.shape[1]).bool(), -math.inf).logsumexp(1)
                found.append(logits.gather(1, labels[:, None])[:, 0] - others)  # log p_y - log(1 - p_y)
        return torch.cat(found).quantile(torch.linspace(0, 1, 21, device=device))
