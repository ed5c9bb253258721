"""The competition's own folder layout, read as a data set and written.

| file | contents |
|---|---|
| `retain.csv`, `forget.csv` | the training images to keep and to forget |
| `validation.csv`, `test.csv` | images that no model is trained on; Kaggle kept the test set to itself |
| `images/<a>/<b>.png` | the image with the id `<a>-<b>`, 8-bit, all of one size |
| `original_model.pth` | the original model on Kaggle; not read here, because a grading trains its own originals |

Each CSV file has the columns `image_id`, `age_group` (the class, 0 to 9), `age` and `person_id`.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.cache import cached, short_digest, stat_key
from data.errors import UserError
from data.files import write_atomically
from data.progress import with_bar
from data.raw import RawData, content_digest

COLUMNS = ("image_id", "age_group", "age", "person_id")
CLASSES = tuple("0123456789")

PART_OF = {"retain": "train", "forget": "train", "validation": "validation", "test": "test"}
"""The part of a `RawData` that the images of each CSV file (named without `.csv`) belong to."""

MOST_CELL = 200
"""Characters of a cell: NumPy gives each text of a column as much room as its longest needs."""

FORGET_COLUMN = "in_forget_csv"
"""Metadata column, bool: whether an image is one of those that the folder itself wants forgotten."""

FORGET_REQUEST = f"where:{FORGET_COLUMN}"
"""The forget request that names exactly the rows of `forget.csv`."""

_IMAGE_ID = re.compile(r"[0-9A-Za-z_]+-[0-9A-Za-z_]+")


# ----------------------------------------------------------------------------------------------------------------------
# Reading
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One row of a CSV file, checked. `where` names the file and the row, for messages."""

    where: str
    table: str
    image_id: str
    age_group: int
    age: float
    person_id: str

    @property
    def path(self) -> str:
        """Where the image is, relative to the folder. The rows of a table are in the order of this."""
        return image_path(self.image_id)


def image_path(image_id: str) -> str:
    """`images/<a>/<b>.png` of the id `<a>-<b>`."""
    directory, _, name = image_id.partition("-")
    return f"images/{directory}/{name}.png"


def read_kaggle(data_dir: str | None, progress: bool = True) -> RawData:
    """The images of a folder in the competition's layout (see the module), pixels 0 to 255.

    They are in the order of their paths, which is the order that the competition's notebook gives to the rows
    of each CSV file; so a loader over the retain set visits the images that a notebook's would. Metadata:
    `age`, `person_id` (int64 where all are whole numbers) and `in_forget_csv`. Decoded images are cached; a
    changed name, size or time of a file decodes them again. Raises `UserError`, which names the file and its
    row (row 1 is the first below the header; blank lines do not count), for whatever is wrong.
    """
    if data_dir is None:
        raise UserError(
            "The task kaggle needs a data directory in the competition's layout: --data-dir DIR, with retain.csv, "
            "forget.csv, validation.csv, test.csv and images/."
        )
    root = Path(data_dir).expanduser().resolve()
    _check_files(root)
    names = [f"{table}.csv" for table in PART_OF] + sorted(_image_files(root))
    return cached(f"kaggle-{short_digest(str(root))}", stat_key(root, names), lambda: _build(root, progress))


def _check_files(root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"There is no folder {root}: name one in the competition's layout.")
    for table in PART_OF:
        if (root / f"{table}.csv").is_file():
            continue
        if table == "test":
            raise UserError(
                f"{root} has no test.csv: Kaggle kept its test set to itself, and a grading needs one, so add rows "
                "of the same columns and their images."
            )
        raise UserError(f"{root} has no {table}.csv: the competition's layout needs it.")
    if not (root / "images").is_dir():
        raise UserError(f"{root} has no folder images: the images must be at images/<a>/<b>.png.")


def _image_files(root: Path) -> Iterator[str]:
    """Every file at `images/*/*`, relative to `root`."""
    with os.scandir(root / "images") as folders:
        for folder in folders:
            if folder.is_dir():
                with os.scandir(folder.path) as files:
                    yield from (f"images/{folder.name}/{file.name}" for file in files if file.is_file())


