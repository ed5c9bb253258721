"""Top-5 accuracy: by hand, where it is reported, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from checkpoints.outputs import Outputs
from data import TaskSpec, load
from evaluation.report import Report
from evaluation.show import show_report
from evaluation.top5 import MANY_CLASSES, top5_accuracies, top5_accuracy

CLASSES = tuple(f"class {number}" for number in range(12))


def test_top5_accuracy_by_hand() -> None:
    """Right if fewer than five logits are larger. Catches four or six of them, the smallest, and a mean per class."""
    logits = np.tile(np.arange(12.0, dtype=np.float32), (2, 3, 1))  # (models, examples, classes): 11 to 7 are the best
    assert top5_accuracy(logits, np.array([11, 7, 6])) == pytest.approx(2 / 3)
    logits[1] = -logits[1]  # for the second model, 0 to 4 are
    assert top5_accuracy(logits, np.array([11, 7, 4])) == pytest.approx((2 + 1) / 6)


def test_top5_accuracy_is_the_rank_of_the_label() -> None:
    """Against sorting, on random logits."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 50, 100)), rng.integers(0, 100, 50)
    ranks = (logits > np.take_along_axis(logits, labels[np.newaxis, :, np.newaxis], axis=2)).sum(axis=2)
    assert top5_accuracy(logits, labels) == pytest.approx((ranks < 5).mean())


def test_only_where_there_are_many_classes() -> None:
    """Not for the ten digits; for twelve classes, of each split by its own labels. Catches labels of another split."""
    task = load(TaskSpec("digits", train_size=200, test_size=200))
    assert len(task.classes) == MANY_CLASSES
    rows = {"forget": 30, "validation": 300, "test": 200}
    rng = np.random.default_rng(0)
    logits = {name: rng.normal(size=(2, count, 12)).astype(np.float32) for name, count in rows.items()}
    outputs = Outputs(**logits, retain_accuracy=np.ones(2))
    assert top5_accuracies(outputs, task) is None
    found = top5_accuracies(outputs, replace(task, classes=CLASSES))
    assert found == {
        "test": top5_accuracy(logits["test"], task.test.labels.numpy()),
        "validation": top5_accuracy(logits["validation"], task.validation.labels.numpy()),
        "forget": top5_accuracy(logits["forget"], task.train.labels[task.forget_indices].numpy()),
    }


def test_shown_where_it_is_known(
    make_report: Callable[..., Report], results: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line with both, or no line; and JSON keeps it."""
    show_report(make_report())
    assert "top-5" not in capsys.readouterr().out
    known = make_report(top5_accuracy={"test": 0.648}, top5_accuracy_retrained={"test": 0.711})
    show_report(known)
    assert "top-5        test 64.8 % (71.1 %)" in capsys.readouterr().out
    assert Report.from_json(json.dumps(known.to_dict())) == known
