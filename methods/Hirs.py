"""Impair the last layer by linear filtration, then repair the weights that the forget set depends on most."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from methods.BaseMethod import Bars, BaseMethod, Between, Loader, Matrix, OneOf

MODES = ("normalization", "randomization", "zeroing", "naive", "none")


class Hirs(BaseMethod):
    """Impair the network by a linear filter on its logits, then fine-tune salient weights on the retain set.

    Impair: column c of A, `(classes, classes)`, is the mean of the logits of class c, B is the target for A, and
    with F = I + (B - A) A^T (A A^T + ridge I)^-1 the last layer W, b becomes F W, F b. For whole classes, those of
    which nothing is retained, B is by `mode` what it is in linear filtration: columns of forgotten classes keep the
    rows of retained ones as they are ("naive"), shifted to the mean of the retained block ("normalization"), as
    N(0, 1) or 0; rows of forgotten classes become the smallest of the others. Without whole classes, A has the means
    of the forget set and B those of the validation set: F takes forgotten images to where unseen ones are. Of A only
    the `rank` largest directions count then, and |F - I| is at most `largest_change`.

    Repair: fine-tune the `share` of the weights with the largest |sum over the forget set of the gradient of the
    cross-entropy|, in eval mode; the others are put back after every step. It ends after `epochs`; when the validation
    accuracy (of retained classes) is not above that of the epoch before; or, where no whole class goes, when it is
    within `accuracy_gap` of the forget set's.

    Source: a research idea of a machine-unlearning starter kit, without paper or published numbers, after linear
    filtration (arXiv 2002.02730) and SalUn (arXiv 2310.12508). Without epochs it is `linear_filtration`; at mode "none"
    and share 1, `finetune`, both bit for bit. Filtration changes no feature: only the repair can remove what features
    know of a class. Rows of forgotten classes are ours, as in `linear_filtration`; so is the order of stops.
    """

    drawings: ClassVar = {
        "filtration": Matrix(
            "filtration, less the identity", rows="logit after", columns="logit before", less_identity=True
        ),
        "density": Bars("density: share of weights repaired", entries="parameter", limits=(0, 1)),
    }
    search_space: ClassVar = {
        "epochs": Between(1, 10),
        "learning_rate": Between(1e-3, 0.3, log=True),
        "share": Between(0.01, 1.0, log=True),
        "mode": OneOf(MODES),
        "largest_change": Between(0.0, 2.0),
    }

    mode: str = "normalization"
    """What forgotten classes become: normalization, randomization, zeroing, naive; "none" leaves the impairing out."""
    ridge: float = 0.01
    """Added to the diagonal of A A^T, for an A that can hardly be inverted; 0 takes the pseudo-inverse."""
    rank: int = 0
    """Most directions of A that the filter of a forget set without whole classes uses; 0 is all."""
    largest_change: float = 0.5
    """Largest spectral norm of F - I for a forget set without whole classes."""
    share: float = 0.3
    """Share of the weights that are repaired."""
    mask_first: bool = False
    """Whether saliency is that before the impairing."""
    epochs: int = 2
    """Most passes over the retain set; 0 leaves the repair out."""
    learning_rate: float = 0.01
    """Step size of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 regularisation of SGD."""
    batch_size: int = 64
    """Images in a step."""
    stop: bool = True
    """Whether the repair may end before all its epochs."""
    accuracy_gap: float = 0.02
    """Difference between forget and validation accuracy at which it ends."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` if the mode is unknown, or there is no class to retain."""
        if self.mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not {self.mode!r}.")
        net.eval()
        masks = self._masks(net, forget_loader) if self.mask_first else []
        filtration = torch.eye(0)
        if self.mode != "none":
            filtration = self._filtration(net, retain_loader, forget_loader, val_loader)
            _absorb(net, filtration)
        masks = masks or self._masks(net, forget_loader)
        history, why = self._repair(net, masks, retain_loader, forget_loader, val_loader)
        net.eval()
        names = [name for name, _ in net.named_parameters()]
        density = {name: float(mask.float().mean()) for name, mask in zip(names, masks, strict=True)}
        self.notes = {"history": history, "stopped": why, "density": density, "filtration": filtration.tolist()}

    def _filtration(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> Tensor:
        """F of the docstring, float64 `(classes, classes)`."""
        retained, n_retained = _sums(net, retain_loader)
        forgotten, n_forgotten = _sums(net, forget_loader)
        removed = (n_forgotten > 0) & (n_retained == 0)  # (classes,)
        identity = torch.eye(len(removed), dtype=torch.float64)
        if removed.any():  # a class without images stays: any column does that is independent of the others
            means = _means(retained + forgotten, n_retained + n_forgotten, otherwise=identity)
            return identity + self._change(means, self._wanted(means, removed))
        seen = _means(forgotten, n_forgotten, otherwise=identity)
        unseen = torch.where(n_forgotten > 0, _means(*_sums(net, val_loader), otherwise=seen), seen)
        change = self._change(seen, unseen, self.rank)
        norm = torch.linalg.matrix_norm(change, ord=2)
        return identity + change * (self.largest_change / norm.clamp(min=1e-12)).clamp(max=1)

    def _wanted(self, means: Tensor, removed: Tensor) -> Tensor:
        """B for whole classes, `(classes, classes)`."""
        kept = ~removed
        if not kept.any():
            raise ValueError("Linear filtration needs a class to retain; the forget set has all images of all classes.")
        of_retained, of_removed = means[kept][:, kept], means[kept][:, removed]  # (kept, kept), (kept, removed)
        if self.mode == "normalization":
            of_removed = of_removed + of_retained.mean() - of_removed.mean(dim=0)
        elif self.mode == "randomization":
            of_removed = torch.randn(of_removed.shape, dtype=torch.float64)
        elif self.mode == "zeroing":
            of_removed = torch.zeros_like(of_removed)
        rows = torch.empty(len(of_retained), len(means), dtype=torch.float64)
        rows[:, kept], rows[:, removed] = of_retained, of_removed
        wanted = rows.amin(dim=0).expand_as(means).clone()
        wanted[kept] = rows
        return wanted

    def _change(self, means: Tensor, wanted: Tensor, rank: int = 0) -> Tensor:
        """F - I, where F takes `means` to `wanted`; on their `rank` largest directions alone, if that is not 0."""
        difference = wanted - means
        if rank:
            left, sizes, right = torch.linalg.svd(means)
            means = (left[:, :rank] * sizes[:rank]) @ right[:rank]
        if self.ridge == 0:
            return difference @ torch.linalg.pinv(means)
        gram = means @ means.T + self.ridge * torch.eye(len(means), dtype=torch.float64)
        return torch.linalg.solve(gram, means @ difference.T).T

    def _masks(self, net: nn.Module, loader: Loader) -> list[Tensor]:
        """True where a weight is salient; for each parameter, in its shape."""
        weights = list(net.parameters())
        sums = [torch.zeros_like(weight) for weight in weights]
        for sample in _in_order(loader):
            images, labels = sample["image"].to(sums[0].device), sample["age_group"].to(sums[0].device)
            gradients = torch.autograd.grad(F.cross_entropy(net(images), labels), weights)
            for total, gradient in zip(sums, gradients, strict=True):
                total += gradient
        saliency = torch.cat([total.flatten() for total in sums]).abs()  # (weights,)
        chosen = torch.zeros_like(saliency, dtype=torch.bool)
        chosen[saliency.topk(int(self.share * len(saliency))).indices] = True
        parts = chosen.split([weight.numel() for weight in weights])
        return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]

    def _repair(
        self, net: nn.Module, masks: list[Tensor], retain_loader: Loader, forget_loader: Loader, val_loader: Loader
    ) -> tuple[dict[str, list[float]], str]:
        """Fine-tune what the masks choose: both accuracies after each epoch, and why the last was the last."""
        weights = list(net.parameters())
        device = weights[0].device
        held = list(zip(weights, [weight.detach().clone() for weight in weights], masks, strict=True))
        retained = torch.cat([sample["age_group"] for sample in retain_loader]).to(device)
        loader = DataLoader(retain_loader.dataset, batch_size=self.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(
            weights, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        forgotten, unseen, why = list[float](), list[float](), ""
        for _ in range(self.epochs):
            for sample in loader:
                images, labels = sample["image"].to(device), sample["age_group"].to(device)
                net.train(len(images) > 1)  # batch normalisation cannot normalise over a single image
                loss = F.cross_entropy(net(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    for weight, before, chosen in held:
                        weight.copy_(torch.where(chosen, weight, before))
            hits, labels = _hits(net, forget_loader)
            of_validation, validation_labels = _hits(net, val_loader)
            forgotten.append(float(hits.mean()))
            unseen.append(float(of_validation[torch.isin(validation_labels, retained)].mean()))
            why = self._why_stop(forgotten[-1], unseen, removes_class=not torch.isin(labels, retained).all())
            if why:
                break
        return {"forget_accuracy": forgotten, "validation_accuracy": unseen}, why or "epochs"

    def _why_stop(self, forgotten: float, unseen: list[float], removes_class: bool) -> str:
        """Why there is no other epoch; "" if there is one."""
        if not self.stop:
            return ""
        if not removes_class and abs(forgotten - unseen[-1]) <= self.accuracy_gap:
            return "enough"
        return "plateau" if len(unseen) > 1 and unseen[-1] <= unseen[-2] else ""


def _absorb(net: nn.Module, filtration: Tensor) -> None:
    """Multiply the last layer by it, weights and bias."""
    last = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]
    with torch.no_grad():
        for weight in last.parameters():
            rows = weight.view(len(filtration), -1).cpu().double()  # (classes, inputs)
            weight.copy_((filtration @ rows).view_as(weight))


def _in_order(loader: Loader) -> Loader:
    """The same images in few batches; a generator of its own, so that to look draws no random numbers."""
    return DataLoader(loader.dataset, batch_size=256, generator=torch.Generator())


@torch.no_grad()
def _hits(net: nn.Module, loader: Loader) -> tuple[Tensor, Tensor]:
    """1 for each image that is classified correctly, 0 for the others, and the labels: `(images,)` both."""
    net.eval()
    device = next(net.parameters()).device
    batches = [(sample["image"].to(device), sample["age_group"].to(device)) for sample in _in_order(loader)]
    hits = torch.cat([(net(images).argmax(dim=1) == labels).float() for images, labels in batches])
    return hits, torch.cat([labels for _, labels in batches])


@torch.no_grad()
def _sums(net: nn.Module, loader: Loader) -> tuple[Tensor, Tensor]:
    """By class, as columns: the sum of the logits, float64 `(classes, classes)`, and the number of images."""
    device = next(net.parameters()).device
    logits, labels = [], []
    for sample in loader:
        logits.append(net(sample["image"].to(device)).cpu().double())  # (B, classes)
        labels.append(sample["age_group"].cpu())
    all_logits = torch.cat(logits)
    is_class = F.one_hot(torch.cat(labels), all_logits.shape[1])  # (images, classes)
    return all_logits.T @ is_class.double(), is_class.sum(dim=0)


def _means(sums: Tensor, counts: Tensor, otherwise: Tensor) -> Tensor:
    """The mean logits of each class, as columns; those of `otherwise` for classes without images."""
    return torch.where(counts > 0, sums / counts.clamp(min=1), otherwise)
