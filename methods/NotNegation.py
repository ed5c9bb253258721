"""Turn the sign of the first layer's weights, then fine-tune: a large step away that is quick to come back from."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf


class NotNegation(BaseMethod):
    """Negate the weights of chosen layers, the first by default, then fine-tune on the retain set (NoT).

    W <- -W, and its bias too if it has one, so that the layer's output is exactly negated: no unit behind it can read
    it any more, but all that was learned about sizes is still there. Then SGD minimises the cross-entropy of the
    retain set. Nothing is random but the order of images.

    Source: Khalil et al., "NoT: Federated Unlearning via Weight Negation" (CVPR 2025, arXiv 2503.05657), which
    fine-tunes by federated averaging, with all clients but the one to forget; one client that holds the retain set is
    left here. Negating the first layer is its default. Ours are the bias, and all settings of the fine-tuning: those of
    `retrain` but for fewer epochs, at a constant rate. With no layers it is `finetune` with the same settings, bit for
    bit.
    """

    search_space: ClassVar = {
        "layers": OneOf(("0", "0,1", "all")),
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-3, 0.3, log=True),
        "batch_size": OneOf((32, 64, 256)),
    }

    layers: str = "0"
    """The convolutions and linear layers to negate, by number, separated by commas; -1 is the last; or "all"."""
    epochs: int = 8
    """Passes over the retain set."""
    learning_rate: float = 0.1
    """Step size of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 64
    """Images in a step."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics, which don't fit a negated layer."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` if `layers` is no list of numbers of layers."""
        device = next(net.parameters()).device
        with torch.no_grad():
            for layer in self._chosen(net):
                for weight in layer.parameters():
                    weight.neg_()
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

        for _ in range(self.epochs):
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
                net.train(len(images) > 1 and not self.freeze_bn)
                loss = F.cross_entropy(net(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()

    def _chosen(self, net: nn.Module) -> list[nn.Module]:
        """The layers to negate, each once, whatever it is called: 0 and -1 are the same layer if there is but one."""
        layers: list[nn.Module] = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        if self.layers == "all":
            return layers
        try:
            numbers = [int(text) for text in self.layers.split(",") if text.strip()]
            return [layers[place] for place in sorted({range(len(layers))[number] for number in numbers})]
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"layers are numbers from 0 to {len(layers) - 1}, with commas, or all; not {self.layers!r}."
            ) from error
