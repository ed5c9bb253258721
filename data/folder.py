"""A data set that is a folder of images: `train/<class>/*`, `test/<class>/*`, and perhaps `metadata.csv`.

Ids of images and names of classes are in Unicode's NFC, whichever form the names of files and folders have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.cache import cached, short_digest, stat_key
from data.errors import UserError
from data.metadata import read_metadata
from data.progress import with_bar
from data.raw import PARTS, RawData, content_digest
from data.texts import nfc, printable

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

METADATA_FILE = "metadata.csv"
_IGNORED = ("Thumbs.db", "desktop.ini", "__MACOSX")

PART_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What the folder of a part may be called, in letters of any case."""

MOST_NAMED = 5
"""Of what is not used, in a message."""

_CONTENT = 2
"""Version of what is made of the same files. In 2, images stand upright, and names are in NFC."""

_ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""

_TO_GREY = ("1", "LA")
_TO_COLOUR = ("P", "PA", "RGBA", "CMYK", "YCbCr")
"""Pillow's image modes that are turned into 8-bit grey or colour; transparency is dropped."""


@dataclass(frozen=True)
class ImageFile:
    """One image: its path relative to the data directory (with slashes), the same as its id, its part and class."""

    path: str
    image_id: str
    part: str
    class_name: str


@dataclass(frozen=True)
class Layout:
    """What is in a data directory: the folder of each part, all images, and what is not used, for a message."""

    folders: dict[str, str]
    images: list[ImageFile]
    unused: list[str]


def read_folder(data_dir: str | None, progress: bool = True) -> RawData:
    """The images below `data_dir`, pixels 0 to 255: one channel if all of them are grey, else three.

    A `validation/<class>/*` (or `val`, `valid`) beside train and test is used if it is there. Hidden files are ignored;
    everything else in a class folder must be an image, and all images must have one size, after those that a camera has
    stored lying on their side are turned upright. Columns of `metadata.csv` become metadata (see `read_metadata`).
    Decoded images are cached; a changed name, size or time of a file, or of the metadata, decodes them again. Raises
    `UserError`, which names the file, for whatever is wrong.
    """
    if data_dir is None:
        raise UserError("The task folder needs a data directory with train/<class>/* and test/<class>/* images.")
    root = Path(data_dir).expanduser().resolve()
    _check_name(str(root))
    layout = _layout(root)
    images = layout.images
    _check_parts(root, layout)
    names = [image.path for image in images]
    metadata = root / METADATA_FILE
    if metadata.is_file():
        names.append(METADATA_FILE)
    elif os.path.lexists(metadata):  # a pipe would be waited for; a link may lead nowhere
        raise UserError(f"{metadata} is not a regular file: replace it, or remove it.")
    raw = cached(
        f"folder-{short_digest(str(root))}",
        f"{stat_key(root, names)} {_CONTENT}",
        lambda: _build(root, images, progress),
    )
    return replace(raw, remarks=_remarks(layout))


def _layout(root: Path) -> Layout:
    """What lies below `root`; images in the order of their ids."""
    layout = Layout({}, [], [])
    for entry in _entries(root):
        part = PART_FOLDERS.get(entry.name.lower())
        if part is None:
            if os.path.isdir(entry.path):
                layout.unused.append(f"{printable(entry.name)}/")
        elif not _is_folder(entry):
            continue
        elif part in layout.folders:
            raise UserError(
                f"{root} has two folders for {part}, {layout.folders[part]}/ and {entry.name}/: put all images into "
                "one of them."
            )
        else:
            layout.folders[part] = entry.name
    for part, folder in layout.folders.items():
        layout.images.extend(_images_of(root / folder, part, layout.unused))
    if "validation" in layout.folders and not any(image.part == "validation" for image in layout.images):
        layout.unused.append(f"{layout.folders.pop('validation')}/ (no images)")
    layout.images.sort(key=attrgetter("image_id"))
    for one, other in pairwise(layout.images):
        if one.image_id == other.image_id:  # their names differ in bytes alone
            raise UserError(f"{root / one.path} is there twice, with accents in two forms of Unicode: rename one.")
    return layout


