from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data import Split, UserError
from data.forget import parse_request, parse_requests
from tests.command_line import command

CLASSES = ("airplane", "cat", "2:1", "0")


def make_split() -> Split:
    """200 images: four classes in turn; persons of 10 images each, with ids that are not in order."""
    count = 200
    persons = np.repeat(np.random.RandomState(0).permutation(20) + 100, 10)
    return Split(
        images=torch.zeros(count, 1, 2, 2),
        labels=torch.arange(count) % 4,
        image_ids=np.array([f"image-{i:03d}" for i in range(count)]),
        columns={
            "person_id": persons,
            "camera": np.array(["Spectralis", "Other", ""] * 66 + ["Spectralis", ""]),
            "year": np.where(np.arange(count) % 7 == 0, np.nan, 2010 + np.arange(count) % 10),
        },
    )


SPLIT = make_split()


def indices(text: str) -> np.ndarray:
    """What a request forgets when it is the first to arrive."""
    return parse_request(text, SPLIT, CLASSES).indices


@given(count=st.integers(1, 199))
def test_a_number_of_random_images(count: int) -> None:
    """Exactly that many, in range, sorted, without repetition; a share is the same as its number."""
    drawn = indices(f"random:{count}")
    assert drawn.dtype == np.int64
    assert len(drawn) == count == len(set(drawn.tolist()))
    assert (np.diff(drawn) > 0).all()
    assert drawn.min() >= 0
    assert drawn.max() < 200
    assert indices(f"random:{count / 200}").tolist() == drawn.tolist()


def test_random_images_are_uniform_and_fixed() -> None:
    """Not the first ones, not class-balanced, and the same for everybody (the stream of RandomState is frozen)."""
    assert indices("random:8").tolist() == [10, 37, 56, 67, 79, 80, 183, 188]
    per_class = np.bincount(SPLIT.labels[indices("random:0.5")])
    assert per_class.max() - per_class.min() > 2


@pytest.mark.parametrize("text", ["random:0.1", "random:20", "class:cat:0.5", "class:2:1:10", "confuse:0.2"])
def test_a_seed_draws_others(text: str) -> None:
    """As many, the same whenever it is named, and hardly more alike than chance with any other seed or with none."""
    drawn = {seed: set(indices(f"{text}{seed}").tolist()) for seed in ("", "@0", "@1", "@7", "@43", "@4294967295")}
    assert {len(one) for one in drawn.values()} == {len(drawn[""])}
    assert len({frozenset(one) for one in drawn.values()}) == len(drawn)
    assert set(indices(f"{text}@7").tolist()) == drawn["@7"]
    classes = {frozenset(SPLIT.labels[list(one)].tolist()) for one in drawn.values()}
    assert len(classes) == 1 or text.startswith("random")


def test_a_seed_is_fixed() -> None:
    """The stream of RandomState is frozen."""
    assert indices("random:8@7").tolist() == [31, 37, 70, 89, 106, 111, 148, 174]


