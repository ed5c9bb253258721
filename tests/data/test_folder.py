"""The task `folder`: images of the user's own."""

from __future__ import annotations

import os
import resource
import shutil
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import data
from data import Task, TaskSpec, UserError
from data.metadata import read_metadata
from evaluation.grading import announce
from evaluation.spec import GradingSpec

SHARED = Path(data.__file__).parents[2] / "shared"


def load(folder: Path, **changes: Any) -> Task:
    """The task folder over `folder`."""
    return data.load(TaskSpec("folder", data_dir=str(folder), **changes), progress=False)


def save(file: Path, mode: str = "RGB", size: tuple[int, int] = (7, 5), colour: Any = 0) -> Path:
    """An image of one colour."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(file)
    return file


def assert_pixels_are_those_of_the_files(folder: Path, task: Task) -> None:
    """Every image of every split, found by its id, against Pillow."""
    for split in (task.train, task.validation, task.test):
        for image, label, name in zip(split.images, split.labels, split.image_ids, strict=True):
            expected = np.asarray(Image.open(folder / name)).astype(np.float32)
            expected = expected[np.newaxis] if expected.ndim == 2 else expected.transpose(2, 0, 1)
            np.testing.assert_array_equal(image, (expected / np.float32(255) - np.float32(0.5)) / np.float32(0.5))
            assert Path(name).parent.name == task.classes[label]


@pytest.mark.parametrize(("mode", "channels", "network"), [("RGB", 3, "resnet18_3x3"), ("L", 1, "small_cnn")])
def test_images_labels_and_splits(make_folder: Any, mode: str, channels: int, network: str) -> None:
    """Catches rows and columns exchanged, channels in the wrong place, and labels of another image."""
    folder = make_folder(mode=mode)
    task = load(folder)
    assert task.train.images.shape == (33, channels, 5, 7)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [33, 3, 12]
    assert task.classes == ("cat", "dog", "owl")
    assert task.network == network
    assert_pixels_are_those_of_the_files(folder, task)
    assert all(name.startswith("test/") for name in task.test.image_ids)
    assert all(name.startswith("train/") for name in [*task.train.image_ids, *task.validation.image_ids])


def test_grey_and_coloured_images_together_are_coloured(make_folder: Any) -> None:
    """One coloured image makes the task coloured, wherever it comes; grey is then equal in all channels."""
    folder = make_folder(mode="L")
    save(folder / "train" / "owl" / "11.png", "RGB", colour=(10, 20, 30))
    for mode, name in (("RGBA", "a"), ("P", "p"), ("1", "b"), ("LA", "l")):
        save(folder / "test" / "cat" / f"{name}.png", mode)
    task = load(folder, train_size=30)
    assert task.train.images.shape == (30, 3, 5, 7)
    grey = [i for i, name in enumerate(task.train.image_ids) if name != "train/owl/11.png"]
    assert (task.train.images[grey][:, 0] == task.train.images[grey][:, 2]).all()


def test_numbered_classes_are_in_the_order_of_their_numbers(make_folder: Any) -> None:
    """So that class "10" has label 10, not 2."""
    task = load(make_folder(classes=(*map(str, range(11)), "other"), train=3, test=1))
    assert task.classes == (*map(str, range(11)), "other")


def test_images_are_in_the_order_of_their_paths(make_folder: Any) -> None:
    """As a notebook sorts them; "a-b/0" comes before "a/0", although the folder "a" comes before "a-b"."""
    task = load(make_folder(classes=("a", "a-b"), train=11))
    assert task.test.image_ids.tolist() == [f"test/{label}/{i}.png" for label in ("a-b", "a") for i in range(4)]
    assert task.train.image_ids.tolist() == sorted(task.train.image_ids)


def test_a_validation_folder_is_used(make_folder: Any) -> None:
    """Then no training image is set aside."""
    folder = make_folder()
    save(folder / "validation" / "dog" / "x.png")
    task = load(folder)
    assert len(task.train) == 36
    assert task.validation.image_ids.tolist() == ["validation/dog/x.png"]


def test_hidden_files_are_ignored(make_folder: Any) -> None:
    """What file managers leave behind is no image."""
    folder = make_folder()
    (folder / "train" / "cat" / ".DS_Store").write_text("")
    (folder / "train" / "cat" / "Thumbs.db").write_text("")
    (folder / "train" / ".hidden").mkdir()
    (folder / "train" / "readme.txt").write_text("")
    assert len(load(folder).train) == 33


def test_images_are_decoded_once(make_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second load opens no image; after a change of one file (size or time), all are decoded again."""
    folder = make_folder()
    before = load(folder)
    opened = Mock(wraps=data.folder._decode)
    monkeypatch.setattr(data.folder, "_decode", opened)
    assert load(folder).fingerprint == before.fingerprint
    assert opened.call_count == 0
    file = folder / "train" / "cat" / "0.png"
    os.utime(file, ns=(1, 1))
    assert load(folder).fingerprint == before.fingerprint
    assert opened.call_count == 48
    save(file)
    assert load(folder).fingerprint != before.fingerprint
    assert opened.call_count == 96


