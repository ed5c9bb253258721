"""Retrain the last layers from scratch on the retain set, on top of the original's features."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader
from methods.initialisation import freshly_initialised


class EuK(BaseMethod):
    """Re-initialise the last k layers and train them on the retain set ("exact unlearning"), all others frozen.

    A layer is a convolution or linear map with the batch normalisation that follows it. Frozen layers keep their
    weights and the statistics of their batch normalisation, bit for bit. If there are no more than k, all are trained.

    Source: Goel et al., "Towards Adversarial Evaluation of Inexact Machine Unlearning" (arXiv 2201.06640), which
    trains as long as the original was trained (30 epochs or more); k = 3 is ours. The code of SCRUB (arXiv 2302.09880)
    has a ResNet's layer4 without the head: stages=1 freeze_head=true freeze_bn=true momentum=0 weight_decay=0 pull=0.1
    (5e-4 at large scale), 10 epochs at 0.01. Deep Unlearn (arXiv 2410.01276) has layer4 and the head, which are six
    layers: stages=2 and the same otherwise. A published version copies the layers from themselves, so that nothing is
    re-initialised.
    """

    search_space: ClassVar = {
        "k": Between(1, 8),
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-3, 0.3, log=True),
    }

    k: int = 3
    """Layers to train, counted from the end."""
    stages: int = 0
    """Parts to train in place of k layers, counted from the end: 0 for none. A part is a child of the network that has
    layers, so that a ResNet has six: the first convolution, layer1 to layer4, and the head."""
    freeze_head: bool = False
    """Whether the last layer stays as it is; layers and parts are counted from the one before it then."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics everywhere."""
    pull: float = 0.0
    """Strength of an L2 pull to where they started: half of it times the squared distance is added to the loss."""
    epochs: int = 10
    """Passes over the retain set."""
    learning_rate: float = 0.01
    """Step size of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 256
    """Images in a step."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for no layers, and a network that can't be initialised anew."""
        if self.k < 1 or self.stages < 0:
            raise ValueError(
                f"k is a number of layers, 1 or more, and stages 0 or more: not {self.k} and {self.stages}."
            )
        device = next(net.parameters()).device
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        trained = self._trained(net)
        for module, fresh in zip(trained, self._trained(freshly_initialised(net)), strict=True):
            module.load_state_dict(fresh.state_dict())
        chosen = set(trained.parameters())
        frozen = [weight for weight in net.parameters() if weight.requires_grad and weight not in chosen]
        for weight in frozen:
            weight.requires_grad_(False)
        optimizer = torch.optim.SGD(
            trained.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

        free = list(trained.parameters())
        start = [weight.detach().clone() for weight in free]
        net.eval()
        for _ in range(self.epochs):
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                trained.train(len(images) > 1 and not self.freeze_bn)  # normalising needs two images
                loss = F.cross_entropy(net(images), labels)
                if self.pull:
                    squares = [(weight - was).square().sum() for weight, was in zip(free, start, strict=True)]
                    loss = loss + self.pull / 2 * torch.stack(squares).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()
        for weight in frozen:
            weight.requires_grad_(True)

    def _trained(self, net: nn.Module) -> nn.ModuleList:
        """The modules to train: layers, and what follows them."""
        modules = [module for module in net.modules() if not list(module.children())]
        layers = [place for place, module in enumerate(modules) if isinstance(module, (nn.Conv2d, nn.Linear))]
        starts = layers  # of what is counted
        if self.stages:
            parts = [[modules.index(leaf) for leaf in child.modules() if leaf in modules] for child in net.children()]
            starts = [part[0] for part in parts if set(part) & set(layers)]
        head = layers[-1] if self.freeze_head else len(modules)
        counted = [start for start in starts if start < head] or starts
        first = counted[-(self.stages or self.k) :][0]
        return nn.ModuleList(module for place, module in enumerate(modules) if place >= first and place != head)