def test_seeds_of_confused_classes_are_their_own() -> None:
    """Catches one seed for all classes, of which each would lose its images at the same places."""
    drawn = indices("confuse:0.2@7")
    assert len({tuple(drawn[SPLIT.labels[drawn] == label] // 4) for label in range(4)}) == 4


def test_random_requests_that_arrive_in_order_draw_from_what_is_left() -> None:
    """The same request twice forgets other images the second time, a tenth of the training set each."""
    first, second = parse_requests(["random:0.1", "random:0.1"], SPLIT, CLASSES)
    assert len(first.indices) == len(second.indices) == 20
    assert not set(first.indices) & set(second.indices)
    assert first.text == second.text == "random:0.1"


@given(
    texts=st.lists(
        st.sampled_from(["random:0.1", "random:7", "class:cat:0.3", "class:1:5", "group:person_id:2", "class:2:1:0.2"]),
        min_size=1,
        max_size=6,
    )
)
def test_requests_in_order_never_overlap(texts: list[str]) -> None:
    """Whatever arrives: each request is in range and disjoint from the others, or it is refused."""
    try:
        requests = parse_requests(texts, SPLIT, CLASSES)
    except UserError:
        return
    everything = np.concatenate([request.indices for request in requests])
    assert len(everything) == len(set(everything.tolist())) < 200
    assert everything.min() >= 0
    assert everything.max() < 200


@pytest.mark.parametrize(
    ("text", "label"),
    [("class:airplane", 0), ("class:1", 1), ("class:3", 3), ("class:0", 3), ("class:2:1", 2), ("class:2", 2)],
)
def test_a_class_by_name_or_index(text: str, label: int) -> None:
    """A name comes before an index ("0" is the name of class 3), and may contain a colon ("2:1")."""
    assert indices(text).tolist() == list(range(label, 200, 4))


@pytest.mark.parametrize(("text", "count"), [("class:cat:0.5", 25), ("class:cat:20", 20), ("class:2:1:0.1", 5)])
def test_a_share_of_a_class(text: str, count: int) -> None:
    """A random part of the class, not its first images."""
    drawn = indices(text)
    label = 1 if "cat" in text else 2
    assert len(drawn) == count
    assert (SPLIT.labels[drawn] == label).all()
    assert drawn.tolist() != list(range(label, 200, 4))[:count]


def test_whole_groups_are_the_first_ids_in_sorted_order() -> None:
    """As in the competition: the ids decide, not the order of the images, and no group is cut."""
    drawn = indices("group:person_id:3")
    assert drawn.tolist() == np.flatnonzero(SPLIT.columns["person_id"] < 103).tolist()
    assert len(drawn) == 30


def test_groups_agree_with_leave_p_groups_out() -> None:
    """The competition's forget set was the first split of scikit-learn's `LeavePGroupsOut`."""
    from sklearn.model_selection import LeavePGroupsOut

    persons = SPLIT.columns["person_id"]
    _, expected = next(LeavePGroupsOut(n_groups=15).split(persons, groups=persons))
    assert indices("group:person_id:15").tolist() == sorted(expected)


def test_an_empty_cell_is_no_group() -> None:
    """Images without an id are not forgotten as if they were one more subject."""
    assert set(SPLIT.columns["camera"][indices("group:camera:1")]) == {"Other"}
    years = SPLIT.columns["year"][indices("group:year:9")]
    assert np.unique(years).tolist() == list(range(2010, 2019))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('camera == "Spectralis" and year <= 2016', lambda t: (t["camera"] == "Spectralis") & (t["year"] <= 2016)),
        ("label == 2", lambda t: np.arange(200) % 4 == 2),
        (
            'class_name in ["cat", "0"] and person_id != 103',
            lambda t: (np.arange(200) % 2 == 1) & (t["person_id"] != 103),
        ),
        ('image_id < "image-010"', lambda t: np.arange(200) < 10),
        ('camera.str.startswith("Sp")', lambda t: t["camera"] == "Spectralis"),
    ],
)
def test_an_expression_over_the_metadata(expression: str, expected: Any) -> None:
    """The rows where it is true; a missing year satisfies no comparison."""
    assert indices(f"where:{expression}").tolist() == np.flatnonzero(expected(SPLIT.columns)).tolist()


def test_indices_from_a_file(tmp_path: Path) -> None:
    """Any integer type and any order; the request has them sorted as int64."""
    np.save(tmp_path / "some.npy", np.array([9, 3, 199, 0], dtype=np.uint8))
    drawn = indices(f"file:{tmp_path / 'some.npy'}")
    assert drawn.tolist() == [0, 3, 9, 199]
    assert drawn.dtype == np.int64


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.array([1.0, 2.0]), "whole numbers"),
        (np.array([True, False]), "whole numbers"),
        (np.array([[1, 2]]), "one axis"),
        (np.array([1, -1]), "index -1 is not one of the 200"),
        (np.array([1, 200]), "index 200 is not one of the 200"),
        (np.array([5, 7, 5]), "index 5 is in the file more than once"),
        (np.array([], dtype=np.int64), "no training image"),
        (np.arange(200), "nothing would be left"),
        (np.array(["a"], dtype=object), "cannot be read as a NumPy array"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, array: np.ndarray, word: str) -> None:
    """Wrong type, shape, range, repetition, none, all, and pickled objects (which could run code)."""
    np.save(tmp_path / "some.npy", array)
    with pytest.raises(UserError, match=word):
        indices(f"file:{tmp_path / 'some.npy'}")


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    """A missing file, a text, an empty file and an archive of arrays that is called an array."""
    (tmp_path / "text.npy").write_text("1 2 3")
    (tmp_path / "empty.npy").write_text("")
    np.savez(tmp_path / "many.npz", a=np.arange(3))
    (tmp_path / "many.npz").rename(tmp_path / "many.npy")
    for name, word in (
        ("none.npy", "No such file"),
        ("text.npy", "cannot"),
        ("empty.npy", "cannot"),
        ("many.npy", "cannot"),
    ):
        with pytest.raises(UserError, match=word):
            indices(f"file:{tmp_path / name}")


def pipe(path: Path) -> None:
    """Nobody writes to it."""
    os.mkfifo(path)


def header_of_terabytes(path: Path) -> None:
    """Twenty-four bytes that say they are terabytes."""
    np.save(path, np.arange(3))
    path.write_bytes(path.read_bytes().replace(b"(3,)", b"(1099511627776,)").replace(b" " * 12 + b"\n", b"\n"))


def half_a_zip(path: Path) -> None:
    """`numpy.load` raises an error of its own for it."""
    np.savez(path.with_suffix(".npz"), a=np.arange(100))
    path.write_bytes(path.with_suffix(".npz").read_bytes()[:200])


def sparse(path: Path) -> None:
    """A terabyte that takes no room."""
    np.save(path, np.arange(3))
    os.truncate(path, 1 << 40)


NO_ARRAYS: dict[str, Callable[[Path], object]] = {
    "half a zip": half_a_zip,
    "terabytes": header_of_terabytes,
    "a sparse file": sparse,
    "a pipe": pipe,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path),
    "objects": lambda path: np.save(path, np.array([{}, 1], dtype=object)),
}