def test_data_digest_covers_pixels_and_labels(make_folder: Any) -> None:
    """A pixel, and an image that moves to another class, change the digest; metadata does not."""
    folder = make_folder()
    digests = [load(folder).data_sha256]
    write_metadata(folder)
    assert load(folder).data_sha256 == digests[0]
    (folder / "metadata.csv").unlink()
    file = folder / "test" / "dog" / "3.png"
    pixels = np.array(Image.open(file))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(file)
    digests.append(load(folder).data_sha256)
    file.rename(folder / "test" / "cat" / "3x.png")
    digests.append(load(folder).data_sha256)
    assert len(set(digests)) == 3


def write_metadata(folder: Path) -> list[str]:
    """A row for each image, in an order of its own; `person` is 7 for cats, 8 for dogs and 9 for owls."""
    names = sorted((file.relative_to(folder).as_posix() for file in folder.glob("*/*/*.png")), key=lambda n: n[::-1])
    person = {"cat": 7, "dog": 8, "owl": 9}
    rows = [f"{name},{person[name.split('/')[1]]},{len(name)}.5,NA,{name.split('/')[1]} x,True" for name in names]
    (folder / "metadata.csv").write_text("\n".join(["path,person,length,code,kind,old", *rows, ""]))
    return names


def test_metadata_columns_are_joined_by_path(make_folder: Any) -> None:
    """Each image gets its own row, typed by column; a cell "NA" is a text, not a gap."""
    folder = make_folder()
    write_metadata(folder)
    task = load(folder, forget=("group:person:1", 'where:kind == "owl x" and length > 0'))
    for split in (task.train, task.validation, task.test):
        assert list(split.columns) == ["person", "length", "code", "kind", "old"]
        for i, name in enumerate(split.image_ids):
            kind = name.split("/")[1]
            assert split.columns["person"][i] == {"cat": 7, "dog": 8, "owl": 9}[kind]
            assert split.columns["length"][i] == len(name) + 0.5
            assert split.columns["kind"][i] == f"{kind} x"
    columns = task.train.columns
    assert [column.dtype.kind for column in columns.values()] == ["i", "f", "U", "U", "b"]
    assert set(columns["code"]) == {"NA"}
    cats, owls = (request.indices for request in task.requests)
    assert {task.classes[label] for label in task.train.labels[cats]} == {"cat"}
    assert {task.classes[label] for label in task.train.labels[owls]} == {"owl"}


def test_gaps_in_metadata(make_folder: Any) -> None:
    """An empty cell is NaN among numbers and "" among texts."""
    folder = make_folder(train=12)
    names = write_metadata(folder)
    rows = [f"{name},{'' if 'cat' in name else 3},{'' if 'dog' in name else 'left'}" for name in names]
    (folder / "metadata.csv").write_text("\n".join(["path,age,side", *rows]))
    train = load(folder).train
    is_cat = np.array(["cat" in name for name in train.image_ids])
    assert np.isnan(train.columns["age"][is_cat]).all()
    assert (train.columns["age"][~is_cat] == 3).all()
    assert set(train.columns["side"]) == {"", "left"}


def test_changed_metadata_is_noticed(make_folder: Any) -> None:
    """The cache must not serve yesterday's columns."""
    folder = make_folder()
    write_metadata(folder)
    load(folder)
    text = (folder / "metadata.csv").read_text()
    (folder / "metadata.csv").write_text(text.replace(",7,", ",7777,"))
    assert 7777 in load(folder).train.columns["person"]


