"""Small tasks and outputs for checks, made of random numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from checkpoints.outputs import Outputs
from data import Recipe, Request, Split, Task, TaskSpec

CLASSES = 3
TRAIN, UNSEEN = 240, 120
"""Images of the training split, and of validation and test set."""


def a_split(size: int, seed: int) -> Split:
    """Random images of 2x2 pixels, of all classes equally often."""
    images = torch.randn(size, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
    return Split(images, torch.arange(size) % CLASSES, np.array([f"{seed}-{number}" for number in range(size)]))


def a_task(forget: slice = slice(0, 12), **changes: Any) -> Task:
    """A task in which there is nothing to find; `forget` are the indices of its request."""
    indices = np.arange(TRAIN)[forget]
    task = Task(
        spec=TaskSpec("example"),
        train=a_split(TRAIN, 0),
        validation=a_split(UNSEEN, 1),
        test=a_split(UNSEEN, 2),
        classes=("ant", "bee", "cat"),
        network="small_cnn",
        recipe=Recipe(),
        requests=(Request("random:12", indices),),
        data_sha256="",
    )
    return replace(task, **changes)


def outputs_of(
    task: Task, models: int, seed: int, forget: float = 0.0, test: float = 0.0, retain_accuracy: float = 1.0
) -> Outputs:
    """Normal logits with those of the true class raised: by `forget` on the forget set, by `test` on unseen images."""
    random = np.random.default_rng(seed)

    def logits(labels: np.ndarray, raised: float) -> np.ndarray:
        values = random.normal(size=(models, len(labels), CLASSES))
        values[:, np.arange(len(labels)), labels] += raised
        return values.astype(np.float32)

    return Outputs(
        forget=logits(task.labels("forget"), forget),
        validation=logits(task.labels("validation"), test),
        test=logits(task.labels("test"), test),
        retain_accuracy=np.full(models, retain_accuracy),
    )
