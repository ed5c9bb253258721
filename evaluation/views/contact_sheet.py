"""A picture of a task: images of each class, of some subjects, and of the forget set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from data import Task
from data.files import write_atomically
from data.texts import unmathematical

COLUMNS = 14
"""Images in a row."""
SUBJECTS = 6
"""Subjects shown, of those to be forgotten and of the others."""
SUBJECT_COLUMN = "person_id"

Row = tuple[str, np.ndarray]
"""A title, and training indices."""


def rows_of(task: Task) -> list[Row]:
    """What the sheet shows, row by row, each with the same images every time."""
    rng = np.random.default_rng(0)
    return [(title, rng.permutation(indices)[:COLUMNS]) for title, indices in _all_rows(task)]


def _all_rows(task: Task) -> Iterator[Row]:
    labels = task.train.labels.cpu().numpy()
    forget = np.zeros(len(task.train), dtype=bool)
    forget[task.request_indices] = True
    for number, name in enumerate(task.classes):
        share = f"{(labels == number).sum()}, {(forget & (labels == number)).sum()} to forget"
        yield f"class {name} ({share})", np.flatnonzero(labels == number)
    forget_title = "forget set" if task.arrived[-1].labels is None else "forget set, mislabelled"
    for start in range(3):
        yield (forget_title, "", "")[start], task.request_indices[start::3]
    subjects = task.train.columns.get(SUBJECT_COLUMN)
    if subjects is not None:
        for title, group in (("subject to forget", subjects[forget]), ("subject to keep", subjects[~forget])):
            for subject in np.unique(group)[:SUBJECTS]:
                yield f"{title}: {subject}", np.flatnonzero(subjects == subject)


def draw(task: Task, path: Path) -> None:
    """Write the sheet as a PNG file."""
    from matplotlib.figure import Figure

    rows = rows_of(task)
    figure = Figure(figsize=(COLUMNS * 0.62 + 2.2, len(rows) * 0.62 + 0.6), layout="constrained")
    requests = unmathematical(", ".join(request.text for request in task.requests))
    figure.suptitle(f"{task.name}: forget {requests} of {len(task.train)} images")
    low, high = task.train.images.min(), task.train.images.max()
    for axis, (title, indices) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        shades = (task.train.images[torch.as_tensor(indices)] - low) / (high - low).clamp(min=1e-9)
        axis.imshow(_side_by_side(shades.cpu().numpy()), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_ylabel(unmathematical(title), rotation=0, ha="right", va="center", fontsize=8)
        axis.set(xticks=[], yticks=[], frame_on=False)
    write_atomically(path, lambda beside: figure.savefig(beside, dpi=110, format="png", bbox_inches="tight"))


def _side_by_side(images: np.ndarray) -> np.ndarray:
    """Images `(n, C, H, W)` in [0, 1] as one row of `COLUMNS` with white gaps, `(H, width)` or `(H, width, 3)`."""
    number, channels, height, width = images.shape
    gap = 1 + width // 16
    row = np.ones((channels, height, COLUMNS, width + gap), dtype=np.float32)
    row[:, :, :number, :width] = images.transpose(1, 2, 0, 3)
    row = row.reshape(channels, height, -1)
    return row[0] if channels == 1 else np.moveaxis(row[:3], 0, -1)
