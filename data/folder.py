"""A data set that is a folder of images: `train/<class>/*`, `test/<class>/*`, and perhaps `metadata.csv`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path

import numpy as np

from data.cache import cached, short_digest, stat_key
from data.errors import UserError
from data.metadata import read_metadata
from data.progress import with_bar
from data.raw import PARTS, RawData, content_digest

METADATA_FILE = "metadata.csv"
_IGNORED = ("Thumbs.db", "desktop.ini")

_TO_GREY = ("1", "LA")
_TO_COLOUR = ("P", "PA", "RGBA", "CMYK", "YCbCr")
"""Pillow's image modes that are turned into 8-bit grey or colour; transparency is dropped."""


@dataclass(frozen=True)
class ImageFile:
    """One image: its path relative to the data directory (with slashes; also its id), its part and class."""

    path: str
    part: str
    class_name: str


def read_folder(data_dir: str | None, progress: bool = True) -> RawData:
    """The images below `data_dir`, pixels 0 to 255: one channel if all of them are grey, else three.

    A `validation/<class>/*` beside train and test is used if it is there. Hidden files are ignored;
    everything else in a class folder must be an image, and all images must have one size. Columns of
    `metadata.csv` become metadata (see `read_metadata`). Decoded images are cached; a changed name, size or
    time of a file, or of the metadata, decodes them again. Raises `UserError`, which names the file, for
    whatever is wrong.
    """
    if data_dir is None:
        raise UserError("The task folder needs a data directory with train/<class>/* and test/<class>/* images.")
    root = Path(data_dir).expanduser().resolve()
    images = sorted(_images(root), key=attrgetter("path"))
    _check_parts(root, images)
    names = [image.path for image in images]
    metadata = root / METADATA_FILE
    if metadata.is_file():
        names.append(METADATA_FILE)
    elif metadata.exists():  # a pipe would be waited for
        raise UserError(f"{metadata} is not a regular file: replace it, or remove it.")
    return cached(
        f"folder-{short_digest(str(root))}",
        stat_key(root, names),
        lambda: _build(root, images, progress),
    )


def _images(root: Path) -> Iterator[ImageFile]:
    """Every image below `root`."""
    for part in PARTS:
        for class_folder in _entries(root / part):
            if not class_folder.is_dir():
                continue
            for entry in _entries(class_folder.path):
                if entry.is_dir():
                    raise UserError(
                        f"{entry.path} is a folder inside the class folder {class_folder.name}: images must "
                        f"lie directly in {part}/<class>/."
                    )
                yield ImageFile(f"{part}/{class_folder.name}/{entry.name}", part, class_folder.name)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, but for hidden files; nothing if there is no such folder."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in _IGNORED]


def _check_parts(root: Path, images: Sequence[ImageFile]) -> None:
    for part in ("train", "test"):
        if not any(image.part == part for image in images):
            raise UserError(f"There are no images in {root / part}: put them there, into a folder for each class.")
    classes = {image.class_name for image in images if image.part == "train"}
    if len(classes) < 2:
        raise UserError(f"{root / 'train'} has images of one class only: at least two classes are needed.")
    for image in images:
        if image.class_name not in classes:
            raise UserError(f"{root / image.path} is of the class {image.class_name}, which has no images in train/.")


def _build(root: Path, images: Sequence[ImageFile], progress: bool) -> RawData:
    metadata = root / METADATA_FILE
    ids = [image.path for image in images]
    columns = read_metadata(metadata, ids) if metadata.is_file() else {}  # first, because it is quick to fail
    classes = sorted({image.class_name for image in images}, key=_class_order)
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[image.class_name] for image in images], dtype=np.int64)
    pixels = _decode_all([f"{root}/{path}" for path in ids], progress)
    return RawData(
        pixels=pixels,
        labels=labels,
        image_ids=np.array(ids),
        parts=np.array([image.part for image in images]),
        classes=tuple(classes),
        content_sha256=content_digest(pixels, labels),
        columns=columns,
    )


def _class_order(name: str) -> tuple[bool, int, str]:
    """Numbers first and by value, so that class "10" comes after class "9"; then the other names."""
    is_number = name.isascii() and name.isdigit()
    return (not is_number, int(name) if is_number else 0, name)


def _decode_all(files: Sequence[str], progress: bool) -> np.ndarray:
    """The pixels of all files, uint8 `(n, C, H, W)`."""
    images = list(_decode_in_threads(files, progress))  # (H, W) or (H, W, 3) each
    for file, image in zip(files, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            raise UserError(
                f"{file} is {_size(image)} pixels and {files[0]} is {_size(images[0])}: bring all images to one size."
            )
    if all(image.ndim == 2 for image in images):
        return np.stack(images)[:, np.newaxis]
    pixels = np.empty((len(images), 3, *images[0].shape[:2]), dtype=np.uint8)
    for row, image in zip(pixels, images, strict=True):
        row[:] = image if image.ndim == 2 else image.transpose(2, 0, 1)
    return pixels


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _decode_in_threads(files: Sequence[str], progress: bool, chunk: int = 256) -> Iterator[np.ndarray]:
    """The decoded files in order, with a progress bar on standard error if it takes more than two seconds."""
    chunks = [files[start : start + chunk] for start in range(0, len(files), chunk)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        decoded = threads.map(lambda some: [_decode(file) for file in some], chunks)
        try:
            yield from with_bar(chain.from_iterable(decoded), "decoding", progress, total=len(files))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # after an error, the rest is not wanted


def _decode(file: str) -> np.ndarray:
    """One image as 8-bit grey `(H, W)` or colour `(H, W, 3)`."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode in _TO_GREY:
                return np.asarray(image.convert("L"))
            if image.mode in _TO_COLOUR:
                return np.asarray(image.convert("RGB"))
            if image.mode in ("L", "RGB"):
                return np.asarray(image)
            mode = image.mode
    # Pillow's decoders raise these for files that are no images, are cut short, or are absurdly large.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as an image ({error}): repair or remove it.") from error
    raise UserError(f"{file} has pixels of the kind {mode}: save it as an 8-bit grey or colour image.")
