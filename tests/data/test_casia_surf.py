"""The original CASIA-SURF files (a small tree of their form) become the competition's layout."""

from __future__ import annotations

import csv
import io
import random
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
from data import TaskSpec, UserError
from data.casia_surf import age_groups, convert, find_pictures, main, read_ages
from data.kaggle import image_path

PERSONS, PICTURES = 24, 5


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """`Age_Gender.txt` and `WBackground/<n>/<person>/real.rssdk/color/*.jpg`, of one colour for each person.

    Beside them what must be left alone: pictures of a mask, and infra-red ones.
    """
    lines = []
    for person in range(PERSONS):
        name = str(90 + person)  # 90 to 113: alphabetical order is another than that of the numbers
        lines.append(f"{name} {18 + 2 * person} {person % 2}")
        for kind in ("real.rssdk/color", "real.rssdk/ir", "fake.rssdk/color"):
            folder = tmp_path / "images/WBackground" / str(person % 3) / name / kind
            folder.mkdir(parents=True)
            for number in range(PICTURES):
                colour = (10 * person, 100, 40) if kind == "real.rssdk/color" else (255, 255, 255)
                Image.new("RGB", (60, 48), colour).save(folder / f"{number}.jpg", quality=95)
    (tmp_path / "Age_Gender.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def tables(out: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of each table that was written."""
    return {
        part: list(csv.DictReader((out / f"{part}.csv").open(newline="")))
        for part in ("retain", "forget", "validation", "test")
    }


def test_layout(tree: Path) -> None:
    """Through the command line to a task: the counts, and each row with its person's picture, age and group."""
    arguments = ["--labels", tree / "Age_Gender.txt", "--images", tree / "images", "--out", tree / "out"]
    code, output = run(*map(str, arguments))
    assert code == 0, output
    rows = tables(tree / "out")
    counts = {part: len(table) for part, table in rows.items()}
    assert counts["retain"] + counts["forget"] == 96  # 80 % of 120
    assert (counts["validation"], counts["test"]) == (12, 12)
    for row in (row for table in rows.values() for row in table):
        person = int(row["person_id"]) - 90
        assert row["age"] == str(18 + 2 * person)
        assert int(row["age_group"]) == int(2 * person / ((2 * 23 + 1) / 10))
        pixels = np.asarray(Image.open(tree / "out" / image_path(row["image_id"]))).astype(int)
        assert pixels.shape == (32, 32, 3)
        assert np.abs(pixels - [10 * person, 100, 40]).max() <= 6  # JPEG is not exact
    task = data.load(TaskSpec("kaggle", data_dir=str(tree / "out")), progress=False)
    assert len(task.request_indices) == counts["forget"]


def run(*arguments: str) -> tuple[int, str]:
    """The exit code of the command line, and all that it printed."""
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
        code = main(arguments)
    return code, printed.getvalue()


def test_split_is_the_published_one(tree: Path) -> None:
    """Python's shuffle of the images with seed 43; the first 15 persons present in train, by number, are forgotten."""
    pictures = find_pictures(tree / "images")
    convert(tree / "Age_Gender.txt", tree / "images", tree / "out", progress=False)
    rows = tables(tree / "out")
    order = list(pictures)
    random.Random(43).shuffle(order)
    assert {row["image_id"] for row in rows["test"]} == {picture.image_id for picture in order[108:]}
    assert {row["image_id"] for row in rows["validation"]} == {picture.image_id for picture in order[96:108]}
    persons = sorted({int(picture.person) for picture in order[:96]})[:15]
    expected = {picture.image_id for picture in order[:96] if int(picture.person) in persons}
    assert {row["image_id"] for row in rows["forget"]} == expected
    assert not expected & {row["image_id"] for row in rows["retain"]}


def test_seed_changes_the_split(tree: Path) -> None:
    """The private leaderboard's split had another seed: a seed that is not used would go unnoticed."""
    for seed in (43, 44):
        convert(tree / "Age_Gender.txt", tree / "images", tree / str(seed), seed, progress=False)
    one, other = (tables(tree / str(seed)) for seed in (43, 44))
    assert {row["image_id"] for row in one["test"]} != {row["image_id"] for row in other["test"]}


def test_age_groups() -> None:
    """11 equally spaced edges from the least age to the greatest + 1: the oldest is in group 9, not in an eleventh."""
    ages = {str(age): age for age in range(17, 67)}
    groups = age_groups(ages)
    assert [groups[str(age)] for age in (17, 21, 22, 26, 27, 62, 66)] == [0, 0, 1, 1, 2, 9, 9]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("90 18 0\n91 old 1\n", "line 2"),
        ("90 18\n", "line 1"),
        ("90 18 0\n90 19 0\n", "another age"),
        ("\n", "is empty"),
    ],
)
def test_labels_are_checked(tmp_path: Path, text: str, words: str) -> None:
    """The sentence names the file and the line."""
    (tmp_path / "Age_Gender.txt").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_ages(tmp_path / "Age_Gender.txt")
    assert "Age_Gender.txt" in str(caught.value)


def test_what_is_missing(tree: Path) -> None:
    """No images, a person without an age, too few persons, an image cut off, a folder in use: a sentence each."""
    labels, images = tree / "Age_Gender.txt", tree / "images"
    with pytest.raises(UserError, match="name the folder that contains WBackground"):
        convert(labels, images / "WBackground", tree / "out", progress=False)
    with pytest.raises(UserError, match=r"nothing\.txt cannot be read"):
        convert(tree / "nothing.txt", images, tree / "out", progress=False)
    picture = images / "WBackground/0/90/real.rssdk/color/0.jpg"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:300])
    with pytest.raises(UserError, match=r"0\.jpg cannot be read as an image"):
        convert(labels, images, tree / "out", progress=False)
    picture.write_bytes(whole)
    text = labels.read_text()
    labels.write_text(text.replace("113 ", "114 "))
    with pytest.raises(UserError, match="no line for the person 113"):
        convert(labels, images, tree / "out", progress=False)
    labels.write_text(text)
    convert(labels, images, tree / "out", progress=False)
    with pytest.raises(UserError, match="has a data set already"):
        convert(labels, images, tree / "out", progress=False)


def test_more_persons_than_are_forgotten_are_needed(tmp_path: Path) -> None:
    """With 15 persons nothing would be left to retain; the command says so in a sentence and exits with 2."""
    for person in range(15):
        folder = tmp_path / "WBackground/1" / str(person) / "real.rssdk/color"
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / "1.jpg")
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{person} {20 + person} 0\n" for person in range(15)))
    code, output = run("--labels", str(labels), "--images", str(tmp_path), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "more are needed" in output
    assert "Traceback" not in output
