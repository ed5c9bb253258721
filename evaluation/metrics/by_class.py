"""Accuracy class by class, from recorded outputs."""

from __future__ import annotations

import numpy as np

from checkpoints.outputs import Outputs
from data import Task

ByClass = list[float | None]
"""The accuracy of each class in [0, 1], `(classes,)`; None for a class of which there is no example."""


def accuracy_by_class(logits: np.ndarray, labels: np.ndarray, classes: int) -> ByClass:
    """The share of each class's examples that is told right, averaged over models.

    `logits` `(models, examples, classes)`, `labels` int64 `(examples,)`.
    """
    right = (logits.argmax(axis=2) == labels).mean(axis=0)  # (examples,)
    return [float(right[labels == number].mean()) if (labels == number).any() else None for number in range(classes)]


def accuracies_by_class(outputs: Outputs, task: Task) -> dict[str, ByClass]:
    """The same for each split of which outputs are recorded: "test", "validation" and "forget"."""
    return {
        split: accuracy_by_class(getattr(outputs, split), task.labels(split), len(task.classes))
        for split in ("test", "validation", "forget")
    }
