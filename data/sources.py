"""Sources of images that are known by name: scikit-learn's digits, and what torchvision downloads."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.cache import cache_dir, cache_lock, cached, short_digest, stat_key
from data.errors import UserError
from data.raw import RawData, content_digest

_DIGITS = tuple("0123456789")


def read_digits(data_dir: str | None = None, progress: bool = True) -> RawData:
    """The 1,797 handwritten digits inside scikit-learn: 8x8, one channel, pixels 0 to 16, one undivided set.

    Kept in the cache as well, because reading them there is quicker than importing scikit-learn.
    Raises `UserError` when given a `data_dir`: there are no files to read.
    """
    if data_dir is not None:
        raise UserError("The task digits has no files of its own: omit the data directory.")
    return cached("digits", "digits of scikit-learn", _build_digits)


def _build_digits() -> RawData:
    from sklearn.datasets import load_digits

    bundle = load_digits()
    pixels = bundle.images.astype(np.uint8)[:, np.newaxis]  # (1797, 1, 8, 8)
    labels = bundle.target.astype(np.int64)
    return RawData(
        pixels=pixels,
        labels=labels,
        image_ids=_numbered("digits", len(labels)),
        parts=np.full(len(labels), ""),
        classes=_DIGITS,
        content_sha256=content_digest(pixels, labels),
    )


def _numbered(name: str, count: int) -> np.ndarray:
    """Ids like `digits-00017`: their alphabetical order is the order of the source."""
    return np.array([f"{name}-{i:05d}" for i in range(count)])


@dataclass(frozen=True)
class Download:
    """A data set that torchvision can download and unpack.

    `folder` is where, below the root directory, the unpacked `files` lie; `archives` (in `archive_folder`)
    are what a user without a network puts there. `classes` None takes torchvision's names.
    """

    name: str
    dataset: str
    folder: str
    files: tuple[str, ...]
    archive_folder: str
    archives: tuple[str, ...]
    classes: tuple[str, ...] | None = None


def _mnist_like(name: str, dataset: str, classes: tuple[str, ...] | None = None) -> Download:
    files = tuple(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
    folder = f"{dataset}/raw"
    return Download(name, dataset, folder, files, folder, tuple(f"{file}.gz" for file in files), classes)


MNIST = _mnist_like("mnist", "MNIST", _DIGITS)
FASHION_MNIST = _mnist_like("fashion_mnist", "FashionMNIST")
_SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")
SVHN = Download("svhn", "SVHN", ".", _SVHN_FILES, ".", _SVHN_FILES, _DIGITS)
CIFAR10 = Download(
    name="cifar10",
    dataset="CIFAR10",
    folder="cifar-10-batches-py",
    files=(*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
    archive_folder=".",
    archives=("cifar-10-python.tar.gz",),
)
CIFAR100 = Download(
    name="cifar100",
    dataset="CIFAR100",
    folder="cifar-100-python",
    files=("train", "test", "meta"),
    archive_folder=".",
    archives=("cifar-100-python.tar.gz",),
)


def read_download(download: Download, data_dir: str | None = None, progress: bool = True) -> RawData:
    """A data set of torchvision, pixels 0 to 255, with its own training and test part.

    With a `data_dir`, its files (or archives, which are unpacked there) are used and nothing is downloaded.
    Without, they are downloaded into the cache folder on first use. torchvision shows its own progress bars.
    Raises `UserError`, which says where to put which files, when they can't be obtained.
    """
    root = Path(data_dir).expanduser() if data_dir is not None else cache_dir() / download.name
    may_download = data_dir is None
    names = [f"{download.folder}/{file}" for file in download.files]
    if not all((root / name).is_file() for name in names):
        with cache_lock(f"{download.name}-download"):
            _open_parts(download, root, may_download)
    return cached(
        f"{download.name}-{short_digest(str(root.resolve()))}",
        stat_key(root, names),
        lambda: _build_download(download, root, may_download),
    )


def _build_download(download: Download, root: Path, may_download: bool) -> RawData:
    train, test = _open_parts(download, root, may_download)
    pixels = np.concatenate([_pixels(train), _pixels(test)])
    labels = np.concatenate([_labels(train), _labels(test)])
    return RawData(
        pixels=pixels,
        labels=labels,
        image_ids=_numbered(download.name, len(labels)),
        parts=np.repeat(["train", "test"], [len(train), len(test)]),
        classes=download.classes or tuple(train.classes),
        content_sha256=content_digest(pixels, labels),
    )


def _open_parts(download: Download, root: Path, may_download: bool) -> tuple[Any, Any]:
    """torchvision's training and test data set; it checks, unpacks and, if allowed, downloads the files."""
    archives = [root / download.archive_folder / name for name in download.archives]
    fetch = may_download or all(archive.is_file() for archive in archives)
    try:
        # Standard output belongs to the results of the program: torchvision prints there when a mirror fails.
        with contextlib.redirect_stdout(sys.stderr):
            return _open(download, root, "train", fetch), _open(download, root, "test", fetch)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":. ")
        raise UserError(
            f"The files of {download.name} could not be {'obtained' if fetch else 'read'} ({reason}): put "
            f"{', '.join(download.archives)} into {(root / download.archive_folder).resolve()}."
        ) from error


def _open(download: Download, root: Path, part: str, fetch: bool) -> Any:
    import torchvision

    dataset = getattr(torchvision.datasets, download.dataset)
    chosen: dict[str, Any] = {"split": part} if download.dataset == "SVHN" else {"train": part == "train"}
    return dataset(root=str(root), download=fetch, **chosen)


def _pixels(dataset: Any) -> np.ndarray:
    """uint8 `(n, C, H, W)` from torchvision's layouts: `(n, H, W)`, `(n, H, W, 3)` or `(n, 3, H, W)`."""
    pixels = np.asarray(dataset.data)
    if pixels.ndim == 3:
        return pixels[:, np.newaxis]
    return pixels.transpose(0, 3, 1, 2) if pixels.shape[-1] == 3 else pixels


def _labels(dataset: Any) -> np.ndarray:
    return np.asarray(dataset.labels if hasattr(dataset, "labels") else dataset.targets, dtype=np.int64)