@pytest.mark.parametrize("make", NO_ARRAYS.values(), ids=NO_ARRAYS)
def test_a_file_that_would_hang_or_fill_the_memory_is_refused(make: Callable[[Path], object], tmp_path: Path) -> None:
    """One line, at once; from the command line too."""
    make(tmp_path / "some.npy")
    with pytest.raises(UserError, match=r"the file cannot be read .*; write it with numpy\.save\.$") as refused:
        indices(f"file:{tmp_path / 'some.npy'}")
    assert "\n" not in str(refused.value)
    answer = command("show", "--train-size", "60", "--forget", f"file:{tmp_path / 'some.npy'}")
    assert (answer.code, answer.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("name", ["\0", "a" * 5000])
def test_a_name_that_no_file_has(name: str) -> None:
    """Python raises errors of its own for both."""
    with pytest.raises(UserError, match=r"no file has such a name|cannot be read"):
        indices(f"file:{name}")


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, ">i8"])
def test_indices_of_any_width(dtype: Any, tmp_path: Path) -> None:
    """And the largest of 64 bits, which is no index."""
    np.save(tmp_path / "some.npy", np.array([5, 3, 100], dtype=dtype))
    assert indices(f"file:{tmp_path / 'some.npy'}").tolist() == [3, 5, 100]
    if dtype is np.uint64:
        np.save(tmp_path / "some.npy", np.array([2**64 - 1], dtype=dtype))
        with pytest.raises(UserError, match="index 18446744073709551615 is not one"):
            indices(f"file:{tmp_path / 'some.npy'}")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("randon:0.1", "did you mean random"),
        ("xyz:1", "choose one of random, class, group, where, file"),
        ("random", "something must follow 'random:'"),
        ("random: ", "something must follow"),
        ("random:0", "names no training image"),
        ("random:0.001", "names no training image"),
        ("random:1.5", "neither a number"),
        ("random:-3", "neither a number"),
        ("random:nan", "neither a number"),
        ("random:some", "neither a number"),
        ("random:0.1@", "a seed is a whole number from 0 to 4294967295"),
        ("random:0.1@x", "a seed is a whole number"),
        ("random:0.1@-1", "a seed is a whole number"),
        ("random:0.1@1.5", "a seed is a whole number"),
        ("random:0.1@7@8", "a seed is a whole number"),
        ("random:0.1@4294967296", "a seed is a whole number"),
        ("random:@7", "neither a number"),
        ("class:cat:0.5@x", "a seed is a whole number"),
        ("class:cat@7", "class:cat is a whole class: a seed needs a share of it, as class:cat:0.5@7"),
        ("class:dragon@7", "no class 'dragon@7'"),
        ("random:1.0", "nothing would be left"),
        ("random:200", "nothing would be left"),
        ("random:201", "201 images are asked for and 200 are there"),
        ("class:aeroplane", "did you mean airplane"),
        ("class:4", "no class '4'"),
        ("class:-1", "no class '-1'"),
        ("class:cat:60", "60 images are asked for and 50 are there"),
        ("class:cat:", "neither a number"),
        ("group:person_id", "such as group:person_id:15"),
        ("group:person_id:x", "such as group:person_id:15"),
        ("group:person:2", "did you mean person_id"),
        ("group:person_id:21", "21 groups are asked for and the training images have 20"),
        ("group:person_id:0", "names no training image"),
        ("group:person_id:20", "nothing would be left"),
        ("where:yaer > 3", "yaer.*columns are person_id, camera, year, label, class_name, image_id"),
        ("where:year >", "columns are person_id"),
        ("where:year > 'a'", "columns are person_id"),
        ("where:year + 1", "not true or false for each image"),
        ("where:1 == 1", "not true or false for each image"),
        ("where:old = year > 2000", "no column 'old'; the columns are person_id"),
        ("where:year = 2000", "write == to compare; the columns are person_id"),
        ("where:image_id != @argument", "columns are person_id"),
        ("where:year > 3000", "names no training image"),
        ("where:label >= 0", "nothing would be left"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(text: str, word: str) -> None:
    """A sentence that names the request and what to do, never another exception."""
    with pytest.raises(UserError, match=word) as refused:
        indices(text)
    assert text.split(":")[0] in str(refused.value)


def test_a_later_request_must_not_name_forgotten_images() -> None:
    """Neither a class of which some images are gone, nor what is left to the last image."""
    with pytest.raises(UserError, match=r"'class:cat'.* 10 of its 50 images .* earlier request"):
        parse_requests(["class:cat:10", "class:cat"], SPLIT, CLASSES)
    with pytest.raises(UserError, match="60 images are asked for and 50 are there"):
        parse_requests(["random:150", "random:60"], SPLIT, CLASSES)
    with pytest.raises(UserError, match="nothing would be left"):
        parse_requests(["class:0", "class:1", "class:2", "class:3:1.0", "class:0"], SPLIT, ("a", "b", "c", "d"))