def spoil(folder: Path, what: str) -> None:
    """Make one mistake in a good folder."""
    metadata = folder / "metadata.csv"
    if what.startswith("metadata"):
        write_metadata(folder)
    text = metadata.read_text() if metadata.is_file() else ""
    match what:
        case "no training images":
            shutil.rmtree(folder / "train")
        case "no test images":
            shutil.rmtree(folder / "test")
        case "one class":
            shutil.rmtree(folder / "train" / "cat")
            shutil.rmtree(folder / "train" / "dog")
        case "class only in test":
            shutil.rmtree(folder / "train" / "owl")
        case "folder in a class folder":
            (folder / "train" / "cat" / "more").mkdir()
        case "another size":
            save(folder / "train" / "dog" / "3.png", size=(5, 7))
        case "no image":
            (folder / "train" / "dog" / "notes.txt").write_text("hello")
        case "image cut short":
            file = folder / "test" / "owl" / "2.png"
            file.write_bytes(file.read_bytes()[:60])
        case "16 bits":
            save(folder / "train" / "dog" / "3.png", "I;16")
        case "metadata without path":
            metadata.write_text("file,age\nx,3")
        case "metadata with a taken name":
            metadata.write_text(text.replace("kind", "label", 1))
        case "metadata row without image":
            metadata.write_text(text.replace("\ntest", "\ntets", 1))
        case "metadata twice":
            metadata.write_text(text + "test/cat/1.png,1,1,1,1,1")
        case "metadata missing for an image":
            save(folder / "train" / "cat" / "new.png")
        case "metadata with ragged rows":
            metadata.write_text(text + "a,b,c,d,e,f,g,h")
        case "metadata empty":
            metadata.write_text("")


MESSAGES = {
    "no training images": r"no images in .*train",
    "no test images": r"no images in .*test",
    "one class": r"one class only",
    "class only in test": r"test/owl/0\.png is of the class owl",
    "folder in a class folder": r"train/cat/more is a folder inside",
    "another size": r"train/dog/3\.png is 5 x 7 pixels and .*cat/0\.png is 7 x 5",
    "no image": r"train/dog/notes\.txt cannot be read as an image",
    "image cut short": r"test/owl/2\.png cannot be read as an image",
    "16 bits": r"train/dog/3\.png has pixels of the kind I;16",
    "metadata without path": r"metadata\.csv has no column path: its columns are file, age",
    "metadata with a taken name": r"metadata\.csv has a column label",
    "metadata row without image": r"metadata\.csv, row \d+: there is no image tets/",
    "metadata twice": r"metadata\.csv, row 49: test/cat/1\.png has a row already, row \d+",
    "metadata missing for an image": r"metadata\.csv has no row for train/cat/new\.png",
    "metadata with ragged rows": r"metadata\.csv cannot be read as a CSV file",
    "metadata empty": r"metadata\.csv cannot be read as a CSV file",
}


@pytest.mark.parametrize("what", MESSAGES)
def test_what_is_wrong_is_named(make_folder: Any, what: str) -> None:
    """One sentence that names the file (and row); never another exception, and never a wrong task."""
    folder = make_folder()
    spoil(folder, what)
    with pytest.raises(UserError, match=MESSAGES[what]):
        load(folder)


LONG = {
    "5 MB in a cell": (
        lambda rows: [*rows[:3], rows[3].replace("NA", "x" * 5_000_000), *rows[4:]],
        "row 3, column code",
    ),
    "a long first cell": (lambda rows: [*rows[:5], "x" * 20_000 + rows[5], *rows[6:]], "row 5, column path"),
    "many long cells": (
        lambda rows: [rows[0], *(row.replace("NA", "x" * 12_000) for row in rows[1:])],
        "row 1, column code",
    ),
    "a long name": (lambda rows: [rows[0] + "y" * 20_000, *rows[1:]], "name of column 6"),
    "many columns": (lambda rows: [rows[0] + ",c" * 1000, *rows[1:]], "1006 columns, and may have 1000"),
    "very many columns": (lambda rows: [rows[0] + "," * 20_000_000, *rows[1:]], "line 1 has more than 16 million"),
    "many cells in a row": (lambda rows: [*rows[:2], rows[2] + "," * 1_000_000, *rows[3:]], "row 2 has 1000006 cells"),
    "a NUL byte": (lambda rows: [*rows[:2], rows[2].replace("NA", "N\0A"), *rows[3:]], "line 3 has a NUL byte"),
    "an unclosed quote": (lambda rows: [*rows[:2], rows[2].replace("NA", '"NA'), *rows[3:]], "EOF inside string"),
    "an unclosed quote of much": (
        lambda rows: [*rows[:2], rows[2].replace("NA", '"' + "NA\n" * 10_000), *rows[3:]],
        "row 2, column code.*quotation mark",
    ),
    "an unclosed quote in the header": (lambda rows: [rows[0].replace("person", '"person'), *rows[1:]], "metadata.csv"),
    "many rows": (lambda rows: [*rows, *("a,1,1,1,1,1" for _ in range(100_000))], "row 49: there is no image a"),
    "100 MB": (lambda rows: [*rows, ("x" * 9000 + "\n") * 11_000], "more than 64 MB"),
    "no UTF-8": (lambda rows: [*rows[:2], rows[2].replace("NA", "\udcff"), *rows[3:]], "cannot be read as a CSV"),
    "a long number": (lambda rows: [*rows[:2], rows[2].replace("NA", "9" * 5000), *rows[3:]], None),
}


