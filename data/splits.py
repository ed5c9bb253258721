"""Which images are for training, for validation and for testing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data.errors import UserError

SPLIT_SEED = 2023
"""Seed of every split. A constant: everybody has the same splits, so that scores can be compared."""

VALIDATION_SHARE = 0.1
"""Share of a source's training images that becomes the validation set, if the source has none of its own."""

UNDIVIDED_VALIDATION = 300
"""Validation images taken from a source that is one undivided set."""

UNDIVIDED_LEAST_TEST = 200
"""Test images that must remain in an undivided set, or the test accuracy would mean little."""


class SplitRows(NamedTuple):
    """Rows of the source, int64, sorted and disjoint: `(train,)`, `(validation,)` and `(test,)`."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def stratified_order(labels: np.ndarray, seed: int = SPLIT_SEED) -> np.ndarray:
    """Every index of `labels` once, `(n,)` int64, in a random order of which each prefix is class-balanced.

    Balanced means: in the first m indices a class has its share of m, `m * n_class / n`, give or take less
    than the number of classes, and the first indices are one of each class. The r-th image of a class (in
    random order) is placed at `r / n_class`.
    """
    # RandomState rather than default_rng: NumPy promises that its streams never change.
    shuffled = np.random.RandomState(seed).permutation(len(labels))
    position = np.empty(len(labels))  # (n,) place of each index within its class, as a fraction
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        position[members] = np.arange(len(members)) / len(members)
    return shuffled[np.argsort(position[shuffled], kind="stable")].astype(np.int64)


def split_parts(
    labels: np.ndarray, parts: np.ndarray, train_size: int | None, test_size: int | None = None
) -> SplitRows:
    """Splits of a source that comes with its own test set (and perhaps validation set).

    `labels` and `parts` are those of `RawData`. Without a validation set of its own, the source's training
    images give a class-balanced tenth. `train_size` takes a class-balanced subset of the others, and of such a
    validation set a subset in proportion; `test_size` one of the test set. None takes all. Raises `UserError`
    when a size does not fit.
    """
    train, validation, test = (np.flatnonzero(parts == part) for part in ("train", "validation", "test"))
    classes = len(np.unique(labels))
    order = train[stratified_order(labels[train])]
    size = max(1, int(VALIDATION_SHARE * len(train))) if len(validation) == 0 else 0
    most = len(order) - size
    train_size = most if train_size is None else train_size
    _check_train_size(train_size, most, classes)
    if size > 0:
        # From the end of the order: the one image of a rare class is at its beginning, and is to train on.
        # Any stretch of the order is class-balanced.
        validation = order[most:][: max(1, round(size * train_size / most))]
    return SplitRows(np.sort(order[:train_size]), np.sort(validation), _subset(test, labels, test_size, classes))


def split_undivided(labels: np.ndarray, train_size: int, test_size: int | None = None) -> SplitRows:
    """Class-balanced splits of a source that is one set: a larger `train_size` leaves a smaller test set.

    The validation set does not depend on `train_size`, and a smaller training set is part of a larger one.
    Raises `UserError` when a size does not fit.
    """
    order = stratified_order(labels)
    most = len(order) - UNDIVIDED_VALIDATION - UNDIVIDED_LEAST_TEST
    classes = len(np.unique(labels))
    if most < classes:
        raise UserError(
            f"{len(order)} images are too few to be divided: {UNDIVIDED_VALIDATION} are taken for validation, at least "
            f"{UNDIVIDED_LEAST_TEST} for testing, and one of each class is needed for training."
        )
    _check_train_size(train_size, most, classes)
    train, test, validation = np.split(order, [train_size, len(order) - UNDIVIDED_VALIDATION])
    return SplitRows(np.sort(train), np.sort(validation), _subset(test, labels, test_size, classes))


def _subset(test: np.ndarray, labels: np.ndarray, test_size: int | None, classes: int) -> np.ndarray:
    """A class-balanced part of the test rows, sorted."""
    if test_size is None:
        return np.sort(test)
    if not classes <= test_size <= len(test):
        raise UserError(f"A test size of {test_size} does not fit: choose {classes} to {len(test)}.")
    return np.sort(test[stratified_order(labels[test])[:test_size]])


def _check_train_size(train_size: int, most: int, classes: int) -> None:
    if train_size < classes:
        raise UserError(f"A training size of {train_size} is less than one image a class: choose {classes} to {most}.")
    if train_size > most:
        raise UserError(
            f"A training size of {train_size} leaves too little for validation and test: choose {classes} to {most}."
        )
