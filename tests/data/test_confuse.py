"""The forget request `confuse`: which images are mislabelled, where the wrong labels go, and where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import data
from data import Split, Task, TaskSpec, UserError
from data.faces import FacesSize, make_faces
from data.forget import parse_request, parse_requests
from data.kaggle import write_layout
from data.loaders import run_loaders

CLASSES = ("cat", "dog", "owl")
COUNTS = (40, 31, 29)


def make_split() -> Split:
    """100 images of three classes in turn, as long as there are some."""
    labels = np.concatenate([np.full(count, label) for label, count in enumerate(COUNTS)])
    labels = labels[np.random.RandomState(0).permutation(100)]
    ids = np.array([f"image-{i:03d}" for i in range(100)])
    return Split(torch.zeros(100, 1, 2, 2), torch.from_numpy(labels), ids)


SPLIT = make_split()
LABELS = SPLIT.labels.numpy()


@pytest.mark.parametrize(("text", "counts"), [("confuse:0.1", [4, 3, 3]), ("confuse:0.5", [20, 16, 14])])
def test_a_share_of_each_class(text: str, counts: list[int]) -> None:
    """Rounded class by class, called by the next class. Catches a share of all images, and a label by chance."""
    request = parse_request(text, SPLIT, CLASSES)
    assert np.bincount(LABELS[request.indices]).tolist() == counts
    assert request.labels is not None
    assert request.labels.dtype == np.int64
    assert request.labels.tolist() == [(0 + 1, 1 + 1, 0)[label] for label in LABELS[request.indices]]
    assert (np.diff(request.indices) > 0).all()


def test_a_number_of_each_class() -> None:
    """So many of each, not in all."""
    assert np.bincount(LABELS[parse_request("confuse:7", SPLIT, CLASSES).indices]).tolist() == [7, 7, 7]


def test_images_are_drawn_at_random_and_the_same_for_everybody() -> None:
    """A fixed seed; not the first ones; and classes of one size do not lose the same places."""
    assert parse_request("confuse:2", SPLIT, CLASSES).indices.tolist() == [23, 36, 38, 49, 72, 90]
    blocks = Split(SPLIT.images[:90], torch.arange(90) // 30, SPLIT.image_ids[:90])
    places = parse_request("confuse:10", blocks, CLASSES).indices.reshape(3, 10) % 30
    assert len({tuple(row) for row in places.tolist()}) == 3
    assert places.tolist()[0] != list(range(10))


def test_other_requests_bring_no_labels() -> None:
    """Catches new labels for whatever is forgotten."""
    for text in ("random:0.1", "class:cat", "class:1:5", 'where:class_name == "owl"'):
        assert parse_request(text, SPLIT, CLASSES).labels is None


@pytest.mark.parametrize(
    "texts", [["confuse:0.2", "random:30", "confuse:0.2"], ["random:30", "confuse:5", "class:2:4"]]
)
def test_requests_that_arrive_in_order_do_not_overlap(texts: list[str]) -> None:
    """What is mislabelled is nobody else's, and who comes later draws from the rest, by true classes."""
    requests = parse_requests(texts, SPLIT, CLASSES)
    everything = np.concatenate([request.indices for request in requests])
    assert len(set(everything.tolist())) == len(everything)
    for request in requests:
        if request.labels is not None:
            assert request.labels.tolist() == ((LABELS[request.indices] + 1) % 3).tolist()


def test_a_class_that_has_mislabelled_images_cannot_be_forgotten_whole() -> None:
    """They are forgotten already. Catches a class by its wrong labels, which would be another set."""
    with pytest.raises(UserError, match="4 of its 40 images are forgotten by an earlier request"):
        parse_requests(["confuse:0.1", "class:cat"], SPLIT, CLASSES)
    _, rest = parse_requests(["confuse:0.1", "class:cat:0.9"], SPLIT, CLASSES)
    assert set(LABELS[rest.indices]) == {0}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("confuse:", "something must follow 'confuse:'"),
        ("confuse:0.001", "names no training image"),
        ("confuse:2.5", "neither a number"),
        ("confuse:30", "30 images are asked for and 29 are there"),
        ("confuse:1.0", "nothing would be left"),
    ],
)
def test_a_share_that_makes_no_sense_is_refused(text: str, word: str) -> None:
    """As with the other requests: a sentence that names the request."""
    with pytest.raises(UserError, match=word):
        parse_request(text, SPLIT, CLASSES)


