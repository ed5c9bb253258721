"""Accuracies from recorded outputs: by split, by forget request, by class, and among the top 5."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from checkpoints.outputs import MANY_CLASSES, Outputs, share_in_top5
from data import Task
from evaluation.metrics.quantities import Name, Share

SPLITS = ("test", "validation", "forget")
"""Those of which logits are recorded in full."""

ByClass = list[Share | None]
"""The accuracy of each class in [0, 1], `(classes,)`; None for a class of which there is no example."""


@dataclass(frozen=True)
class Accuracies:
    """Accuracies of some models, shares of 1, averaged over the models."""

    retain: Share
    """On the retain set."""
    test: Share
    """On the test set."""
    validation: Share
    """On the validation set."""
    forget: Share
    """On all that is to be forgotten so far."""
    forget_by_request: list[Share]
    """On the examples of each request so far."""
    by_class: dict[Name, ByClass] | None = None
    """For each class, in the order of the task's classes, by split: "test", "validation" and "forget"; None for a
    class without examples. None altogether in reports of early versions."""
    top5: dict[Name, Share] | None = None
    """Top-5 accuracy by split: "test", "validation", "forget" and "retain". None where there are 10 classes or fewer,
    and in reports of early versions."""


def accuracies(outputs: Outputs, task: Task) -> Accuracies:
    """All of them."""
    means = {split: float(outputs.accuracy(split, task.labels(split)).mean()) for split in SPLITS}
    right = (outputs.forget.argmax(axis=2) == task.labels("forget")).mean(axis=0)  # (forget,) over models
    own = [np.isin(task.forget_indices, request.indices) for request in task.arrived]
    return Accuracies(
        retain=float(outputs.retain_accuracy.mean()),
        **means,
        forget_by_request=[float(right[examples].mean()) for examples in own],
        by_class=accuracies_by_class(outputs, task),
        top5=top5_accuracies(outputs, task),
    )


def accuracy_by_class(logits: np.ndarray, labels: np.ndarray, classes: int) -> ByClass:
    """The share of each class's examples that is told right, averaged over models.

    `logits` `(models, examples, classes)`, `labels` int64 `(examples,)`.
    """
    right = (logits.argmax(axis=2) == labels).mean(axis=0)  # (examples,)
    return [float(right[labels == number].mean()) if (labels == number).any() else None for number in range(classes)]


def accuracies_by_class(outputs: Outputs, task: Task) -> dict[str, ByClass]:
    """The same for each split of which outputs are recorded: "test", "validation" and "forget"."""
    classes = len(task.classes)
    return {split: accuracy_by_class(getattr(outputs, split), task.labels(split), classes) for split in SPLITS}


def top5_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """See `share_in_top5`, of recorded logits, averaged over models."""
    return float(share_in_top5(torch.from_numpy(logits), torch.from_numpy(labels)).mean())


def top5_accuracies(outputs: Outputs, task: Task) -> dict[str, float] | None:
    """The same for each split: "test", "validation", "forget" and "retain".

    The last is recorded as such; outputs of early versions lack it. None where there are not many classes.
    """
    if len(task.classes) <= MANY_CLASSES:
        return None
    found = {split: top5_accuracy(getattr(outputs, split), task.labels(split)) for split in SPLITS}
    if outputs.retain_top5_accuracy is not None:
        found["retain"] = float(outputs.retain_top5_accuracy.mean())
    return found
