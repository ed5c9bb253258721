"""What tests compare of models that were trained in different ways."""

from __future__ import annotations

import numpy as np
import torch

from checkpoints.together import Together
from checkpoints.training import group_logits
from data import Task


def accuracy_and_confidence(task: Task, networks: Together) -> np.ndarray:
    """Of each model on the test set: its accuracy, and its mean log probability of the true class, `(2, models)`."""
    logits = group_logits(networks, task.test.images).log_softmax(2)  # (models, test, classes)
    true = logits.gather(2, task.test.labels.expand(networks.models, -1)[..., None]).mean(dim=(1, 2))
    accuracy = (logits.argmax(2) == task.test.labels).float().mean(1)
    return torch.stack([accuracy, true]).numpy()