@pytest.mark.parametrize(("change", "said"), LONG.values(), ids=LONG)
def test_metadata_that_would_fill_the_memory_is_refused(
    change: Callable[[list[str]], list[str]], said: str | None, make_folder: Any
) -> None:
    """A cell of 5 MB made a column of 5 MB for each image. One sentence, which names file, row and column."""
    folder = make_folder()
    write_metadata(folder)
    path = folder / "metadata.csv"
    text = "\n".join(change(path.read_text().strip().split("\n")))
    path.write_bytes(text.encode(errors="surrogateescape"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if said is None:
        assert load(folder).train.columns["code"].dtype.kind == "U"
    else:
        with pytest.raises(UserError, match=said) as refused:
            load(folder)
        assert str(path) in str(refused.value)
        assert len(str(refused.value)) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000  # kilobytes


def test_long_cells_are_allowed_less_where_there_are_many_images(tmp_path: Path) -> None:
    """Catches a limit for each cell that lets a column fill the memory."""
    (tmp_path / "metadata.csv").write_text(f"path,note\na,{'x' * 5000}\n")
    assert read_metadata(tmp_path / "metadata.csv", ["a"])["note"].tolist() == ["x" * 5000]
    with pytest.raises(UserError, match="row 1, column note: the cell has 5000 characters, and may have 268;"):
        read_metadata(tmp_path / "metadata.csv", ["a", *map(str, range(1_000_000 - 1))])


def test_metadata_that_is_a_pipe_is_refused(make_folder: Any) -> None:
    """It was passed over, as if there were none."""
    folder = make_folder()
    os.mkfifo(folder / "metadata.csv")
    with pytest.raises(UserError, match="not a regular file"):
        load(folder)


def test_metadata_that_are_elsewhere_are_refused(make_folder: Any) -> None:
    """A link that leads nowhere was passed over, as if there were no metadata."""
    folder = make_folder()
    (folder / "metadata.csv").symlink_to("/nowhere/metadata.csv")
    with pytest.raises(UserError, match="not a regular file"):
        load(folder)


@pytest.mark.parametrize("separator", [*"\v\f\x1c\x1d\x1e\x85\u2028\u2029"])
def test_a_name_that_holds_a_line_separator_is_one_name(make_folder: Any, separator: str) -> None:
    """In a list of ids, lines end as files have them. Catches an id that was cut in two by `str.splitlines`."""
    folder = make_folder()
    name = f"a{separator}b.png"
    (folder / "train" / "cat" / "0.png").rename(folder / "train" / "cat" / name)
    (folder / "ids.txt").write_text(f"train/cat/{name}\n")
    save(folder / "val" / "cat" / "x.png")
    assert len(load(folder, forget=(f"file:{folder / 'ids.txt'}",)).forget_indices) == 1


def test_a_folder_is_needed(tmp_path: Path) -> None:
    """No data directory, and one that does not exist."""
    with pytest.raises(UserError, match="needs a data directory"):
        data.load(TaskSpec("folder"))
    with pytest.raises(UserError, match=r"no images in .*nowhere/train"):
        load(tmp_path / "nowhere")


def unpack_part(archive: Path, to: Path, each: int) -> None:
    """The first `each` images of every class and part of a real archive."""
    taken: dict[str, int] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isfile():
                continue
            folder = str(Path(member.name).parent)
            taken[folder] = taken.get(folder, 0) + 1
            if taken[folder] <= each:
                file = to / member.name
                file.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                file.write_bytes(source.read())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("archive", "shape", "first_class"),
    [("mnist/mnist-png.tar.xz", (1, 28, 28), "0"), ("cifar10/cifar10-jpeg.tar.xz", (3, 32, 32), "airplane")],
)
def test_real_archives(tmp_path: Path, archive: str, shape: tuple[int, ...], first_class: str) -> None:
    """A part of MNIST as PNG and of CIFAR-10 as JPEG, and the class means say that labels and images agree."""
    if not (SHARED / archive).is_file():
        pytest.skip(f"there is no {SHARED / archive}")
    unpack_part(SHARED / archive, tmp_path, each=100)
    task = load(tmp_path)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [900, 100, 1000]
    assert task.train.images.shape[1:] == shape
    assert (len(task.classes), task.classes[0]) == (10, first_class)
    assert np.bincount(task.train.labels).tolist() == [90] * 10
    assert_pixels_are_those_of_the_files(tmp_path, task)
    means = torch.stack([task.train.images[task.train.labels == label].mean(0) for label in range(10)])
    distances = torch.cdist(task.test.images.flatten(1), means.flatten(1))  # (test, classes)
    accuracy = (distances.argmin(1) == task.test.labels).float().mean()
    assert accuracy > (0.7 if shape[0] == 1 else 0.2)  # chance is 0.1


# ----------------------------------------------------------------------------------------------------------------------
# What users bring
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "dev"])
def test_a_validation_folder_of_another_name_is_used(make_folder: Any, name: str) -> None:
    """Catches a tenth of train that is set aside while val/ lies beside it."""
    folder = make_folder()
    save(folder / name / "dog" / "x.png")
    save(folder / "extra" / "dog" / "x.png")
    task = load(folder)
    assert (len(task.train), task.validation.image_ids.tolist()) == (36, [f"{name}/dog/x.png"])
    said = f"images: train from train/, validation from {name}/, test from test/; not used: extra/"
    assert task.remarks == (said,)
    assert load(folder).remarks == task.remarks, "also where the images are in the cache"