def _build(root: Path, progress: bool) -> RawData:
    tables = [_read_table(root, table) for table in PART_OF]
    rows = sorted((row for table in tables for row in table), key=lambda row: row.path)
    _check_unique(rows)
    labels = np.array([row.age_group for row in rows], dtype=np.int64)
    pixels = _decode_all(root, rows, progress)
    return RawData(
        pixels=pixels,
        labels=labels,
        image_ids=np.array([row.image_id for row in rows]),
        parts=np.array([PART_OF[row.table] for row in rows]),
        classes=CLASSES,
        content_sha256=content_digest(pixels, labels),
        columns={
            "age": _whole(np.array([row.age for row in rows])),
            "person_id": _numbers([row.person_id for row in rows]),
            FORGET_COLUMN: np.array([row.table == "forget" for row in rows]),
        },
    )


def _read_table(root: Path, table: str) -> list[Row]:
    path = root / f"{table}.csv"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path} has no column {missing[0]}: the layout needs {', '.join(COLUMNS)}.")
            rows = [_parse_row(path, table, number, values) for number, values in enumerate(reader, start=1)]
    except (OSError, ValueError, csv.Error) as error:  # undecodable text is a ValueError
        raise UserError(f"{path} cannot be read as a CSV file ({error}).") from error
    if not rows:
        raise UserError(f"{path} has no rows: every set of the layout needs at least one image.")
    return rows


def _parse_row(path: Path, table: str, number: int, values: Mapping[str, Any]) -> Row:
    where = f"{path}, row {number}"
    for column in COLUMNS:
        if not (values[column] or "").strip():  # None where the row is too short
            raise UserError(f"{where}: {column} is empty; every image needs one.")
        if len(values[column]) > MOST_CELL:
            raise UserError(f"{where}: {column} has {len(values[column])} characters, and may have {MOST_CELL}.")
    image_id, age_group, age, person_id = (values[column].strip() for column in COLUMNS)
    if not _IMAGE_ID.fullmatch(image_id):
        raise UserError(f"{where}: image_id {image_id!r} is not of the form <a>-<b>, two words of letters and digits.")
    if _as_int(age_group) not in range(len(CLASSES)):
        raise UserError(f"{where}: age_group {age_group!r} is not a class, a whole number from 0 to 9.")
    if not math.isfinite(_as_float(age)):
        raise UserError(f"{where}: age {age!r} is not a finite number.")
    if person_id.lower() == "nan":
        raise UserError(f"{where}: person_id {person_id!r} names nobody; every image needs a person.")
    return Row(where, table, image_id, int(age_group), float(age), person_id)


