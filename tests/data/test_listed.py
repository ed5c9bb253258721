"""Forget sets in files: which kinds are read, what an index counts, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import data
from data import Task, TaskSpec, UserError


def digits(path: Path | str, **changes: Any) -> Task:
    """The digits, of which a file says what to forget."""
    return data.load(TaskSpec("digits", forget=(f"file:{path}",), train_size=1200, **changes))


def numbers(task: Task) -> list[int]:
    """Their numbers in the source, of what is forgotten."""
    return [int(name.rpartition("-")[2]) for name in task.train.image_ids[task.forget_indices]]


def some(count: int = 3) -> list[int]:
    """Numbers of digits that are trained on."""
    task = data.load(TaskSpec("digits", train_size=1200))
    assert task.train.source is not None
    return task.train.source.numbers[[900, 17, 500, *range(600, 597 + count)]].tolist()


NUMBERS = some()
NAMES = [f"digits-{number:05d}" for number in NUMBERS]


def write_text(text: str) -> Callable[[Path], object]:
    """Writes it, with the numbers or names in place."""
    lines, names = "\n".join(map(str, NUMBERS)), "\n".join(NAMES)
    commas = ", ".join(map(str, NUMBERS))
    filled = text.format(lines=lines, names=names, commas=commas, pairs="\n".join(f"{n},7" for n in NUMBERS))
    return lambda path: path.write_bytes(filled.encode())


def table(**columns: list[Any]) -> Callable[[Path], object]:
    """As pandas writes it, with the numbers of its rows."""
    return lambda path: pd.DataFrame(columns).to_csv(path)


def saved(values: Any, **settings: Any) -> Callable[[Path], object]:
    """By `torch.save`."""
    return lambda path: torch.save(values, path, **settings)


GOOD: dict[str, tuple[str, Callable[[Path], object]]] = {
    "array": ("x.npy", lambda path: np.save(path, NUMBERS)),
    "ids in an array": ("x.npy", lambda path: np.save(path, np.array(NAMES))),
    "archive": ("x.npz", lambda path: np.savez(path, NUMBERS)),
    "compressed archive": ("x.npz", lambda path: np.savez_compressed(path, NUMBERS)),
    "one of several": ("x.npz", lambda path: np.savez(path, indices=NUMBERS, seed=np.arange(5))),
    "lines": ("x.txt", write_text("{lines}\n")),
    "lines of Windows": ("x.txt", lambda path: path.write_text("\r\n".join(map(str, NUMBERS)))),
    "a byte order mark": ("x.TXT", write_text("\ufeff{lines}")),
    "comments and empty lines": ("x.txt", write_text("# these\n\n{lines}\n\n")),
    "commas": ("x.txt", write_text("{commas}")),
    "as printed": ("x.txt", write_text("[{commas}]\n")),
    "savetxt": ("x.txt", lambda path: np.savetxt(path, NUMBERS)),
    "ids in lines": ("x.txt", write_text("{names}\n")),
    "column": ("x.csv", write_text("index\n{lines}\n")),
    "column without a header": ("x.csv", write_text("{lines}\n")),
    "column with another header": ("x.csv", write_text("to_forget\n{lines}\n")),
    "row": ("x.csv", write_text("{commas}\n")),
    "ids with a header": ("x.csv", write_text('"image_id"\n{names}\n')),
    "ids without a header": ("x.csv", write_text("{names}\n")),
    "one of two columns": ("x.csv", write_text("Index,age\n{pairs}\n")),
    "semicolons": ("x.csv", lambda path: path.write_text("age;index\n" + "".join(f"4;{n}\n" for n in NUMBERS))),
    "tabs": ("x.tsv", lambda path: path.write_text("age\tindex\n" + "".join(f"4\t{n}\n" for n in NUMBERS))),
    "series of pandas": ("x.csv", lambda path: pd.Series(NUMBERS).to_csv(path)),
    "frame of pandas": ("x.csv", table(index=NUMBERS)),
    "ids of pandas": ("x.csv", table(index=[0, 1, 2], image_id=NAMES)),
    "list": ("x.json", lambda path: path.write_text(json.dumps(NUMBERS))),
    "ids in a list": ("x.json", lambda path: path.write_text(json.dumps(NAMES))),
    "entry": ("x.json", lambda path: path.write_text(json.dumps({"seed": 3, "forget": NUMBERS}))),
    "entry among lists": ("x.json", lambda path: path.write_text(json.dumps({"retain": [1], "forget": NAMES}))),
    "tensor": ("x.pt", saved(torch.tensor(NUMBERS))),
    "small tensor": ("x.pth", saved(torch.tensor(NUMBERS, dtype=torch.int32))),
    "list in PyTorch's format": ("x.pt", saved(NUMBERS)),
    "ids in PyTorch's format": ("x.pt", saved({"ids": NAMES, "note": "mine"})),
}


@pytest.mark.parametrize(("name", "write"), GOOD.values(), ids=GOOD)
def test_kinds_of_files(name: str, write: Callable[[Path], object], tmp_path: Path) -> None:
    """Whatever a forget set was stored in, by index or id, it names the same images."""
    write(tmp_path / name)
    assert numbers(digits(tmp_path / name)) == sorted(NUMBERS)


def sparse(path: Path) -> None:
    """A terabyte that takes no room."""
    path.touch()
    os.truncate(path, 1 << 40)


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "mixed": ("x.txt", write_text("{lines}\ndigits-00017\n"), "is the id of none|neither"),
    "mixed list": ("x.json", write_text('[1, "digits-00017"]'), "numbers and texts"),
    "digits in groups": ("x.txt", write_text("1_0\n2\n"), "'1_0' is the id of none"),
    "fractions": ("x.txt", write_text("1.5\n2\n"), "1.5 is not a whole number"),
    "infinite": ("x.txt", write_text("1\ninf\n"), "inf is not a whole number"),
    "truths": ("x.json", write_text("[true, false]"), "True is neither an index nor an id"),
    "lists of lists": ("x.json", write_text("[[1, 2]]"), "neither an index nor an id"),
    "no list": ("x.json", write_text("3"), "it has no list"),
    "no JSON": ("x.json", write_text("[1, 2"), "it is not JSON"),
    "two lists": ("x.json", lambda path: path.write_text('{"a": [1], "b": [2]}'), "has the entries a, b: call"),
    "two columns": ("x.csv", write_text("a,b\n{pairs}\n"), "several columns, a, b: call the one"),
    "no text": ("x.csv", lambda path: path.write_bytes(b"index\n\xff\xfe"), "not UTF-8"),
    "empty": ("x.csv", write_text(""), "names no training image"),
    "unknown id": (
        "x.txt",
        write_text("digits-99999"),
        "'digits-99999' is the id of none of the 1797 .*'digits-00000'",
    ),
    "an id twice": ("x.txt", write_text("{names}\n{names}"), "digits-0.* is in the file more than once"),
    "huge number": ("x.txt", write_text("9" * 30), "not a whole number"),
    "out of range": ("x.txt", write_text("1797"), "index 1797 is not one of the 1797 training images"),
    "negative": ("x.txt", write_text("-1"), "index -1 is not one of"),
    "floats": ("x.pt", saved(torch.tensor([1.0])), "holds float32 with 1 axes"),
    "truths in a tensor": ("x.pt", saved(torch.tensor([True])), "holds bool with 1 axes"),
    "bfloat16": ("x.pt", saved(torch.tensor([1], dtype=torch.bfloat16)), "unusual kind of tensor"),
    "no memory": ("x.pt", saved(torch.zeros(1, dtype=torch.int64).expand(10**12)), "unusual kind of tensor"),
    "sparse": ("x.pt", saved(torch.ones(3).to_sparse()), "unusual kind of tensor"),
    "NumPy in PyTorch's format": ("x.pt", saved(np.arange(3)), "holds NumPy arrays, .*torch.from_numpy"),
    "network": ("x.pt", saved(torch.nn.Linear(1, 1)), r"a pickled object \(torch.nn.modules.linear.Linear\)"),
    "old format": ("x.pt", saved([1], _use_new_zipfile_serialization=False), "not a file of torch.save"),
    "two arrays": ("x.npz", lambda path: np.savez(path, a=[1], b=[2]), "has the entries a, b: call"),
    "zip bomb": ("x.npz", lambda path: np.savez_compressed(path, np.zeros(10**7)), "has more than"),
    "too large": ("x.txt", lambda path: path.write_bytes(b"1\n" * 10**7), "has more than"),
    "sparse file": ("x.json", sparse, "has more than"),
    "pipe": ("x.csv", os.mkfifo, "not a regular file"),
    "device": ("x.pt", lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "folder": ("x.json", lambda path: path.mkdir(), "cannot be read"),
    "missing": ("x.pt", lambda path: None, "No such file"),
    "pickle": ("x.pkl", lambda path: path.write_bytes(b"\x80\x04]\x94."), "as a NumPy array"),
}


@pytest.mark.parametrize(("name", "write", "words"), BAD.values(), ids=BAD)
def test_what_is_refused(name: str, write: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    """One printable line that says what the file is, without waiting and without much memory."""
    write(tmp_path / name)
    with pytest.raises(UserError, match=words) as refused:
        digits(tmp_path / name)
    assert str(refused.value).isprintable()
    assert "weights_only" not in str(refused.value)


def test_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell does not expand it behind a colon."""
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", NUMBERS)
    assert numbers(digits("~/x.npy")) == sorted(NUMBERS)
    with pytest.raises(UserError, match="cannot be read"):
        digits("~nobody-has-this-name/x.npy")


