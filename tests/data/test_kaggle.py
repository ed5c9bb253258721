"""The competition's layout: written, read back, and refused with a sentence when something is wrong with it."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import data
from data import Task, TaskSpec, UserError, task_info
from data.cache import cache_dir
from data.kaggle import read_kaggle, write_layout
from data.loaders import run_loaders

COUNTS = {"retain": 30, "forget": 5, "validation": 6, "test": 7}


def make_parts(channels: int = 3) -> dict[str, dict[str, np.ndarray]]:
    """Random images of eight persons; the order of their ids is not that of the numbers (10-0 is before 8-0)."""
    random = np.random.RandomState(0)
    ids = [f"{person}-{number}" for person in range(8, 16) for number in range(6)]
    order = random.permutation(len(ids))
    parts, start = {}, 0
    for part, count in COUNTS.items():
        rows = order[start : start + count]
        start += count
        parts[part] = {
            "image_id": np.array(ids)[rows],
            "age_group": np.arange(count) % 10,
            "age": 18 + rows,
            "person_id": rows // 6,
            "pixels": random.randint(0, 256, (count, channels, 32, 32)).astype(np.uint8),
        }
    return parts


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout with which nothing is wrong."""
    folder = tmp_path_factory.mktemp("layout") / "whole"
    write_layout(folder, make_parts(), progress=False)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to break."""
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def load(folder: Path, **changes: object) -> Task:
    """The task that the folder is."""
    return data.load(TaskSpec("kaggle", data_dir=str(folder), **changes), progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_read_back(tmp_path: Path, channels: int) -> None:
    """Pixel by pixel and cell by cell; an image at the place of another, or a column of another, would show."""
    parts = make_parts(channels)
    write_layout(tmp_path, parts, progress=False)
    raw = read_kaggle(str(tmp_path), progress=False)
    row_of = {image_id: row for row, image_id in enumerate(raw.image_ids)}
    assert len(row_of) == sum(COUNTS.values())
    for name, part in parts.items():
        rows = [row_of[image_id] for image_id in part["image_id"]]
        assert np.array_equal(raw.pixels[rows], part["pixels"])
        assert np.array_equal(raw.labels[rows], part["age_group"])
        for column in ("age", "person_id"):
            assert np.array_equal(raw.columns[column][rows], part[column])
            assert raw.columns[column].dtype == np.int64
        assert set(raw.parts[rows]) == {"train" if name in ("retain", "forget") else name}
        assert raw.columns["in_forget_csv"][rows].tolist() == [name == "forget"] * len(rows)


def test_order_is_that_of_the_competitions_notebook(whole: Path) -> None:
    """The notebook sorts each table by image path, as text: a numerical order, or that of the ids, differs."""
    task = load(whole)
    sets = {
        "retain": task.train.image_ids[task.retain_indices],
        "forget": task.train.image_ids[task.request_indices],
        "validation": task.validation.image_ids,
        "test": task.test.image_ids,
    }
    for name, ids in sets.items():
        table = pd.read_csv(whole / f"{name}.csv")
        paths = table["image_id"].apply(lambda image_id: "images/{}/{}.png".format(*image_id.split("-")))
        assert table["image_id"].tolist() == ids.tolist()  # as it was written ...
        assert table["image_id"][paths.argsort()].tolist() == ids.tolist()  # ... and as the notebook sorts it
    assert task.train.image_ids[0].startswith("10-")  # and not with person 8, or as the rows were handed over


def test_images_are_raw(whole: Path) -> None:
    """float32, 0 to 255, neither scaled nor normalised; and the same as the file on disk."""
    task = load(whole)
    first = Image.open(whole / "images" / "{}/{}.png".format(*str(task.test.image_ids[0]).split("-")))
    assert task.test.images.dtype == torch.float32
    assert torch.equal(task.test.images[0], torch.from_numpy(np.array(first)).permute(2, 0, 1).float())


def test_samples_are_the_competitions(whole: Path) -> None:
    """The keys of Kaggle's samples and no others (not the column that marks the forget set), in their types."""
    task = load(whole)
    for loader in run_loaders(task, seed=0):
        sample = next(iter(loader))
        assert sorted(sample) == ["age", "age_group", "image", "image_id", "person_id"]
        assert sample["image"].dtype == torch.float32
        assert all(sample[name].dtype == torch.int64 for name in ("age_group", "age", "person_id"))
        assert all(isinstance(image_id, str) for image_id in sample["image_id"])


