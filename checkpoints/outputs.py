"""What models leave for the metrics: logits and accuracies. Every metric is computed from these alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import nn

from checkpoints.together import Together
from checkpoints.training import group_logits, single_logits
from data.files import write_arrays

if TYPE_CHECKING:
    from data import Task

OUTPUTS_FORMAT = 2
"""Version of what is recorded: models of the bank with another are recorded again. 2 has logits on the retain set."""

SCORED = ("forget", "validation", "test", "retain_accuracy")
"""The arrays that scores depend on, in all versions."""

MANY_CLASSES = 10
"""Top-5 accuracy is for tasks with more classes than this: with ten, guessing is right half of the time."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs of some models: float32 logits `(models, examples, classes)` and accuracies in [0, 1], `(models,)`."""

    forget: np.ndarray
    """Logits on what has to be forgotten, in the order of `task.forget_indices`."""
    validation: np.ndarray
    """Logits on the validation set."""
    test: np.ndarray
    """Logits on the test set."""
    retain_accuracy: np.ndarray
    """Accuracy on the retain set, float64 `(models,)`."""
    retain: np.ndarray | None = None
    """Logits on a sample of the retain set, in the order of `task.retain_sample`; None in files of early versions."""
    retain_top5_accuracy: np.ndarray | None = None
    """Top-5 accuracy on the retain set, likewise; None without `MANY_CLASSES`, and in files of early versions."""

    def __len__(self) -> int:
        return len(self.retain_accuracy)

    def __getitem__(self, models: slice) -> Outputs:
        return Outputs(**{name: values[models] for name, values in self.arrays().items()})

    def accuracy(self, split: str, labels: np.ndarray) -> np.ndarray:
        """Accuracy on `split` ("forget", "validation" or "test"), whose labels are given: float64 `(models,)`."""
        return (getattr(self, split).argmax(axis=2) == labels).mean(axis=1)

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields by name, without those that are None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in values.items() if array is not None}

    def save(self, path: Path) -> None:
        """Write an `.npz` file, whole or not at all."""
        write_arrays(path, self.arrays())

    @staticmethod
    def load(path: Path) -> Outputs:
        """Read what `save` wrote."""
        with path.open("rb") as file:
            return Outputs.read(file)

    @staticmethod
    def read(file: BinaryIO) -> Outputs:
        """Read the content of what `save` wrote."""
        with np.load(file, allow_pickle=False) as arrays:
            return Outputs(**{field.name: arrays[field.name] for field in fields(Outputs) if field.name in arrays})

    @staticmethod
    def join(parts: Sequence[Outputs]) -> Outputs:
        """The models of all parts, in order, with those fields that all parts have."""
        arrays = [part.arrays() for part in parts]
        names = [field.name for field in fields(Outputs) if all(field.name in own for own in arrays)]
        return Outputs(**{name: np.concatenate([own[name] for own in arrays]) for name in names})


def share_in_top5(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The share of examples whose label is among the five classes with the largest logits, float64 `(models,)`.

    `logits` `(models, examples, classes)`, `labels` int64 `(examples,)`. Of equal logits an arbitrary one is larger.
    """
    best = logits.topk(5, dim=2).indices  # (models, examples, 5)
    return (best == labels[:, None]).any(dim=2).double().mean(dim=1)


def record_outputs(network: nn.Module, task: Task) -> Outputs:
    """Run a network, or several together, over the forget, validation, test and retain sets in eval mode."""
    device = task.train.images.device

    def logits(images: torch.Tensor) -> torch.Tensor:
        return group_logits(network, images) if isinstance(network, Together) else single_logits(network, images)

    forget = torch.as_tensor(task.forget_indices, device=device)
    retain = torch.as_tensor(task.retain_indices, device=device)
    on_retain, labels = logits(task.train.images[retain]), task.train.labels[retain]  # (models, retain, classes)
    correct = on_retain.argmax(dim=2) == labels
    positions = torch.as_tensor(np.searchsorted(task.retain_indices, task.retain_sample), device=device)
    top5 = None
    if len(task.classes) > MANY_CLASSES:
        top5 = share_in_top5(on_retain, labels).cpu().numpy()
    return Outputs(
        forget=logits(task.train.images[forget]).cpu().numpy(),
        validation=logits(task.validation.images).cpu().numpy(),
        test=logits(task.test.images).cpu().numpy(),
        retain=on_retain[:, positions].cpu().numpy(),
        retain_accuracy=correct.double().mean(dim=1).cpu().numpy(),
        retain_top5_accuracy=top5,
    )
