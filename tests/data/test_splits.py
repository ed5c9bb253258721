from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import UserError
from data.splits import split_parts, split_undivided, stratified_order

some_labels = st.lists(st.integers(0, 5), min_size=1, max_size=120).map(np.array)


@given(labels=some_labels)
def test_every_prefix_of_the_order_is_balanced(labels: np.ndarray) -> None:
    """Catches an order that repeats or misses an index, or that is not stratified (a plain permutation)."""
    order = stratified_order(labels)
    assert sorted(order) == list(range(len(labels)))
    classes, counts = np.unique(labels, return_counts=True)
    assert set(labels[order[: len(classes)]]) == set(classes)
    for size in range(len(labels) + 1):
        taken = np.array([(labels[order[:size]] == label).sum() for label in classes])
        assert (abs(taken - size * counts / len(labels)) < max(len(classes), 2)).all()


def test_equal_classes_are_taken_equally() -> None:
    """With classes of one size, every prefix has them equally often, give or take one image."""
    labels = np.repeat(np.arange(10), 50)
    order = stratified_order(labels)
    for size in range(1, 500):
        counts = np.bincount(labels[order[:size]], minlength=10)
        assert counts.max() - counts.min() <= 1


def test_the_order_is_random_and_fixed() -> None:
    """The order is neither the source's own, nor another one each time, nor another one on another NumPy."""
    labels = np.repeat(np.arange(2), 8)
    assert stratified_order(labels).tolist() == stratified_order(labels).tolist()
    assert stratified_order(labels).tolist() != stratified_order(labels, seed=1).tolist()
    assert stratified_order(labels).tolist() == [12, 2, 8, 0, 10, 5, 11, 4, 13, 3, 14, 1, 15, 6, 9, 7]


@given(labels=st.lists(st.integers(0, 3), min_size=30, max_size=200).map(np.array), tested=st.integers(1, 10))
def test_splits_of_a_source_with_a_test_set_are_disjoint_and_complete(labels: np.ndarray, tested: int) -> None:
    """Training and validation set share the source's training images; the test set is the source's own."""
    parts = np.array(["train"] * (len(labels) - tested) + ["test"] * tested)
    train, validation, test = split_parts(labels, parts, None)
    assert sorted([*train, *validation, *test]) == list(range(len(labels)))
    assert (parts[test] == "test").all()
    assert (parts[[*train, *validation]] == "train").all()
    assert len(validation) == max(1, (len(labels) - tested) // 10)
    assert all((np.diff(rows) > 0).all() for rows in (train, validation, test))


def test_validation_set_has_the_class_shares_of_the_source() -> None:
    """A tenth of each class, not a tenth of all images at random."""
    labels = np.repeat([0, 1, 2], [1000, 500, 100])
    _, validation, _ = split_parts(labels, np.full(1600, "train"), None)
    assert abs(np.bincount(labels[validation]) - [100, 50, 10]).max() <= 1


def test_the_only_image_of_a_class_is_for_training() -> None:
    """Catches a validation set taken from the beginning of the order, where the rare classes are."""
    labels = np.array([0] * 50 + [1] * 49 + [2])
    train, _, _ = split_parts(labels, np.full(100, "train"), None)
    assert 99 in train
    small, _, _ = split_parts(labels, np.full(100, "train"), 3)
    assert set(labels[small]) == {0, 1, 2}


def test_a_validation_set_of_its_own_is_used() -> None:
    """The source's own validation images are the validation set, and no training image joins them."""
    parts = np.repeat(["train", "validation", "test"], [20, 7, 5])
    train, validation, test = split_parts(np.arange(32) % 2, parts, None)
    assert (len(train), len(validation), len(test)) == (20, 7, 5)
    assert validation.tolist() == list(range(20, 27))


def test_train_size_takes_a_nested_balanced_subset() -> None:
    """A smaller training set is part of a larger one, and leaves validation and test set alone."""
    labels = np.repeat(np.arange(5), 100)
    parts = np.array((["train"] * 80 + ["test"] * 20) * 5)
    whole, small = split_parts(labels, parts, None), split_parts(labels, parts, 50)
    assert np.bincount(labels[small.train]).tolist() == [10] * 5
    assert set(small.train) < set(split_parts(labels, parts, 51).train) < set(whole.train)
    assert set(small.validation) < set(whole.validation)
    assert small.test.tolist() == whole.test.tolist()


@pytest.mark.parametrize(("size", "word"), [(4, "less than one image a class"), (361, "too little")])
def test_train_size_that_does_not_fit_is_refused(size: int, word: str) -> None:
    """400 training images less 40 for validation leave 360; the message says which sizes are possible."""
    parts = np.array((["train"] * 80 + ["test"] * 20) * 5)
    with pytest.raises(UserError, match=f"{size} .*{word}.*choose 5 to 360"):
        split_parts(np.repeat(np.arange(5), 100), parts, size)


def test_an_undivided_source_gives_more_training_images_from_its_test_set() -> None:
    """Validation set and nesting do not depend on the size; 200 test images always remain."""
    labels = np.arange(1000) % 10
    small, large = split_undivided(labels, 100), split_undivided(labels, 500)
    assert set(small.train) < set(large.train)
    assert small.validation.tolist() == large.validation.tolist()
    assert (len(small.test), len(large.test)) == (600, 200)
    assert sorted(np.concatenate(large)) == list(range(1000))
    assert [np.bincount(labels[rows]).tolist() for rows in large] == [[50] * 10, [30] * 10, [20] * 10]
    with pytest.raises(UserError, match="choose 10 to 500"):
        split_undivided(labels, 501)


@pytest.mark.parametrize("images", [10, 500, 509])
def test_too_few_images_to_divide_are_refused(images: int) -> None:
    """By a sentence that says what they are needed for. Catches "choose 10 to -100"."""
    with pytest.raises(UserError, match=f"{images} images are too few to be divided"):
        split_undivided(np.arange(images) % 10, 5)


def test_a_small_training_set_has_a_validation_set_in_proportion() -> None:
    """A method that trains on the validation set must not see more of it than of the training set."""
    labels = np.arange(1000) % 10
    parts = np.array(["train"] * 800 + ["test"] * 200)
    whole, small = split_parts(labels, parts, None), split_parts(labels, parts, 72)
    assert (len(whole.train), len(whole.validation)) == (720, 80)
    assert (len(small.train), len(small.validation)) == (72, 8)
    assert set(small.validation) <= set(whole.validation)


def test_test_size_takes_a_balanced_subset() -> None:
    """Catches a test subset that is not stratified, or that is taken from other parts."""
    labels = np.arange(1000) % 10
    parts = np.array(["train"] * 800 + ["test"] * 200)
    chosen = split_parts(labels, parts, None, test_size=50).test
    assert set(chosen) < set(range(800, 1000))
    assert np.bincount(labels[chosen]).tolist() == [5] * 10
    assert len(split_undivided(np.arange(900) % 10, 100, test_size=20).test) == 20
    for size in (9, 201):
        with pytest.raises(UserError, match=f"test size of {size} does not fit: choose 10 to 200"):
            split_parts(labels, parts, None, test_size=size)