# ----------------------------------------------------------------------------------------------------------------------
# What an index counts
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(make_folder: Any) -> Path:
    """80 training images: 40 of each class."""
    return make_folder(classes=("cat", "dog"), train=40)


def test_an_index_counts_the_images_of_the_source(folder: Path, tmp_path: Path) -> None:
    """Image 50 of train/ is the 50th of its files, whatever is set aside. Catches indices of what is left by then."""
    files = sorted(str(path.relative_to(folder)) for path in folder.glob("train/*/*"))
    path = tmp_path / "x.txt"

    def forgotten(number: int, **changes: Any) -> str:
        path.write_text(str(number))
        task = data.load(TaskSpec("folder", data_dir=str(folder), forget=(f"file:{path}",), **changes), progress=False)
        (name,) = task.train.image_ids[task.forget_indices]
        by_index = f"where:index == {number}"
        same = data.load(TaskSpec("folder", data_dir=str(folder), forget=(by_index,), **changes), progress=False)
        assert same.fingerprint == task.fingerprint
        return str(name)

    task = data.load(TaskSpec("folder", data_dir=str(folder)), progress=False)
    assert (len(task.train), len(task.validation)) == (72, 8)
    aside = [files.index(name) for name in task.validation.image_ids]
    for number in {0, 50, 79, 78} - set(aside):
        assert forgotten(number) == files[number]
    with pytest.raises(UserError, match=rf"1 of its 1 images .* index {aside[0]}, {files[aside[0]]} .*for validation"):
        forgotten(aside[0])
    with pytest.raises(UserError, match=r"index 80 is not one of the 80 training images \(0 to 79\)"):
        forgotten(80)
    small = data.load(TaskSpec("folder", data_dir=str(folder), train_size=20), progress=False)
    inside = files.index(small.train.image_ids[7])
    assert forgotten(inside, train_size=20) == files[inside]
    omitted = next(
        n for n, name in enumerate(files) if name not in {*small.train.image_ids, *small.validation.image_ids}
    )
    with pytest.raises(UserError, match=r"are not trained on, .*--train-size omits it"):
        forgotten(omitted, train_size=20)


