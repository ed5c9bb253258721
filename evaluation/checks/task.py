"""Checks of a task alone: its sets of images, its classes, and whether it is the same each time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from data import Task
from data.texts import printable
from evaluation.checks.finding import Finding, Severity
from evaluation.texts import counted

SETS = ("forget", "retain", "validation", "test")
FEW = 0.01
"""Share of the smaller set that two sets may have in common by accident: large collections have some copies."""
MOST_NAMES = 5
"""Classes that are named in a sentence."""
ALIKE = 0.5
"""Share of the validation set from which on it is the training set, and not some images too many."""


def images_are_in_one_set(task: Task) -> Finding | None:
    """The same image in two of forget, retain, validation and test set.

    A retrained model that saw a copy of a forgotten image knows what it shows: it forgot nothing, and is no truth. Only
    exact copies are found. Seen in ndb796/MachineUnlearning, issue 2.
    """
    sets = image_digests(task)
    common = {pair: len(sets[pair[0]] & sets[pair[1]]) for pair in combinations(SETS, 2)}
    common = {pair: number for pair, number in common.items() if number}
    if not common:
        return None
    where = ", ".join(f"{one} and {other} ({counted(number, 'image')})" for (one, other), number in common.items())
    many = any(number > FEW * min(len(sets[one]), len(sets[other])) for (one, other), number in common.items())
    return Finding(
        "error" if many else "warning",
        f"Two sets have the same images, {where}: remove the copies, or put all copies of an image in one set, since a "
        "model that has seen a copy has seen the image.",
    )


def validation_is_not_trained_on(task: Task) -> Finding | None:
    """The validation set is the training set, or most of it is in it.

    Methods take the validation set for images that the original has never seen, and stop or choose by it; so does
    `tune` for certified methods. Seen in Unlearning_LLM, issue 5.
    """
    sets = image_digests(task)
    known = len(sets["validation"] & (sets["forget"] | sets["retain"]))
    if known < ALIKE * len(sets["validation"]):
        return None
    return Finding(
        "error",
        f"{known} of {len(sets['validation'])} validation images are training images: take others, since methods use "
        "them for images that were not trained on.",
    )


def every_class_is_in_training_and_test(task: Task) -> Finding | None:
    """A class without an image in the training or the test set.

    No model can learn the first, and the accuracy says nothing of the second. Asked for by the project's issue 19.
    """
    missing = {"training": _absent(task, task.train.labels), "test": _absent(task, task.test.labels)}
    return _missing(task, missing, "warning", "add some, or leave the class out")


def every_class_is_in_validation(task: Task) -> Finding | None:
    """A class without an image in the validation set.

    A method that goes by accuracies of classes on the validation set finds nothing there. Issue 19.
    """
    return _missing(task, {"validation": _absent(task, task.validation.labels)}, "note", "take more validation images")


def every_class_is_retained_or_forgotten_whole(task: Task) -> Finding | None:
    """A request takes the last images of a class by the way.

    Then retrained models have never seen the class, and answer as after a request to forget it. That is meant if
    nothing but whole classes is forgotten; by a random request it is an accident. Issue 19.
    """
    lost = np.intersect1d(_absent(task, torch.from_numpy(task.labels("retain"))), task.labels("forget"))
    if forgets_whole_classes(task) or not len(lost):
        return None
    return Finding(
        "warning",
        f"Nothing is retained of {_named(task, lost)}, so that retrained models don't know the class at all: forget "
        "fewer images, or whole classes (class:NAME).",
    )


def forgets_whole_classes(task: Task) -> bool:
    """Whether all that is forgotten are classes of which nothing is retained."""
    return not np.isin(task.labels("forget"), task.labels("retain")).any()


def _missing(task: Task, missing: dict[str, NDArray[np.int64]], severity: Severity, advice: str) -> Finding | None:
    said = [f"the {name} set has no image of {_named(task, absent)}" for name, absent in missing.items() if len(absent)]
    if not said:
        return None
    text = " and ".join(said)
    return Finding(severity, f"{text[0].upper()}{text[1:]}: {advice}.")


def _absent(task: Task, labels: torch.Tensor) -> NDArray[np.int64]:
    """The classes that have no example, int64 `(absent,)`."""
    return np.flatnonzero(np.bincount(labels.cpu().numpy(), minlength=len(task.classes)) == 0)


def _named(task: Task, classes: NDArray[np.int64]) -> str:
    names = [printable(task.classes[number]) for number in classes[:MOST_NAMES]]
    more = f" and {len(classes) - MOST_NAMES} more" if len(classes) > MOST_NAMES else ""
    return f"{'class' if len(classes) == 1 else 'classes'} {', '.join(names)}{more}"


@lru_cache(maxsize=1)
def image_digests(task: Task) -> dict[str, frozenset[bytes]]:
    """The hashes of the images of each of `SETS`."""
    train = np.array(_digests(task.train.images), dtype=object)
    return {
        "forget": frozenset(train[task.forget_indices]),
        "retain": frozenset(train[task.retain_indices]),
        "validation": frozenset(_digests(task.validation.images)),
        "test": frozenset(_digests(task.test.images)),
    }


def _digests(images: torch.Tensor) -> Sequence[bytes]:
    """A hash of the bytes of each image, `(n, C, H, W)`."""
    rows = np.ascontiguousarray(images.cpu().numpy()).reshape(len(images), -1)
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]


TASK_CHECKS = (
    images_are_in_one_set,
    validation_is_not_trained_on,
    every_class_is_in_training_and_test,
    every_class_is_in_validation,
    every_class_is_retained_or_forgotten_whole,
)
"""Of a `Task`. Every grading makes them."""
