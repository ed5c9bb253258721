"""The contact sheet: the right images in the right rows, and a picture on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from data import TaskSpec, load
from evaluation.views.contact_sheet import COLUMNS, draw, rows_of


def test_rows_show_what_they_say() -> None:
    """Each class row holds that class; the forget rows hold forget images alone, and all of them fit in."""
    task = load(TaskSpec(train_size=100, forget=("random:0.3",)))
    rows = dict(rows_of(task))
    labels = task.train.labels.numpy()
    for number, name in enumerate(task.classes):
        ((title, indices),) = [(t, i) for t, i in rows.items() if t.startswith(f"class {name} ")]
        assert set(labels[indices]) == {number}
        forgotten = int((labels[task.request_indices] == number).sum())
        assert title == f"class {name} ({(labels == number).sum()}, {forgotten} to forget)"
    shown = np.concatenate([indices for title, indices in rows_of(task) if title in ("forget set", "")])
    assert sorted(shown) == sorted(task.request_indices)  # 30 images in 3 rows of 10
    assert max(map(len, rows.values())) <= COLUMNS


def test_subjects_have_rows_of_their_own(tmp_path: Path) -> None:
    """Images of one row are of one subject, and it is said whether it is to be forgotten."""
    task = load(TaskSpec("faces", train_size=600))
    person = task.train.columns["person_id"]
    forgotten = set(person[task.request_indices])
    rows = [(title, indices) for title, indices in rows_of(task) if title.startswith("subject")]
    assert rows
    for title, indices in rows:
        assert len(set(person[indices])) == 1
        assert (person[indices[0]] in forgotten) == ("to forget" in title)


def test_the_picture(tmp_path: Path) -> None:
    """A PNG that is not blank."""
    path = tmp_path / "new" / "sheet.png"
    draw(load(TaskSpec(train_size=60)), path)
    picture = imread(path)
    assert picture.shape[0] > 300
    assert picture[..., :3].std() > 0.1