# ----------------------------------------------------------------------------------------------------------------------
# In a task
# ----------------------------------------------------------------------------------------------------------------------


def load_digits(*forget: str, **changes: Any) -> Task:
    """200 digits."""
    return data.load(TaskSpec("digits", forget=forget, train_size=200, **changes))


def test_training_labels_are_wrong_where_they_are_to_be_forgotten() -> None:
    """There and nowhere else: not in the retain, validation or test set, and the images stay as they are."""
    plain, confused = load_digits(), load_digits("confuse:0.1")
    assert len(confused.request_indices) == 20
    expected = plain.train.labels.clone()
    expected[confused.request_indices] = (expected[confused.request_indices] + 1) % 10
    assert torch.equal(confused.train.labels, expected)
    assert torch.equal(confused.train.images, plain.train.images)
    for split in ("validation", "test"):
        assert torch.equal(getattr(confused, split).labels, getattr(plain, split).labels)


def test_loaders_hand_out_the_wrong_labels() -> None:
    """The forget loader the wrong ones, as the original learned them; the others the true ones."""
    plain, confused = load_digits(), load_digits("confuse:0.1")
    true = dict(zip(plain.train.image_ids, plain.train.labels.tolist(), strict=True))
    true |= dict(zip(plain.validation.image_ids, plain.validation.labels.tolist(), strict=True))
    for loader, shift in zip(run_loaders(confused, seed=1), (0, 1, 0), strict=True):
        for batch in loader:
            expected = [(true[image] + shift) % 10 for image in batch["image_id"]]
            assert batch["age_group"].tolist() == expected


def test_mistakes_are_there_from_the_beginning() -> None:
    """Also those of a later request: the original has learned them, whichever request comes first."""
    plain, later = load_digits(), load_digits("random:30", "confuse:0.1")
    second = later.requests[1].indices
    assert len(later.request_indices) == 30
    wrong = np.flatnonzero((later.train.labels != plain.train.labels).numpy())
    assert wrong.tolist() == second.tolist()


def test_requests_at_once_are_about_the_same_originals() -> None:
    """One request of all of them has the wrong labels too. Catches labels that are lost when requests are merged."""
    texts = ("random:30", "confuse:0.1")
    in_turn, at_once = load_digits(*texts), load_digits(*texts, at_once=True)
    assert len(at_once.request_indices) == 50
    assert torch.equal(at_once.train.labels, in_turn.train.labels)
    everything = in_turn.all_indices
    assert at_once.training_fingerprint(everything) == in_turn.training_fingerprint(everything)


def test_fingerprints_know_of_wrong_labels(tmp_path: Path) -> None:
    """The same images forgotten without mistakes are another problem, with other originals and retrained models."""
    confused = load_digits("confuse:0.1")
    np.save(tmp_path / "same.npy", confused.train.image_ids[confused.request_indices])
    named = load_digits(f"file:{tmp_path / 'same.npy'}")
    assert named.request_indices.tolist() == confused.request_indices.tolist()
    assert named.fingerprint != confused.fingerprint
    assert named.training_fingerprint(named.all_indices) != confused.training_fingerprint(named.all_indices)
    assert confused.fingerprint == load_digits("confuse:2").fingerprint
    assert named.data_sha256 == load_digits().data_sha256  # the banks of other requests stay what they are
    assert load_digits("confuse:0.1", network="mlp").data_sha256 == confused.data_sha256


@pytest.mark.parametrize("name", ["folder", "kaggle"])
def test_a_source_of_ones_own(name: str, make_folder: Any, tmp_path: Path) -> None:
    """It is mislabelled like any other; the last class becomes the first, even where a class has no images."""
    if name == "folder":
        folder = make_folder(train=20)
    else:
        folder = tmp_path
        write_layout(folder, make_faces(FacesSize("tiny", subjects=60, images=(4, 8))), progress=False)
    plain, confused = (
        data.load(TaskSpec(name, data_dir=str(folder), forget=forget)) for forget in ((), ("confuse:0.2",))
    )
    shift = (confused.train.labels - plain.train.labels) % len(plain.classes)
    assert set(shift[confused.request_indices].tolist()) == {1}
    assert int(shift.sum()) == len(confused.request_indices) > 0
