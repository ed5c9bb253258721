"""Eighth place: wipe random layers, distil the original back on the retain set, and repeat."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from methods.BaseMethod import BaseMethod, Between, Loader, OneOf
from methods.initialisation import reinitialise


class Forget(BaseMethod):
    """Cycles of re-initialising random layers and distilling the original's logits on the retain set.

    A cycle draws `layers` layers with replacement, from all convolutions and linear layers but the last layer and
    projection shortcuts, and resets them; then it minimises the mean squared difference of the logits from the
    original's, on retain images with Gaussian noise. A small network has few layers: six draws reset nearly all.

    Source: eighth place of the competition (Kaggle discussion 458715, and the team's project page). One summary says
    that it distils on the forget set, which would teach it again; its formula and the team say the retain set. SGD's
    momentum, weight decay and batches are not published (here the starter notebook's), nor how layers are
    re-initialised (here PyTorch's way), nor if the cosine restarts in each cycle (it does here, with T_max = 2). The
    team's second algorithm is `cycles` "2,1,1,1" and `rates` "5e-4,1e-3,1e-3,1e-3,1e-3".
    """

    published_figures = "0.0939 on Kaggle (public, mean)"
    search_space: ClassVar = {
        "cycles": OneOf(("1,2,2", "2,1,1,1", "2", "3,3")),
        "learning_rate": Between(1e-4, 0.3, log=True),
        "layers": Between(1, 6),
        "noise": Between(0.0, 0.3),
    }

    cycles: str = "1,2,2"
    """Passes over the retain set in each cycle."""
    learning_rate: float = 0.001
    """Step size of SGD at the start of each cycle."""
    rates: str = ""
    """The step size of each epoch instead; if empty, a cosine."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    layers: int = 6
    """Layers to draw in each cycle, with replacement."""
    noise: float = 0.01
    """Standard deviation of the noise on images."""
    loss: str = "mse"
    """Either "mse" or "l1" (between logits), or "ce" (of the labels): the team's ablation."""
    keep_classifier: bool = True
    """Whether the last layer is never reset."""
    keep_shortcuts: bool = True
    """Whether projection shortcuts (in a ResNet: `downsample`) are never reset."""
    share: float = 0.0
    """If not 0, single weights of all layers are reset instead, each with this probability: the team's ablation."""
    select: str = "random"
    """How layers are chosen: "random", or by "fisher": those that the forget set says most about (an ablation)."""
    augment: str = "none"
    """What is done to images: "none", "flip" (upside down) or "crop" (and a square blanked): the team's ablations."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        for name, known in (
            ("loss", ("mse", "l1", "ce")),
            ("select", ("random", "fisher")),
            ("augment", ("none", "flip", "crop")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {getattr(self, name)!r}.")
        device = next(net.parameters()).device
        original = copy.deepcopy(net).eval()
        cycles = [int(text) for text in self.cycles.split(",")]
        rates = [float(text) for text in self.rates.split(",") if text]
        if rates and len(rates) < sum(cycles):
            raise ValueError(f"rates has {len(rates)} numbers, but cycles has {sum(cycles)} epochs.")

        for cycle, epochs in enumerate(cycles):
            self._wipe(net, forget_loader)
            optimizer = torch.optim.SGD(
                net.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
            )
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
            for epoch in range(epochs):
                if rates:
                    optimizer.param_groups[0]["lr"] = rates[sum(cycles[:cycle]) + epoch]
                for sample in retain_loader:
                    images, labels = sample["image"].to(device), sample["age_group"].to(device)
                    images = self._augmented(images + self.noise * torch.randn_like(images))
                    net.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
                    loss = self._loss(net(images), original, images, labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                cosine.step()
        net.eval()

    def pool(self, net: nn.Module) -> list[nn.Conv2d | nn.Linear]:
        """The layers that can be reset."""
        layers = [(name, part) for name, part in net.named_modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
        if self.keep_classifier:
            layers = layers[:-1]
        return [layer for name, layer in layers if not (self.keep_shortcuts and "downsample" in name)]

    @torch.no_grad()
    def _wipe(self, net: nn.Module, forget_loader: Loader) -> None:
        """Reset random layers; or random weights of all of them, if `share` is not 0."""
        pool = self.pool(net)
        if self.select == "fisher":
            pool = self._most_informed(net, pool, forget_loader)
        elif not self.share:
            pool = [pool[place] for place in torch.randint(len(pool), (self.layers,)).tolist()]
        for layer in pool:
            before = [weight.clone() for weight in layer.parameters()]
            reinitialise(layer)
            if self.share:
                for weight, old in zip(layer.parameters(), before, strict=True):
                    weight.copy_(torch.where(torch.rand_like(weight) < self.share, weight, old))

    @torch.enable_grad()
    def _most_informed(
        self, net: nn.Module, pool: list[nn.Conv2d | nn.Linear], forget_loader: Loader
    ) -> list[nn.Conv2d | nn.Linear]:
        """The `layers` layers with the most Fisher information: the mean square of the forget loss's gradients."""
        net.eval()
        information = torch.zeros(len(pool))
        for sample in forget_loader:
            images = sample["image"].to(pool[0].weight.device)
            loss = F.cross_entropy(net(images), sample["age_group"].to(images.device))
            gradients = torch.autograd.grad(loss, [layer.weight for layer in pool])
            information += torch.stack([gradient.square().mean() for gradient in gradients]).cpu()
        return [pool[place] for place in information.argsort(descending=True)[: self.layers]]

    def _augmented(self, images: torch.Tensor) -> torch.Tensor:
        """Every second image upside down; or all shifted by up to 4 pixels, with the same quarter square blanked."""
        if self.augment == "flip":
            flipped = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            return torch.where(flipped, images.flip(2), images)
        if self.augment == "crop":
            height, width = images.shape[2:]
            down, right = torch.randint(9, (2,)).tolist()
            images = F.pad(images, (4, 4, 4, 4))[:, :, down : down + height, right : right + width].clone()
            top, left = int(torch.randint(height, ())), int(torch.randint(width, ()))
            images[:, :, top : top + height // 4, left : left + width // 4] = 0
        return images

    def _loss(
        self, logits: torch.Tensor, original: nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        if self.loss == "ce":
            return F.cross_entropy(logits, labels)
        with torch.no_grad():
            wanted = original(images)
        return F.mse_loss(logits, wanted) if self.loss == "mse" else F.l1_loss(logits, wanted)
