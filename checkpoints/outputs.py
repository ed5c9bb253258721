"""What models leave for the metrics: logits and accuracies. Every metric is computed from these alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from checkpoints.grouped import GroupedNetwork
from checkpoints.training import group_logits, single_logits
from data.files import write_arrays

if TYPE_CHECKING:
    from data import Task


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs of some models: float32 logits `(models, examples, classes)` and accuracies in [0, 1], `(models,)`."""

    forget: np.ndarray
    """Logits on what has to be forgotten, in the order of `task.forgotten_indices`."""
    validation: np.ndarray
    """Logits on the validation set."""
    test: np.ndarray
    """Logits on the test set."""
    retain_accuracy: np.ndarray
    """Accuracy on the retain set, float64 `(models,)`."""

    def __len__(self) -> int:
        return len(self.retain_accuracy)

    def __getitem__(self, models: slice) -> Outputs:
        return Outputs(*(getattr(self, field.name)[models] for field in fields(self)))

    def accuracy(self, split: str, labels: np.ndarray) -> np.ndarray:
        """Accuracy on `split` ("forget", "validation" or "test"), whose labels are given: float64 `(models,)`."""
        return (getattr(self, split).argmax(axis=2) == labels).mean(axis=1)

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def save(self, path: Path) -> None:
        """Write an `.npz` file, whole or not at all."""
        write_arrays(path, self.arrays())

    @staticmethod
    def load(path: Path) -> Outputs:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return Outputs(**{field.name: arrays[field.name] for field in fields(Outputs)})

    @staticmethod
    def join(parts: Sequence[Outputs]) -> Outputs:
        """The models of all parts, in order."""
        names = [field.name for field in fields(Outputs)]
        return Outputs(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def record_outputs(network: nn.Module, task: Task) -> Outputs:
    """Run a network, or a `GroupedNetwork` of many, over the forget, validation, test and retain sets in eval mode."""
    device = task.train.images.device

    def logits(images: torch.Tensor) -> torch.Tensor:
        return group_logits(network, images) if isinstance(network, GroupedNetwork) else single_logits(network, images)

    forget = torch.as_tensor(task.forgotten_indices, device=device)
    retain = torch.as_tensor(task.retain_indices, device=device)
    on_retain = logits(task.train.images[retain])  # (models, retain, classes)
    correct = on_retain.argmax(dim=2) == task.train.labels[retain]
    return Outputs(
        forget=logits(task.train.images[forget]).cpu().numpy(),
        validation=logits(task.validation.images).cpu().numpy(),
        test=logits(task.test.images).cpu().numpy(),
        retain_accuracy=correct.double().mean(dim=1).cpu().numpy(),
    )