def _images_of(folder: Path, part: str, unused: list[str]) -> Iterator[ImageFile]:
    """Every image of a part; what is there besides is added to `unused`."""
    loose = []
    for class_folder in _entries(folder):
        if not _is_folder(class_folder):
            loose.append(f"{folder.name}/{printable(class_folder.name)}")
            continue
        entries = _entries(class_folder.path)
        if not entries:
            unused.append(f"{folder.name}/{printable(class_folder.name)}/ (empty)")
        for entry in entries:
            _check_name(entry.path)
            if _is_folder(entry):
                raise UserError(
                    f"{entry.path} is a folder inside the class folder {class_folder.name}: images must "
                    f"lie directly in {folder.name}/<class>/."
                )
            _check_file(entry)
            path = f"{folder.name}/{class_folder.name}/{entry.name}"
            yield ImageFile(path, nfc(path), part, nfc(class_folder.name))
    if loose:
        more = f" and {len(loose) - 1} more files" if len(loose) > 1 else ""
        unused.append(f"{min(loose)}{more} (in no class folder)")


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, but for hidden files, in the order of names; nothing if there is no such folder."""
    if not os.path.isdir(folder):
        return []
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in _IGNORED]
    except OSError as error:
        raise UserError(
            f"{printable(str(folder))} can't be read ({error.strerror}): allow it, or remove it."
        ) from error
    return sorted(found, key=attrgetter("name"))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one. Raises `UserError` for a link that leads nowhere."""
    try:
        if entry.is_symlink():
            os.stat(entry.path)
        return entry.is_dir()
    except OSError as error:
        raise UserError(
            f"{printable(entry.path)} is a link that leads nowhere ({error.strerror}): repair or remove it."
        ) from error


def _check_file(entry: os.DirEntry[str]) -> None:
    """Raise `UserError` for what can't be read as a file is: a pipe would be waited for."""
    if not entry.is_file():
        raise UserError(f"{entry.path} is not a regular file: replace it with an image, or remove it.")


def _check_name(path: str) -> None:
    """Raise `UserError` for a name that no text can show: ids and reports are texts."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The name {printable(path)} has a byte that is not UTF-8 (shown as \ufffd): rename it."
        ) from error


def _remarks(layout: Layout) -> tuple[str, ...]:
    """Where the images of each part are from, and what is not used."""
    folders = {part: f"{layout.folders[part]}/" for part in PARTS if part in layout.folders}
    where = folders.get("validation", f"a tenth of {folders['train']}")
    used = f"train from {folders['train']}, validation from {where}, test from {folders['test']}"
    some = ", ".join(layout.unused[:MOST_NAMED]) + ", ..." * (len(layout.unused) > MOST_NAMED)
    return (f"images: {used}" + (f"; not used: {some}" if some else ""),)


def _check_parts(root: Path, layout: Layout) -> None:
    images = layout.images
    for part in ("train", "test"):
        if not any(image.part == part for image in images):
            folder = root / layout.folders.get(part, part)
            raise UserError(f"There are no images in {folder}: put them there, into a folder for each class.")
    classes = {image.class_name for image in images if image.part == "train"}
    if len(classes) < 2:
        train = root / layout.folders["train"]
        raise UserError(f"{train} has images of one class only: at least two classes are needed.")
    for image in images:
        if image.class_name not in classes:
            raise UserError(f"{root / image.path} is of the class {image.class_name}, which has no images in train/.")


def _build(root: Path, images: Sequence[ImageFile], progress: bool) -> RawData:
    metadata = root / METADATA_FILE
    ids = [image.image_id for image in images]
    columns = read_metadata(metadata, ids) if metadata.is_file() else {}  # first, because it is quick to fail
    classes = sorted({image.class_name for image in images}, key=_class_order)
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[image.class_name] for image in images], dtype=np.int64)
    pixels = _decode_all([f"{root}/{image.path}" for image in images], progress)
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
            mode = "L" if image.mode in _TO_GREY else "RGB" if image.mode in _TO_COLOUR else image.mode
            if mode in ("L", "RGB"):
                return np.asarray(_upright(image).convert(mode))
    # Pillow's decoders raise these for files that are no images, are cut short, or are absurdly large.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as an image ({error}): repair or remove it.") from error
    raise UserError(f"{file} has pixels of the kind {mode}: save it as an 8-bit grey or colour image.")


def _upright(image: PilImage) -> PilImage:
    """The image as a viewer shows it: turned or mirrored as its EXIF orientation says, if it has one."""
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # of damaged metadata: the pixels are whole all the same, and Pillow raises many kinds of errors
        return image
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image
