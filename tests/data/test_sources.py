"""torchvision's data sets, from small files in their real formats; nothing is downloaded."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torchvision
from small_downloads import TEST, TRAIN, labels_for, random_images, write_files, write_mnist

import data
from data import Task, TaskSpec, UserError


def load(name: str, root: Path | None = None) -> Task:
    """The task, from files in `root`, or else from the cache or the network."""
    return data.load(TaskSpec(name, data_dir=None if root is None else str(root)))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, on any machine."""

    def refuse(*args: Any, **options: Any) -> None:
        print("Failed to download, as some versions of torchvision print")
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


NAMES = ["mnist", "fashion_mnist", "svhn", "cifar10", "cifar100"]


@pytest.mark.parametrize("name", NAMES)
def test_images_and_labels_from_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image at its place with its label; catches rows, columns or channels exchanged, and a wrong test set."""
    write_files(name, tmp_path, monkeypatch)
    task = load(name, tmp_path)
    info = data.all_tasks()[name]
    colour = name not in ("mnist", "fashion_mnist")
    shape = (3, 32, 32) if colour else (28, 28)
    pixels = np.concatenate([random_images(count, *shape) for count in (TRAIN, TEST)]).reshape(
        TRAIN + TEST, -1, *shape[-2:]
    )
    labels = np.concatenate([labels_for(count) for count in (TRAIN, TEST)])
    assert [len(split) for split in (task.train, task.validation, task.test)] == [36, 4, 10]
    assert len(task.classes) == 10
    mean, std = (np.array(values).reshape(1, -1, 1, 1) for values in (info.normalisation.mean, info.normalisation.std))
    for split in (task.train, task.validation, task.test):
        rows = [int(identity.removeprefix(f"{name}-")) for identity in split.image_ids]
        np.testing.assert_allclose(split.images, (pixels[rows] / 255 - mean) / std, atol=2e-6)
        np.testing.assert_array_equal(split.labels, labels[rows])
    assert [int(identity[-5:]) for identity in task.test.image_ids] == list(range(TRAIN, TRAIN + TEST))


@pytest.mark.parametrize("name", NAMES)
def test_decoded_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second load does not open torchvision's data set; a changed file does."""
    write_files(name, tmp_path, monkeypatch)
    first = load(name, tmp_path)
    opened = Mock(wraps=data.sources._open)
    monkeypatch.setattr(data.sources, "_open", opened)
    assert load(name, tmp_path).fingerprint == first.fingerprint
    assert opened.call_count == 0
    write_files(name, tmp_path / "other", monkeypatch)
    for file in (file for file in (tmp_path / "other").rglob("*") if file.is_file()):
        file.replace(tmp_path / file.relative_to(tmp_path / "other"))
    assert load(name, tmp_path).fingerprint == first.fingerprint
    assert opened.call_count == 2


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", NAMES)
def test_without_files_and_network(name: str, empty_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence: which files to put where. Standard output stays clean, although torchvision prints there."""
    files = {"svhn": "train_32x32.mat", "cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
    with pytest.raises(UserError) as refused:
        load(name)
    assert files.get(name, "train-images-idx3-ubyte.gz") in str(refused.value)
    assert str(empty_cache.resolve() / name) in str(refused.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_downloaded_into_a_data_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `data_dir`, missing files are the user's to put there, network or not."""
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **options: pytest.fail("tried to download"))
    with pytest.raises(UserError, match=f"into {tmp_path}"):
        load(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("offline")
def test_archives_in_a_data_directory_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who copies the archives that the message names gets the task, without a network."""
    import gzip

    write_mnist(tmp_path, "MNIST")
    resources = []
    for file in sorted((tmp_path / "MNIST" / "raw").iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
        resources.append((f"{file.name}.gz", None))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    assert len(load("mnist", tmp_path).train) == 36


def test_damaged_files_are_the_users_to_replace(tmp_path: Path) -> None:
    """A file cut short is refused with the folder's name, not with an exception from within torchvision."""
    write_mnist(tmp_path, "MNIST")
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"mnist could not be read .*MNIST/raw"):
        load("mnist", tmp_path)
