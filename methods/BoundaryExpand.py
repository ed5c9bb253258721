"""Move the forget set into a class that is made up for it, and then take that class away."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from methods.BaseMethod import BaseMethod, Between, Loader


class BoundaryExpand(BaseMethod):
    """Train forgotten images to belong to an additional shadow class, then remove that class.

    The last layer gets one more output, of small random weights; all weights minimise the cross-entropy of the forget
    set with the shadow class as every label; the output is removed again, so that the softmax is over the classes
    that there were. Nothing is done for the retain set.

    Source: Chen et al., "Boundary Unlearning" (CVPR 2023, arXiv 2303.11570). Of the re-implementations, SalUn's leaves
    the shadow class in the network. The learning rate is the published one; the SalUn paper runs 5e-6. The shadow
    class's first weights are ours; with initial_deviation=-1 they are drawn as PyTorch draws a new layer, as published.
    """

    whole_classes = True
    published_figures = "mean gap to retraining of four measures, 2.76 points (CIFAR-10, ResNet-18, 10 %)"
    search_space: ClassVar = {"epochs": Between(1, 20), "learning_rate": Between(1e-6, 0.1, log=True)}

    epochs: int = 10
    """Passes over the forget set."""
    learning_rate: float = 1e-5
    """Step size of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    batch_size: int = 64
    """Images in a step."""
    initial_deviation: float = 0.001
    """Standard deviation of the shadow class's first weights, whose bias begins at 0; -1: drawn as a new layer is."""
    freeze_bn: bool = False
    """Whether batch normalisation keeps and uses the original's statistics."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        device = next(net.parameters()).device
        last = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]
        narrow = dict(last.named_parameters())
        classes = len(narrow["weight"])
        bound = narrow["weight"][0].numel() ** -0.5  # of the uniform distribution of a new layer's weights and bias
        for name, weight in narrow.items():  # Linear and Conv2d take their number of outputs from their weights
            if self.initial_deviation < 0:
                row = torch.empty_like(weight[:1]).uniform_(-bound, bound)
            else:
                row = (self.initial_deviation if name == "weight" else 0.0) * torch.randn_like(weight[:1])
            setattr(last, name, nn.Parameter(torch.cat([weight.detach(), row])))
        loader = DataLoader(forget_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(net.parameters(), lr=self.learning_rate, momentum=self.momentum)

        for _ in range(self.epochs):
            for sample in loader:
                images = sample["image"].to(device)
                # Batch normalisation cannot normalise over a single image: then too it keeps to its statistics.
                net.train(len(images) > 1 and not self.freeze_bn)
                shadow = torch.full((len(images),), classes, device=device)
                loss = F.cross_entropy(net(images), shadow)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        with torch.no_grad():
            for name, weight in narrow.items():
                weight.copy_(getattr(last, name)[:classes])
                setattr(last, name, weight)
        net.eval()