def test_defaults_are_those_of_the_published_evaluation(whole: Path) -> None:
    """ResNet-18, Adam 1e-4, weight decay 5e-3, cosine, 30 epochs, batch 64, class weights, 512 models."""
    task = load(whole)
    recipe = task.recipe
    assert task.network == "resnet18"
    assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay) == ("adam", 1e-4, 5e-3)
    assert (recipe.schedule, recipe.epochs, recipe.batch_size, recipe.class_weights) == ("cosine", 30, 64, True)
    assert task_info(task.spec).models == 512
    assert task.classes == tuple("0123456789")


def test_forget_set(whole: Path) -> None:
    """The rows of forget.csv by default; any other request can take its place, over the same training set."""
    default, other = load(whole), load(whole, forget=("where:person_id == 3",))
    assert len(default.request_indices) == COUNTS["forget"]
    assert set(other.train.columns["person_id"][other.request_indices]) == {3}
    assert default.train.image_ids.tolist() == other.train.image_ids.tolist()


def test_persons_and_ages_need_not_be_whole_numbers(copy: Path) -> None:
    """A person with a name makes the ids texts, and half a year makes the ages float64."""
    edit(copy, "retain", 1, person_id="CLKJ_AS0001", age="20.5")
    raw = read_kaggle(str(copy), progress=False)
    assert "CLKJ_AS0001" in raw.columns["person_id"]
    assert raw.columns["age"].dtype == np.float64


def test_cache_notices_a_changed_image(copy: Path, empty_cache: Path) -> None:
    """A cache that looks only at the tables would go on to show the old image."""
    before = read_kaggle(str(copy), progress=False)
    directory, name = str(before.image_ids[0]).split("-")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(copy / "images" / directory / f"{name}.png")
    after = read_kaggle(str(copy), progress=False)
    assert before.pixels[0].any()
    assert not after.pixels[0].any()
    assert np.array_equal(before.pixels[1:], after.pixels[1:])
    assert len(list(cache_dir().glob("*.npz"))) == 1


# ----------------------------------------------------------------------------------------------------------------------
# Broken layouts
# ----------------------------------------------------------------------------------------------------------------------


def edit(folder: Path, table: str, row: int, **cells: str) -> None:
    """Change cells of a table; row 1 is the first below the header."""
    path = folder / f"{table}.csv"
    rows = list(csv.DictReader(path.open(newline="")))
    rows[row - 1] |= cells
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def image_id_of(folder: Path, table: str, row: int) -> str:
    """The id in a row."""
    return list(csv.DictReader((folder / f"{table}.csv").open(newline="")))[row - 1]["image_id"]


def image_of(folder: Path, table: str, row: int) -> Path:
    """The file of the image in a row."""
    directory, name = image_id_of(folder, table, row).split("-")
    return folder / "images" / directory / f"{name}.png"


Break = Callable[[Path], object]


def of_text(table: str, change: Callable[[str], str]) -> Break:
    """Change the text of a table."""

    def break_it(folder: Path) -> None:
        path = folder / f"{table}.csv"
        path.write_text(change(path.read_text()))

    return break_it


def of_cells(table: str, row: int, **cells: str) -> Break:
    """Change cells of a row."""
    return lambda folder: edit(folder, table, row, **cells)


def of_image(table: str, row: int, change: Break) -> Break:
    """Change the image of a row."""
    return lambda folder: change(image_of(folder, table, row))


def save(*shape: int) -> Break:
    """Replace an image by a black one."""
    return lambda path: Image.fromarray(np.zeros(shape, np.uint8)).save(path)


def cut_off(path: Path) -> None:
    """Keep the beginning of a file."""
    path.write_bytes(path.read_bytes()[:200])


