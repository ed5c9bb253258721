"""Small files in the formats of the data sets that torchvision downloads, so that tests need no download."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision

TRAIN, TEST = 40, 10


def random_images(count: int, *shape: int) -> np.ndarray:
    """uint8 `(count, *shape)`, the same for the same arguments."""
    return np.random.RandomState(count).randint(0, 256, (count, *shape)).astype(np.uint8)


def labels_for(count: int) -> np.ndarray:
    """All ten labels in turn, uint8 `(count,)`."""
    return (np.arange(count) * 7 % 10).astype(np.uint8)


def write_idx(file: Path, array: np.ndarray) -> None:
    """The format of MNIST: two zero bytes, type (8 = bytes), number of axes, the sizes big-endian, the bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(header + array.tobytes())


def write_mnist(root: Path, dataset: str) -> None:
    """Unpacked files of MNIST or FashionMNIST."""
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        write_idx(root / dataset / "raw" / f"{part}-images-idx3-ubyte", random_images(count, 28, 28))
        write_idx(root / dataset / "raw" / f"{part}-labels-idx1-ubyte", labels_for(count))


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, hundred: bool) -> None:
    """Unpacked files of CIFAR-10 or CIFAR-100 (of which ten classes occur)."""
    folder = root / ("cifar-100-python" if hundred else "cifar-10-batches-py")
    kind = torchvision.datasets.CIFAR100 if hundred else torchvision.datasets.CIFAR10
    train = ["train"] if hundred else [f"data_batch_{i}" for i in range(1, 6)]
    test = "test" if hundred else "test_batch"
    meta = "meta" if hundred else "batches.meta"
    key, names = ("fine_labels", "fine_label_names") if hundred else ("labels", "label_names")
    # The files are not the real ones, so their checksums are not asked for.
    monkeypatch.setattr(kind, "train_list", [[name, None] for name in train])
    monkeypatch.setattr(kind, "test_list", [[test, None]])
    monkeypatch.setattr(kind, "meta", {"filename": meta, "key": names, "md5": None})
    folder.mkdir(parents=True)
    images, labels = random_images(TRAIN, 3, 32, 32), labels_for(TRAIN)
    for name, rows in zip(train, np.array_split(np.arange(TRAIN), len(train)), strict=True):
        content = {"data": images[rows].reshape(len(rows), -1), key: labels[rows].tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    content = {"data": random_images(TEST, 3, 32, 32).reshape(TEST, -1), key: labels_for(TEST).tolist()}
    (folder / test).write_bytes(pickle.dumps(content))
    (folder / meta).write_bytes(pickle.dumps({names: [f"class {i}" for i in range(10)]}))


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two files of SVHN."""
    from scipy.io import savemat

    files = {part: ["", f"{part}_32x32.mat", None] for part in ("train", "test")}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)
    root.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", TRAIN), ("test", TEST)):
        labels = labels_for(count).astype(np.int64)
        labels[labels == 0] = 10  # the format's way to write the digit 0
        savemat(root / f"{part}_32x32.mat", {"X": random_images(count, 3, 32, 32).transpose(2, 3, 1, 0), "y": labels})


def write_files(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the task `name`: 40 training and 10 test images."""
    if name in ("mnist", "fashion_mnist"):
        write_mnist(root, {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name])
    elif name == "svhn":
        write_svhn(root, monkeypatch)
    else:
        write_cifar(root, monkeypatch, hundred=name == "cifar100")