def _as_int(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else None


def _as_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _check_unique(rows: Iterable[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        if row.image_id in first:
            raise UserError(f"{row.where}: {row.image_id} has a row already: {first[row.image_id].where}.")
        first[row.image_id] = row


def _numbers(texts: Sequence[str]) -> np.ndarray:
    """int64 if all texts are whole numbers, else str."""
    numbers = [number for number in map(_as_int, texts) if number is not None]
    return np.array(numbers, dtype=np.int64) if len(numbers) == len(texts) else np.array(texts)


def _whole(values: np.ndarray) -> np.ndarray:
    """int64 if all values are whole numbers (that it can hold), else float64."""
    is_whole = (values == np.round(values)) & (np.abs(values) < 2**53)
    return values.astype(np.int64) if is_whole.all() else values


def _decode_all(root: Path, rows: Sequence[Row], progress: bool) -> np.ndarray:
    """The pixels of all rows, uint8 `(n, C, H, W)`; C is 1 if all images are grey, 3 if all are coloured."""
    first = _decode(root, rows[0])
    pixels = np.empty((len(rows), *first.shape), dtype=np.uint8)
    for i, row in with_bar(list(enumerate(rows)), "decoding", progress):
        image = _decode(root, row)
        if image.shape != first.shape:
            raise UserError(
                f"{row.where}: {row.path} is {_describe(image)} and {rows[0].path} is {_describe(first)}; "
                "all images must be of one size and kind."
            )
        pixels[i] = image
    return pixels


def _decode(root: Path, row: Row) -> np.ndarray:
    """One image, uint8 `(C, H, W)`."""
    from PIL import Image

    file = root / row.path
    try:
        with Image.open(file) as image:
            if image.mode not in ("L", "RGB"):
                raise UserError(f"{row.where}: {file} has pixels of the kind {image.mode}: save it as 8-bit RGB.")
            pixels = np.asarray(image)
    except FileNotFoundError:
        raise UserError(f"{row.where}: there is no image {file}.") from None
    # Pillow's decoders raise these for files that are no images, are cut short, or are absurdly large.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{row.where}: {file} cannot be read as an image ({error}).") from error
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _describe(image: np.ndarray) -> str:
    channels, height, width = image.shape
    return f"{width} x {height} {'grey' if channels == 1 else 'RGB'}"


# ----------------------------------------------------------------------------------------------------------------------
# Writing
# ----------------------------------------------------------------------------------------------------------------------


def write_layout(folder: Path, parts: Mapping[str, Mapping[str, np.ndarray]], progress: bool = True) -> None:
    """Write images and their tables into `folder` in the competition's layout, which `read_kaggle` reads.

    `parts` has the names of the tables ("retain", "forget", "validation" and, to be graded on, "test"), and
    for each of them "pixels", uint8 `(n, C, H, W)` with 1 or 3 channels, and the columns "image_id" (str,
    `<a>-<b>`), "age_group", "age" and "person_id", `(n,)` each. Rows are written in the order of their paths,
    as on Kaggle. `original_model.pth` is up to the caller: `torch.save(network.state_dict(), folder / ...)`.
    The tables are written after the images, so that a folder which has them is whole.

    Raises:
        ValueError: an unknown part, a missing column, pixels of another type, or an id of another form.
    """
    for name, part in parts.items():
        _check_part(name, part)
    images = [(image_id, pixels) for part in parts.values() for image_id, pixels in _images_of(part)]
    for directory in {Path(image_path(image_id)).parent for image_id, _ in images}:
        (folder / directory).mkdir(parents=True, exist_ok=True)
    for image_id, pixels in with_bar(images, "writing", progress):
        _write_image(folder / image_path(image_id), pixels)
    for name, part in parts.items():
        write_atomically(folder / f"{name}.csv", lambda beside, part=part: _write_table(beside, part))  # type: ignore[misc]


def _check_part(name: str, part: Mapping[str, np.ndarray]) -> None:
    if name not in PART_OF:
        raise ValueError(f"{name!r} is no table of the layout: {', '.join(PART_OF)}")
    pixels = part["pixels"]
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise ValueError(f"{name}: pixels must be uint8 (n, 1 or 3, H, W), not {pixels.dtype} {pixels.shape}")
    for column in COLUMNS:
        if column not in part or len(part[column]) != len(pixels):
            raise ValueError(f"{name}: {column} must have one value for each of the {len(pixels)} images")
    for image_id in part["image_id"]:
        if not _IMAGE_ID.fullmatch(image_id):
            raise ValueError(f"{name}: image_id {image_id!r} is not of the form <a>-<b>")


def _images_of(part: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    return zip(part["image_id"], part["pixels"], strict=True)


def _write_image(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    image = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)  # (H, W) or (H, W, 3)
    # The least compression: at this size it costs a few per cent of space and saves half the time.
    Image.fromarray(np.ascontiguousarray(image)).save(path, compress_level=1)


def _write_table(path: Path, part: Mapping[str, np.ndarray]) -> None:
    order = sorted(range(len(part["image_id"])), key=lambda i: image_path(str(part["image_id"][i])))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([part[column][i] for column in COLUMNS] for i in order)