def test_with_a_validation_folder_all_of_train_can_be_named(folder: Path, tmp_path: Path) -> None:
    """Ids and indices, from the first to the last."""
    (folder / "val").mkdir()
    (folder / "test" / "cat").rename(folder / "val" / "cat")
    (tmp_path / "x.txt").write_text("0\n79")
    task = data.load(TaskSpec("folder", data_dir=str(folder), forget=(f"file:{tmp_path / 'x.txt'}",)), progress=False)
    assert task.forget_indices.tolist() == [0, 79]


def test_ids_of_other_parts_are_none_of_training_images(folder: Path, tmp_path: Path) -> None:
    """A test image can't be forgotten."""
    (tmp_path / "x.txt").write_text("test/cat/0.png")
    with pytest.raises(UserError, match=r"'test/cat/0\.png' is the id of none of the 80 training images"):
        data.load(TaskSpec("folder", data_dir=str(folder), forget=(f"file:{tmp_path / 'x.txt'}",)), progress=False)


# ----------------------------------------------------------------------------------------------------------------------
# Requests that overlap
# ----------------------------------------------------------------------------------------------------------------------


def at_once(*forget: str, **changes: Any) -> Task:
    """The digits, with one request made of several."""
    return data.load(TaskSpec("digits", forget=forget, at_once=True, **changes))


@pytest.mark.parametrize(
    "forget",
    [
        ("class:3", "random:0.1"),
        ("random:0.1", "class:3"),
        ("class:3", "class:3"),
        ("class:3", "class:3:0.5"),
        ("class:3", "confuse:2"),
        ("where:label < 3", "where:label > 1 and label < 5"),
    ],
)
def test_requests_at_once_are_united(forget: tuple[str, ...]) -> None:
    """Each image once, whatever the order; each request has all that it names by itself, or as many of them."""
    task = at_once(*forget)
    (request,) = task.requests
    assert request.text == " + ".join(forget)
    assert (np.diff(request.indices) > 0).all()
    for text in forget:
        if not text.startswith(("random", "confuse")):
            assert set(at_once(text).forget_indices) <= set(request.indices)
    with_random = sum(len(at_once(text).forget_indices) for text in forget)
    assert len(request.indices) <= with_random


def test_requests_that_arrive_one_after_another_must_not_overlap() -> None:
    """And it is said what allows it."""
    with pytest.raises(UserError, match=r"are forgotten by an earlier request .*--at-once makes one of them"):
        data.load(TaskSpec("digits", forget=("random:0.1", "class:3")))
    with pytest.raises(UserError, match="nothing would be left to retain"):
        at_once("where:label < 6", "where:label > 4")
    with pytest.raises(UserError, match="500 images are asked for and 400 are there"):
        at_once("class:3", "random:500")


def test_requests_that_do_not_overlap_are_what_they_were() -> None:
    """At once and one after another, the same images."""
    steps = data.load(TaskSpec("digits", forget=("class:3", "random:0.1"), step=1))
    assert at_once("class:3", "random:0.1").forget_indices.tolist() == steps.forget_indices.tolist()
