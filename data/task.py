"""What a task is: images, labels, splits, network, recipe and forget requests, all frozen."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from data.errors import UserError, shortened
from data.own_network import absolute

if TYPE_CHECKING:
    import torch

RETAIN_SAMPLE = 2000
"""Retained images whose logits are recorded; of all of them would take too much room."""

MOST = 1_000_000
"""No number of a recipe is larger: a million epochs are a mistake."""

_ALIGNMENT = 64
"""Where PyTorch's own memory on the CPU begins: at a multiple of so many bytes."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained from scratch. Originals and retrained models share it; only the seed differs.

    The learning rate is set at the start of each epoch, as in the competition's training code
    (`CosineAnnealingLR` with `T_max = epochs`, stepped per epoch).
    """

    optimizer: str = "sgd"
    """"sgd" (with `momentum`), "adam", or "dp_sgd": SGD on clipped, noisy gradients (`checkpoints/dp_sgd.py`)."""
    learning_rate: float = 0.1
    momentum: float = 0.9
    """Momentum of SGD; Adam keeps PyTorch's betas."""
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    """"cosine" (to zero, per epoch) or "constant"."""
    epochs: int = 60
    batch_size: int = 64
    class_weights: bool = False
    """Weight the cross-entropy of a class by 1 / its count in the whole training split (as on Kaggle)."""
    models_together: int = 16
    """Models trained as one batched network. Part of the recipe because it decides the last bits."""
    noise_multiplier: float = 0.0
    """Of "dp_sgd": standard deviation of the noise on the sum of a batch's gradients, in units of `record_clip`."""
    record_clip: float = 0.5
    """Of "dp_sgd": norm to which the gradient of each image is shortened."""
    pruning: str = "none"
    """How a model finds weights to keep at 0: "omp", "imp" or "synflow" (see `checkpoints/pruning.py`), or "none"."""
    sparsity: float = 0.0
    """Share of the prunable weights that are pruned."""
    rewind_epoch: int = 2
    """Epochs of training to which "omp" and "imp" go back. (Published: 8 of 182.)"""

    def __post_init__(self) -> None:
        choices = {
            "optimizer": ("sgd", "adam", "dp_sgd"),
            "schedule": ("cosine", "constant"),
            "pruning": ("none", "omp", "imp", "synflow"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"recipe: {name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}.")
        for name in ("learning_rate", "epochs", "batch_size", "models_together"):
            if not getattr(self, name) > 0:
                raise UserError(f"recipe: {name} must be greater than 0, not {shortened(str(getattr(self, name)))}.")
        for name in ("momentum", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise UserError(f"recipe: {name} must not be negative, not {shortened(str(getattr(self, name)))}.")
        for name in ("learning_rate", "momentum", "weight_decay", "epochs", "batch_size", "models_together"):
            if getattr(self, name) > MOST:
                raise UserError(f"recipe: {name} can't be more than {MOST:,}.")
        self._check_dp_sgd()
        self._check_pruning()

    def _check_dp_sgd(self) -> None:
        if self.optimizer != "dp_sgd":
            if self.noise_multiplier != 0:
                raise UserError("recipe: noise_multiplier is for optimizer=dp_sgd; add that, or omit it.")
            return
        for name in ("noise_multiplier", "record_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"recipe: dp_sgd needs a {name} greater than 0, like {name}=1.")
        if self.class_weights:
            raise UserError("recipe: dp_sgd can't have class_weights: their counts are of all images, without noise.")

    def _check_pruning(self) -> None:
        if self.pruning == "none":
            if self.sparsity != 0:
                raise UserError("recipe: sparsity needs a kind of pruning: pruning=omp, imp or synflow.")
            return
        if not 0 < self.sparsity < 1:
            raise UserError(f"recipe: pruning needs a sparsity between 0 and 1, like 0.9, not {self.sparsity}.")
        if self.pruning != "synflow" and not 0 <= self.rewind_epoch < self.epochs:
            raise UserError(f"recipe: rewind_epoch must be less than {self.epochs} epochs, not {self.rewind_epoch}.")
        if self.optimizer == "dp_sgd":
            raise UserError("recipe: dp_sgd can't be pruned: a mask tells of the training images, without noise.")

    def described(self) -> dict[str, float | int | str | bool]:
        """All that decides a model, by field. What another optimiser does not look at is left out."""
        values = asdict(self)
        if self.optimizer != "dp_sgd":  # so that recipes have the fingerprints of the time before DP-SGD was here
            del values["noise_multiplier"], values["record_clip"]
        if self.pruning == "none":  # likewise
            del values["pruning"], values["sparsity"]
        if self.pruning in ("none", "synflow"):
            del values["rewind_epoch"]
        return values


@dataclass(frozen=True, eq=False)
class Source:
    """The training images of a source, in its own order: what an index in a request counts.

    `image_ids` str `(n,)`; `uses` str `(n,)`: "train", or, of images that are not trained on, "validation", "test", or
    "" for those that `train_size` leaves out.
    """

    image_ids: np.ndarray
    uses: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """The index of each image of the training split, in its order, int64 `(train,)`."""
        return np.flatnonzero(self.uses == "train")


@dataclass(frozen=True, eq=False)
class Split:
    """Some examples, as tensors on one device.

    `images` float32 `(n, C, H, W)`, `labels` int64 `(n,)`, `image_ids` str `(n,)`, and `columns`: the
    metadata of each example by column name, `(n,)` each. A training split has its `source`, if that has more images.

    However the images come, they lie in memory as in a fresh tensor (see `_canonical`), so that the same images give
    the same bits wherever they were read from.
    """

    images: torch.Tensor
    labels: torch.Tensor
    image_ids: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    source: Source | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", _canonical(self.images))

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str | torch.device) -> Split:
        """The same examples with their tensors on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def _canonical(images: torch.Tensor) -> torch.Tensor:
    """The images with the strides, and on the CPU the alignment, of a fresh tensor: themselves, or a copy.

    `contiguous()` does not do that. An axis of length 1 may have any stride for it, yet by that stride PyTorch tells
    channels-last images, for which it has other convolutions, with other last bits. And libraries of linear algebra
    may add up in another order what begins within a cache line.
    """
    strides = tuple(math.prod(max(size, 1) for size in images.shape[axis + 1 :]) for axis in range(images.ndim))
    aligned = images.device.type != "cpu" or images.data_ptr() % _ALIGNMENT == 0
    if images.stride() == strides and aligned:
        return images
    return images.new_empty(images.shape).copy_(images)


@dataclass(frozen=True, eq=False)
class Request:
    """One request to forget: the text it came from and the sorted training indices, int64 `(n,)`.

    `labels`, int64 `(n,)`, are what these images are called in the training set if that is not their true class.
    """

    text: str
    indices: np.ndarray
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class TaskSpec:
    """What a user says to choose a task; small, picklable, and written into `config.yaml`.

    `forget` empty means the task's own default; `network` and `recipe` (field name -> value) override the
    task's own. `size` chooses among the sizes that a generated task comes in; None is its default. `role` is
    "grading" or "tuning", or that of a grading of a suite; the models of one have other seeds than those of another, so
    that hyper-parameters are not chosen by the models that judge them.

    Several requests arrive one after another: `step` is the one that has just arrived, counted from 0, and those
    before it have been forgotten already. `at_once` makes one request of all of them.

    `features` names a network (see `data.features`) whose features take the place of the images.

    `network` is a name of `checkpoints.networks.NETWORKS`, `torchvision:NAME`, `timm:NAME`, or `FILE.py:NAME` (see
    `data.own_network`), whose path becomes a whole one.
    """

    name: str = "digits"
    forget: tuple[str, ...] = ()
    train_size: int | None = None
    test_size: int | None = None
    data_dir: str | None = None
    network: str | None = None
    recipe: tuple[tuple[str, float | int | str | bool], ...] = ()
    size: str | None = None
    role: str = "grading"
    step: int = 0
    at_once: bool = False
    features: str | None = None

    def __post_init__(self) -> None:
        if self.network is not None:
            object.__setattr__(self, "network", absolute(self.network))


@dataclass(frozen=True, eq=False)
class Task:
    """A data set, its splits, its network and training recipe, and its forget requests (see `TaskSpec`)."""

    spec: TaskSpec
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    network: str
    recipe: Recipe
    requests: tuple[Request, ...]
    data_sha256: str
    """Digest of the images, labels and splits."""
    features: str | None = None
    """What the images are features of: a name of `data.features.FEATURES`, or a "random" network in its place; None:
    they are images."""
    remarks: tuple[str, ...] = ()
    """What the user should know of the data before it is used: which folders are not, for example."""
    network_source: str | None = None
    """The text of the file that an own network is in; `network` is then the file's name, and the network's."""

    @property
    def name(self) -> str:
        """The task's name, `digits` for example; with features `digits-resnet18-features` or `-random-features`."""
        return self.spec.name if self.features is None else f"{self.spec.name}-{self.features}-features"

    @property
    def arrived(self) -> tuple[Request, ...]:
        """The requests so far; the last is the one to fulfil now."""
        return self.requests[: self.spec.step + 1]

    @property
    def request_indices(self) -> np.ndarray:
        """Training indices of the request that has just arrived, sorted int64 `(n,)`: what a run is told to forget."""
        return self.arrived[-1].indices

    @cached_property
    def forget_indices(self) -> np.ndarray:
        """Training indices of all requests so far, sorted int64 `(forget,)`: what a model must not know any more."""
        return np.sort(np.concatenate([request.indices for request in self.arrived]))

    @cached_property
    def retain_indices(self) -> np.ndarray:
        """Training indices to keep, sorted int64 `(retain,)`."""
        return np.setdiff1d(np.arange(len(self.train)), self.forget_indices)

    def labels(self, split: str) -> np.ndarray:
        """The class of each example of "forget", "retain", "validation" or "test": int64 `(examples,)`, on the host.

        Those of the forget set are in the order of `forget_indices`, as its recorded logits are.
        """
        if split in ("validation", "test"):
            return getattr(self, split).labels.cpu().numpy()
        rows = {"forget": self.forget_indices, "retain": self.retain_indices}[split]
        return self.train.labels.cpu().numpy()[rows]

    @cached_property
    def retain_sample(self) -> np.ndarray:
        """Training indices to keep, at most `RETAIN_SAMPLE` at random, always the same: int64 `(sample,)`.

        Of these, logits are recorded; audits take them for images that all models were trained on.
        """
        return np.random.default_rng(0).permutation(self.retain_indices)[:RETAIN_SAMPLE]

    @property
    def all_indices(self) -> np.ndarray:
        """Every training index, int64 `(train,)`."""
        return np.arange(len(self.train))

    def training_fingerprint(self, indices: np.ndarray) -> str:
        """Hash of all that decides the models trained on `train[indices]`, and their seeds."""
        return _digest(self._described, indices)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that decides the bank: data, splits, network, recipe, forget requests in order, step, role."""
        step = {"step": self.spec.step} if self.spec.step else {}
        return _digest({**self._described, **step}, *(request.indices for request in self.requests))

    @property
    def _described(self) -> dict[str, object]:
        described: dict[str, object] = {"data": self.data_sha256, "network": self.network}
        if self.network_source is not None:  # whatever its file is called, and wherever it lies
            source = hashlib.sha256(self.network_source.encode()).hexdigest()
            described["network"] = {"name": self.network.rpartition(":")[2], "source": source}
        described["recipe"] = self.recipe.described()
        if self.spec.role != "grading":
            described["role"] = self.spec.role
        return described

    def to(self, device: str | torch.device) -> Task:
        """The same task with its tensors on `device`."""
        splits = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **splits)


def _digest(described: Mapping[str, object], *arrays: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for array in arrays:
        digest.update(len(array).to_bytes(8, "little") + np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return digest.hexdigest()[:12]
