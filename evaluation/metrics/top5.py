"""Top-5 accuracy, from recorded outputs, where there are so many classes that it says something."""

from __future__ import annotations

import numpy as np
import torch

from checkpoints.outputs import MANY_CLASSES, Outputs, share_in_top5
from data import Task


def top5_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """See `share_in_top5`, of recorded logits, averaged over models."""
    return float(share_in_top5(torch.from_numpy(logits), torch.from_numpy(labels)).mean())


def top5_accuracies(outputs: Outputs, task: Task) -> dict[str, float] | None:
    """The same for each split: "test", "validation", "forget" and "retain".

    The last is recorded as such; outputs from before lack it. None where there are not many classes.
    """
    if len(task.classes) <= MANY_CLASSES:
        return None
    splits = ("test", "validation", "forget")
    found = {split: top5_accuracy(getattr(outputs, split), task.labels(split)) for split in splits}
    if outputs.retain_top5_accuracy is not None:
        found["retain"] = float(outputs.retain_top5_accuracy.mean())
    return found