BROKEN: dict[str, tuple[Break, tuple[str, ...]]] = {
    "no folder": (shutil.rmtree, ("There is no folder",)),
    "no retain.csv": (lambda folder: (folder / "retain.csv").unlink(), ("has no retain.csv",)),
    "no test.csv": (lambda folder: (folder / "test.csv").unlink(), ("has no test.csv", "grading needs one")),
    "no images": (lambda folder: shutil.rmtree(folder / "images"), ("has no folder images",)),
    "no column": (of_text("forget", lambda text: text.replace("person_id", "who")), ("forget.csv", "column person_id")),
    "no header": (of_text("test", lambda text: ""), ("test.csv", "no column image_id")),
    "no rows": (of_text("validation", lambda text: text.splitlines()[0]), ("validation.csv has no rows",)),
    "a short row": (of_text("test", lambda text: text + "1-1,3\n"), ("test.csv, row 8", "age is empty")),
    "not a text": (lambda folder: (folder / "test.csv").write_bytes(b"\xff\xfe\x00"), ("test.csv", "cannot be read")),
    "group of letters": (of_cells("retain", 3, age_group="young"), ("retain.csv, row 3", "'young'")),
    "group with a fraction": (of_cells("retain", 4, age_group="2.5"), ("retain.csv, row 4", "'2.5'")),
    "group too large": (of_cells("test", 1, age_group="10"), ("test.csv, row 1", "0 to 9")),
    "group negative": (of_cells("forget", 2, age_group="-1"), ("forget.csv, row 2", "'-1'")),
    "group not a number": (of_cells("forget", 2, age_group="nan"), ("forget.csv, row 2", "'nan'")),
    "group empty": (of_cells("forget", 2, age_group=""), ("forget.csv, row 2", "age_group is empty")),
    "age not a number": (of_cells("validation", 2, age="NaN"), ("validation.csv, row 2", "age 'NaN'")),
    "age infinite": (of_cells("validation", 2, age="inf"), ("validation.csv, row 2", "age 'inf'")),
    "person not a number": (of_cells("validation", 2, person_id="NaN"), ("validation.csv, row 2", "person_id")),
    "id leaves the folder": (of_cells("retain", 1, image_id="../../x-1"), ("retain.csv, row 1", "'../../x-1'")),
    "id leaves it at the end": (of_cells("retain", 1, image_id="1-../../x"), ("retain.csv, row 1", "<a>-<b>")),
    "id without a hyphen": (of_cells("retain", 1, image_id="12"), ("retain.csv, row 1", "<a>-<b>")),
    "no image": (of_image("test", 3, Path.unlink), ("test.csv, row 3", "no image")),
    "an empty image": (of_image("test", 3, lambda path: path.write_bytes(b"")), ("test.csv, row 3", "cannot be read")),
    "an image cut off": (of_image("test", 3, cut_off), ("test.csv, row 3", "cannot be read")),
    "another size": (
        of_image("forget", 2, save(32, 31, 3)),
        ("forget.csv, row 2", "31 x 32 RGB", "32 x 32 RGB"),
    ),
    "a grey image": (of_image("forget", 2, save(32, 32)), ("forget.csv, row 2", "32 x 32 grey")),
    "transparency": (of_image("forget", 2, save(32, 32, 4)), ("forget.csv, row 2", "RGBA")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_layout_is_refused(copy: Path, name: str) -> None:
    """Each check could be dropped without another test noticing; the sentence names the file and the row."""
    break_it, words = BROKEN[name]
    break_it(copy)
    with pytest.raises(UserError) as caught:
        load(copy)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize("other", ["retain", "forget", "test"])
def test_an_image_has_one_row(copy: Path, other: str) -> None:
    """Within a table, across retain and forget, and across training and test set, where it would be a leak."""
    edit(copy, other, 4, image_id=image_id_of(copy, "retain", 2))
    with pytest.raises(UserError, match="has a row already") as caught:
        load(copy)
    assert f"{other}.csv, row 4" in str(caught.value)
    assert "retain.csv, row 2" in str(caught.value)


def test_a_folder_is_needed() -> None:
    """Without --data-dir the sentence says what to give."""
    with pytest.raises(UserError, match="--data-dir DIR"):
        data.load(TaskSpec("kaggle"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pixels": np.zeros((5, 3, 32, 32), np.float32)}, "uint8"),
        ({"age": np.zeros(4)}, "age must have one value"),
        ({"image_id": np.array(["../../x-1"] * 5)}, "not of the form"),
    ],
)
def test_writer_refuses_what_the_reader_would(tmp_path: Path, changes: dict[str, np.ndarray], words: str) -> None:
    """Nothing is written then, not even outside the folder."""
    parts = make_parts()
    parts["forget"] |= changes
    with pytest.raises(ValueError, match=words):
        write_layout(tmp_path / "out", parts, progress=False)
    assert not list(tmp_path.iterdir())
