"""The generated faces: the same everywhere, and with the structure of the competition's hidden data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import data
from data import TaskSpec, UserError, task_info
from data.cache import cache_dir
from data.faces import FULL, MINI, FacesSize, Values, _draw_subjects, faces_folder, make_faces, read_faces
from data.kaggle import read_kaggle

TINY = FacesSize("tiny", subjects=100, images=(2, 4))

Parts = dict[str, Values]


@pytest.fixture(scope="module")
def tiny() -> Parts:
    """A hundred subjects, drawn."""
    return make_faces(TINY)


@pytest.fixture(scope="module")
def mini() -> Parts:
    """The structure of the default size."""
    return undrawn(MINI)


@pytest.fixture(scope="module")
def full() -> Parts:
    """The structure of the full size."""
    return undrawn(FULL)


def undrawn(size: FacesSize) -> Parts:
    """Subjects, labels and split as they are, but without the drawing, which takes seconds."""

    def blank(subjects: Values, shots: Values, random: np.random.RandomState) -> np.ndarray:
        return np.zeros((len(shots["zoom"]), 3, 1, 1), np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.faces._draw_all", blank)
        return make_faces(size)


def column(parts: Parts, name: str, *names: str) -> np.ndarray:
    """What all parts, or those named, know of their images."""
    return np.concatenate([parts[part][name] for part in names or parts])


def test_same_again(tiny: Parts) -> None:
    """Bit for bit: an unseeded draw, or one that depends on an earlier call, would show. And the seed counts."""
    again, other = make_faces(TINY), make_faces(TINY, seed=1)
    for part, values in tiny.items():
        for name in values:
            assert np.array_equal(values[name], again[part][name])
    assert not np.array_equal(tiny["test"]["pixels"], other["test"]["pixels"][: len(tiny["test"]["pixels"])])


def test_pictures_do_not_depend_on_how_many_are_drawn_at_a_time(tiny: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Except for the grain, at most 12 and drawn in order: a chunk that is painted with another's values would show."""
    monkeypatch.setattr("data.faces._CHUNK", 7)
    again = make_faces(TINY)
    difference = again["retain"]["pixels"].astype(int) - tiny["retain"]["pixels"]
    assert np.abs(difference).max() <= 2 * 12


@pytest.mark.parametrize("size", ["mini", "full"])
def test_structure_is_that_of_the_hidden_data(size: str, request: pytest.FixtureRequest) -> None:
    """Split, forget set and age groups, as published (see the module): the reason for this task to exist."""
    parts: Parts = request.getfixturevalue(size)
    images = {part: len(values["person_id"]) for part, values in parts.items()}
    total, train = sum(images.values()), images["retain"] + images["forget"]
    assert train == int(0.8 * total)
    assert abs(images["validation"] - images["test"]) <= 1
    assert 0.015 < images["forget"] / train < 0.035  # the small size has 500 subjects, of which 15 are 3 %

    to_forget = np.unique(parts["forget"]["person_id"])
    assert to_forget.tolist() == list(range(15))
    assert not np.isin(parts["retain"]["person_id"], to_forget).any()
    for part in ("validation", "test"):  # an image-level split: they show subjects that are to be forgotten
        assert np.isin(parts[part]["person_id"], to_forget).any()

    groups = np.bincount(column(parts, "age_group"), minlength=10)
    assert len(groups) == 10
    assert (np.diff(groups) < 0).all()  # fewer and fewer ...
    assert groups[0] > 2 * groups[1]  # ... and the first by far the most
    forgotten = np.bincount(parts["forget"]["age_group"])
    assert len(forgotten) == 2
    assert forgotten[0] > 2 * forgotten[1] > 0
    for part in ("retain", "validation", "test"):
        assert set(parts[part]["age_group"]) == set(range(10))


def test_size_of_the_full_task(full: Parts) -> None:
    """About 24,000 training images, 30-odd of each subject."""
    people = column(full, "person_id", "retain", "forget")
    assert 23_000 < len(people) < 25_000
    assert 25 < len(people) / len(np.unique(people)) < 35


