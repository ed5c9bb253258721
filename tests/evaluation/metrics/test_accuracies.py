"""Top-5 accuracy: by hand, where it is reported, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from checkpoints.networks import build_network
from checkpoints.outputs import MANY_CLASSES, Outputs, record_outputs
from checkpoints.training import single_logits
from data import TaskSpec, load
from evaluation.metrics.accuracies import top5_accuracies, top5_accuracy
from evaluation.report import Report
from evaluation.views.terminal import show_report

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
        "forget": top5_accuracy(logits["forget"], task.train.labels[task.request_indices].numpy()),
    }


def test_of_the_retain_set_it_is_recorded(tmp_path: Path) -> None:
    """From the same logits and labels as the accuracy; and kept in files, slices and joins.

    Catches four or six classes, and labels in another order.
    """
    task = load(TaskSpec("digits", train_size=200, test_size=200, network="mlp"))
    task = replace(task, classes=CLASSES)
    network = build_network(task).eval()
    outputs = record_outputs(network, task)
    logits = single_logits(network, task.train.images[task.retain_indices]).numpy()
    expected = top5_accuracy(logits, task.train.labels[task.retain_indices].numpy())
    assert 0 < expected < 1
    outputs.save(tmp_path / "outputs.npz")
    again = Outputs.join([Outputs.load(tmp_path / "outputs.npz")[:1], outputs])
    for one in (outputs, again):
        found = top5_accuracies(one, task)
        assert found is not None
        assert found["retain"] == pytest.approx(expected)
    assert len(again) == 2


def test_few_classes_and_outputs_from_before_have_none(tmp_path: Path) -> None:
    """Files of ten classes lack it; those without the retain set's, or without its logits, can be joined."""
    task = load(TaskSpec("digits", train_size=200, test_size=200, network="mlp"))
    before = record_outputs(build_network(task).eval(), task)
    before.save(tmp_path / "outputs.npz")
    with np.load(tmp_path / "outputs.npz") as file:
        assert list(file) == ["forget", "validation", "test", "retain_accuracy", "retain"]
    early = replace(before, retain=None, retain_top5_accuracy=np.ones(1))
    joined = Outputs.join([Outputs.load(tmp_path / "outputs.npz"), early])
    assert len(joined) == 2
    assert joined.retain_top5_accuracy is None
    assert joined.retain is None


def test_shown_where_it_is_known(
    make_report: Callable[..., Report], results: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line with both, or no line; of splits that both have; and JSON keeps it."""
    show_report(make_report())
    assert "top-5" not in capsys.readouterr().out
    report = make_report()
    known = replace(
        report,
        unlearned=replace(report.unlearned, top5={"test": 0.648, "retain": 0.9}),
        retrained=replace(report.retrained, top5={"test": 0.711}),
    )
    show_report(known)
    assert "top-5        test 64.8 % (71.1 %); in" in capsys.readouterr().out
    assert Report.from_json(json.dumps(known.to_dict())) == known