def test_what_is_not_used_is_named(make_folder: Any) -> None:
    """Other folders, empty classes, images in no class; not more names than fit a line, nor a terminal's codes."""
    folder = make_folder()
    assert load(folder).remarks == ("images: train from train/, validation from a tenth of train/, test from test/",)
    for name in ("train/fish", "val/dog", "a", "b\x1b[31m", "__MACOSX", ".git"):
        (folder / name).mkdir(parents=True)
    save(folder / "test" / "loose.png")
    save(folder / "test" / "more.png")
    (remark,) = load(folder).remarks
    unused = "a/, b\ufffd[31m/, test/loose.png and 1 more files (in no class folder), train/fish/ (empty), "
    assert remark.endswith(
        f"validation from a tenth of train/, test from test/; not used: {unused}val/dog/ (empty), ..."
    )


def test_two_folders_for_one_part_are_refused(make_folder: Any) -> None:
    """Which of them would be meant?"""
    folder = make_folder()
    for name in ("val", "validation"):
        save(folder / name / "dog" / "x.png")
    with pytest.raises(UserError, match="two folders for validation, val/ and validation/"):
        load(folder)


def test_the_command_says_which_folders_are_used(make_folder: Any) -> None:
    """As it begins, below the headline."""
    folder = make_folder()
    save(folder / "val" / "dog" / "x.png")
    task = load(folder)
    told: list[str] = []
    console = Mock(tell=told.append)
    announce(GradingSpec("my_method", task.spec), task, Mock(device="cpu", count=1), console)
    assert told[1] == task.remarks[0]


def broken_link(folder: Path) -> None:
    """An image that has been moved away."""
    (folder / "train" / "cat" / "gone.png").symlink_to("/nowhere/gone.png")


def link_to_itself(folder: Path) -> None:
    """Of which the system says something else."""
    link = folder / "test" / "cat" / "round.png"
    link.symlink_to(link)


def broken_class(folder: Path) -> None:
    """A class that would be left out without a word."""
    (folder / "train" / "zebra").symlink_to("/nowhere")


def not_utf8(folder: Path) -> None:
    """A file name from another system."""
    os.rename(folder / "train/cat/0.png", os.fsencode(folder / "train/cat") + b"/caf\xe9.png")


def class_not_utf8(folder: Path) -> None:
    """A class likewise."""
    os.rename(folder / "train/cat", os.fsencode(folder / "train") + b"/caf\xe9")


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "broken link": (broken_link, "gone.png is a link that leads nowhere .*: repair or remove it"),
    "link to itself": (link_to_itself, "round.png is a link that leads nowhere .*: repair or remove it"),
    "broken class": (broken_class, "zebra is a link that leads nowhere"),
    "pipe": (lambda folder: os.mkfifo(folder / "train" / "cat" / "pipe"), "pipe is not a regular file"),
    "not UTF-8": (not_utf8, "caf\ufffd.png has a byte that is not UTF-8"),
    "class not UTF-8": (class_not_utf8, "caf\ufffd/.*has a byte that is not UTF-8"),
}


