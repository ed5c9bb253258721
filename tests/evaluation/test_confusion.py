"""A grading of the request `confuse`, from the bank to a report, and round trips through its files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from checkpoints.pool import Pool
from checkpoints.workers import Workers
from data import TaskSpec, load
from evaluation.console import Console
from evaluation.grading import grade_methods, score_again
from evaluation.isolation.handle import room_workers
from evaluation.metrics import METRICS
from evaluation.report import Report
from evaluation.runs.resolve import resolve
from evaluation.spec import GradingSpec
from evaluation.views.contact_sheet import rows_of

TASK = TaskSpec("digits", forget=("confuse:0.1",), train_size=200, recipe=(("epochs", 40),))
SPEC = GradingSpec("constrained", TASK, originals=1, models=METRICS["official"].fewest_models, budget_seconds=60.0)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """Two processes."""
    with room_workers(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def report(workers: Workers) -> Report:
    """The report of a method; the bank is trained for it."""
    (found,) = grade_methods([SPEC], workers, Console(quiet=True))
    assert isinstance(found, Report)
    return found


@pytest.mark.slow
def test_originals_learn_the_mistakes_and_retrained_models_do_not(report: Report) -> None:
    """Catches a bank that is trained on true labels, and forget images that are among the retained ones."""
    task = load(TASK)
    wrong = task.train.labels[task.request_indices].numpy()
    originals = Pool(task, "original").outputs(1)
    assert originals.accuracy("forget", wrong).mean() > 0.9
    assert report.retrained.forget < 0.2
    true = (wrong - 1) % 10
    assert Pool(task, "retrained").outputs(SPEC.models).accuracy("forget", true).mean() > 0.7
    assert report.retrained.validation > 0.7
    assert report.scores.floor.score.value < 0.05
    assert report.grading.forget == ["confuse:0.1"]
    assert report.grading.forget_indices == task.forget_indices.tolist()


def test_round_trip_through_config_yaml(report: Report, workers: Workers) -> None:
    """What is read from `config.yaml` is the same task, wrong labels included, and scores the same outputs alike."""
    folder = resolve(SPEC, load(TASK), "cpu").folder
    read = GradingSpec.read(folder / "config.yaml")
    assert read == SPEC
    assert load(read.task).fingerprint == report.grading.task_fingerprint
    assert score_again(folder, None) == report


def test_the_contact_sheet_says_so() -> None:
    """The images are among those of the class that they are said to be of."""
    task = load(TASK)
    titles = [title for title, _ in rows_of(task)]
    assert "forget set, mislabelled" in titles
    assert "forget set" not in titles
    zeros = int((task.train.labels == 0).sum())
    assert any(title.startswith(f"class 0 ({zeros}, 2 to forget)") for title in titles)
