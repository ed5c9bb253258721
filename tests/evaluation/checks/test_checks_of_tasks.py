"""Checks of tasks: each finds what it is for, and is silent about a sound task and the bundled ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from data import Request, Split, Task, TaskSpec, load
from evaluation.checks import reload
from evaluation.checks import task as of_tasks
from evaluation.checks.finding import Finding, make_checks, warnings_in
from evaluation.checks.reload import Fingerprints, fingerprint_there
from evaluation.checks.task import TASK_CHECKS
from tests.evaluation.checks.examples import TRAIN, UNSEEN, a_task


def with_copies(source: Split, target: Split, rows: int) -> Split:
    """`target`, of which the first rows are the first images of `source`."""
    images = target.images.clone()
    images[:rows] = source.images[:rows]
    return replace(target, images=images)


def forget_and_retain_share() -> Task:
    """The same image in forget and retain set: ndb796/MachineUnlearning, issue 2."""
    task = a_task()
    images = task.train.images.clone()
    images[30:36] = images[:6]
    return replace(task, train=replace(task.train, images=images))


def trained_on_the_validation_set() -> Task:
    """Training equals validation: Unlearning_LLM, issue 5."""
    task = a_task()
    return replace(task, validation=with_copies(task.train, task.validation, UNSEEN))


def without(split: Split, label: int) -> Split:
    """A split whose images of a class are of the next one."""
    labels = torch.where(split.labels == label, (label + 1) % 3, split.labels)
    return replace(split, labels=labels)


def last_images_forgotten() -> Task:
    """All images of class 0, and some of class 1."""
    indices = np.array([*range(0, TRAIN, 3), 1])
    return replace(a_task(), requests=(Request("random:21", np.sort(indices)),))


FOUND: dict[Callable[..., Finding | None], Callable[[], Any]] = {
    of_tasks.images_are_in_one_set: forget_and_retain_share,
    of_tasks.validation_is_not_trained_on: trained_on_the_validation_set,
    of_tasks.every_class_is_in_training_and_test: lambda: replace(a_task(), test=without(a_task().test, 2)),
    of_tasks.every_class_is_in_validation: lambda: replace(a_task(), validation=without(a_task().validation, 2)),
    of_tasks.every_class_is_retained_or_forgotten_whole: last_images_forgotten,
    # A forget split that changes from run to run: unlearning-challenge/starting-kit, issue 15.
    reload.task_is_the_same_each_time: lambda: Fingerprints("aaa", "bbb"),
}
"""For each check, something that it finds."""

SILENT: dict[Callable[..., Finding | None], Callable[[], Any]] = {
    **dict.fromkeys(TASK_CHECKS, a_task),
    reload.task_is_the_same_each_time: lambda: Fingerprints("aaa", "aaa"),
}
"""For each check, something that is sound."""


@pytest.mark.parametrize("check", TASK_CHECKS, ids=lambda check: check.__name__)
def test_a_task_with_one_fault_has_one_finding(check: Callable[[Task], Finding | None]) -> None:
    """Catches checks that find each other's faults; a validation set that is trained on is both."""
    task = FOUND[check]()
    found = {one.name for one in make_checks("task", TASK_CHECKS, task) if one.told}
    also = {"images are in one set"} if check is of_tasks.validation_is_not_trained_on else set()
    assert found == {check.__name__.replace("_", " ")} | also


def test_how_many_images_two_sets_share() -> None:
    """They are counted by pairs of sets; few of many are a warning, many an error."""
    finding = of_tasks.images_are_in_one_set(forget_and_retain_share())
    assert finding is not None
    assert finding.severity == "error"
    assert "forget and retain (6 images)" in finding.sentence
    task = a_task()
    large = replace(task.train, images=torch.randn(3000, 1, 2, 2), labels=torch.arange(3000) % 3)
    task = replace(task, train=large, requests=(Request("random:0.5", np.arange(1500)),))
    task.train.images[1600] = task.train.images[3]
    finding = of_tasks.images_are_in_one_set(task)
    assert finding is not None
    assert finding.severity == "warning"
    assert "forget and retain (1 image): " in finding.sentence


def test_whole_classes_may_be_forgotten() -> None:
    """A request for a class is no accident. Catches a warning at each `--forget class:3`."""
    task = a_task(slice(0, TRAIN, 3))
    assert of_tasks.forgets_whole_classes(task)
    assert of_tasks.every_class_is_retained_or_forgotten_whole(task) is None
    assert not of_tasks.forgets_whole_classes(a_task())


def test_missing_classes_are_named() -> None:
    """With the set that lacks them, in one sentence."""
    task = replace(a_task(), train=without(a_task().train, 0), test=without(a_task().test, 2))
    finding = of_tasks.every_class_is_in_training_and_test(task)
    assert finding is not None
    assert finding.sentence.startswith(
        "The training set has no image of class ant and the test set has no image of class cat: "
    )


@pytest.mark.parametrize(
    "spec",
    [
        TaskSpec("digits"),
        TaskSpec("digits", ("class:3",)),
        TaskSpec("digits", ("confuse:0.1",)),
        pytest.param(TaskSpec("faces"), marks=pytest.mark.slow),  # its images are made the first time
    ],
    ids=lambda spec: " ".join((spec.name, *spec.forget)),
)
def test_bundled_tasks_are_sound(spec: TaskSpec) -> None:
    """A warning at each grading of them would be a false alarm."""
    task = load(spec)
    assert [one.finding for one in make_checks("task", TASK_CHECKS, task) if one.told] == []
    assert fingerprint_there(spec, "cpu") == task.fingerprint


def test_gradings_tell_warnings_and_no_notes() -> None:
    """What is good to know is for `check` alone."""
    task = FOUND[of_tasks.every_class_is_in_validation]()
    assert warnings_in(make_checks("task", TASK_CHECKS, task)) == []
    (said,) = warnings_in(make_checks("task", TASK_CHECKS, forget_and_retain_share()))
    assert said.startswith("Two sets have the same images")