@pytest.mark.parametrize(("make", "words"), MISTAKES.values(), ids=MISTAKES)
def test_files_that_cannot_be_read_are_named(make_folder: Any, make: Callable[[Path], object], words: str) -> None:
    """One sentence that can be printed. Catches tracebacks of os.stat and of hashing."""
    folder = make_folder()
    make(folder)
    with pytest.raises(UserError, match=words) as refused:
        load(folder)
    assert str(refused.value).encode()


def test_a_data_directory_that_is_not_utf8(make_folder: Any, tmp_path: Path) -> None:
    """Its name would be in every config."""
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    os.rename(make_folder(), odd)
    with pytest.raises(UserError, match="not UTF-8"):
        load(Path(os.fsdecode(odd)))


def test_links_that_lead_somewhere_are_images(make_folder: Any, tmp_path: Path) -> None:
    """Also a class that is a link; and a broken link beside train/ concerns nobody."""
    folder = make_folder()
    (folder / "train" / "cat" / "link.png").symlink_to(save(tmp_path / "elsewhere" / "x.png"))
    (folder / "train" / "lynx").symlink_to(tmp_path / "elsewhere")
    (folder / "latest").symlink_to("/nowhere")
    assert load(folder).classes == ("cat", "dog", "lynx", "owl")


def test_accents_in_either_form_are_the_same(make_folder: Any) -> None:
    """Names as macOS stores them (NFD), requests as they are typed (NFC), and the other way round.

    Catches "There is no class 'café': did you mean café?".
    """
    typed, stored = "caf\u00e9", "cafe\u0301"
    folder = make_folder(classes=(stored, "dog"))
    os.rename(folder / "test" / stored, folder / "test" / typed)
    os.rename(folder / "train" / stored / "0.png", folder / "train" / stored / f"{stored}.png")
    images = [str(path.relative_to(folder)) for path in folder.glob("*/*/*.png")]
    rows = [f"{unicodedata.normalize('NFC', path)},{stored if 'caf' in path else 'x'}" for path in images]
    (folder / "metadata.csv").write_text("\n".join(["path,place", *rows]))
    for form in (typed, stored):
        for request in (f"class:{form}", f"class:{form}:0.5", f"where:class_name == '{form}'"):
            assert len(load(folder, forget=(request,)).forget_indices) > 3
        one = f"where:image_id == 'train/{form}/{form}.png'"
        assert len(load(folder, forget=(one,)).forget_indices) == 1
        assert load(folder, forget=(f"where:place == '{form}' and label < 2",)).classes == (typed, "dog")
    (folder / "ids.txt").write_text(f"train/{stored}/{stored}.png\n")
    assert len(load(folder, forget=(f"file:{folder / 'ids.txt'}",)).forget_indices) == 1


def test_one_name_in_two_forms_is_refused(make_folder: Any) -> None:
    """Nobody could name one of the two."""
    folder = make_folder()
    for name in ("caf\u00e9", "cafe\u0301"):
        save(folder / "train" / "cat" / f"{name}.png")
    with pytest.raises(UserError, match="there twice"):
        load(folder)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_as_a_viewer_shows_them(kind: str, orientation: int, tmp_path: Path) -> None:
    """Against Pillow's own `exif_transpose`. Catches photographs that lie on their side."""
    pixels = np.random.RandomState(0).randint(0, 256, (2, 3, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"x.{kind}", exif=exif)
    found = data.folder._decode(str(tmp_path / f"x.{kind}"))
    upright = ImageOps.exif_transpose(Image.open(tmp_path / f"x.{kind}"))
    np.testing.assert_array_equal(found, np.asarray(upright))
    assert found.shape == ((16, 24, 3) if orientation < 5 else (24, 16, 3))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_metadata_of_an_image_does_not_matter(tmp_path: Path) -> None:
    """Its pixels are whole; what can't be read turns nothing."""
    for number, exif in enumerate((b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"")):
        Image.new("RGB", (7, 5)).save(tmp_path / f"{number}.jpg", exif=exif)
        assert data.folder._decode(str(tmp_path / f"{number}.jpg")).shape == (5, 7, 3)