def test_a_subject_has_one_age(tiny: Parts) -> None:
    """The label belongs to the subject, so that it can be remembered; ages are five years to a group."""
    person, group, age = (column(tiny, name) for name in ("person_id", "age_group", "age"))
    for subject in np.unique(person):
        assert len(np.unique(age[person == subject])) == 1
    assert np.array_equal(group, (age - 18) // 5)
    assert len(np.unique(column(tiny, "image_id"))) == len(person)


def test_pictures_show_subjects_and_ages(tiny: Parts) -> None:
    """A subject's pictures are more alike than those of two; and the old have other faces than the young.

    Catches pictures that are drawn with another subject's values, and ageing that is not drawn.
    """
    person, group = column(tiny, "person_id"), column(tiny, "age_group")
    pixels = column(tiny, "pixels").astype(np.float64).reshape(len(person), -1)
    squares = (pixels**2).sum(axis=1)
    distance = np.sqrt((squares[:, np.newaxis] + squares - 2 * pixels @ pixels.T).clip(0))  # (images, images)
    same = person[:, np.newaxis] == person[np.newaxis]
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(axis=1)
    assert np.mean(person[nearest] == person) > 0.9
    assert distance[same & np.isfinite(distance)].mean() < 0.6 * distance[~same].mean()

    hair = column(tiny, "pixels").astype(float)[:, :, 3:7, 12:20].mean(axis=(1, 2, 3))  # above the forehead
    assert hair[group >= 5].mean() > 1.5 * hair[group == 0].mean()


def test_disguise_separates_looks_from_age() -> None:
    """Without it, a face shows its age; with it, people of one age look different ages."""
    for disguise in (0.0, 1.0):
        subjects = _draw_subjects(FacesSize("", 600, (1, 1), disguise), np.random.RandomState(0))
        apart = subjects["looks"] - (subjects["age"] - 18) / 50
        assert np.abs(apart).max() < 1e-12 if disguise == 0 else 0.04 < apart.std() < 0.11


def test_cache_folder_is_a_kaggle_input_folder(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    """Written once, whole, and read by the reader of that layout; no half-written folder is left beside it."""
    raw = read_faces(TINY, progress=False)
    folder = faces_folder(TINY)
    assert folder.parent == cache_dir() == empty_cache
    assert np.array_equal(raw.pixels, read_kaggle(str(folder), progress=False).pixels)
    monkeypatch.setattr("data.faces.make_faces", None)  # a second call must not draw
    assert read_faces(TINY, progress=False).content_sha256 == raw.content_sha256
    assert not [entry for entry in empty_cache.iterdir() if entry.name.startswith(".")]


def test_pixels_are_those_of_every_machine(tiny: Parts) -> None:
    """What was drawn when the pictures were last changed on purpose (with `_VERSION`), up to a machine's rounding."""
    pixels = column(tiny, "pixels").astype(np.float64)
    np.testing.assert_allclose(pixels.mean(axis=(0, 2, 3)), [140.4808, 124.5160, 120.4749], atol=0.01)
    np.testing.assert_allclose(pixels.std(axis=(0, 2, 3)), [49.1251, 46.3598, 51.2253], atol=0.01)
    np.testing.assert_allclose(pixels[[0, -1]].mean(axis=(1, 2, 3)), [106.2985, 125.7025], atol=0.05)


def test_sizes_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mini` by default; `full` has the published recipe; no other task has sizes, and no other size exists."""
    default, mini, full = (task_info(TaskSpec("faces", size=size)) for size in (None, "mini", "full"))
    assert default is mini
    assert (full.network, full.recipe.learning_rate, full.recipe.weight_decay) == ("resnet18", 1e-4, 5e-3)
    assert full.recipe.epochs == mini.recipe.epochs == 30
    assert mini.recipe.optimizer == full.recipe.optimizer == "adam"
    assert mini.recipe.class_weights
    with pytest.raises(UserError, match="no size of the task faces 'huge'"):
        task_info(TaskSpec("faces", size="huge"))
    with pytest.raises(UserError, match="omit --size"):
        data.load(TaskSpec("digits", size="mini"))
    with pytest.raises(UserError, match="omit the data directory"):
        data.load(TaskSpec("faces", data_dir="."))


@pytest.mark.parametrize("size", ["mini", "full"])
def test_an_epoch_has_the_steps_of_the_hidden_data(size: str, request: pytest.FixtureRequest) -> None:
    """Some 370 there: what the published learning rates suit. Catches batches of 64 in the small size (57 steps)."""
    retained = len(request.getfixturevalue(size)["retain"]["person_id"])
    batch_size = task_info(TaskSpec("faces", size=size)).recipe.batch_size
    assert 280 < retained / batch_size < 420
