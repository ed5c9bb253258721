"""`metadata.csv`: what is known of each image besides its class."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from data.errors import UserError, shortened
from data.texts import nfc

if TYPE_CHECKING:
    import pandas as pd

RESERVED = ("image", "image_id", "age_group", "label", "class_name")
"""Names that batches and `where:` expressions give to other things; no metadata column may have them."""


MOST_CELL = 10_000
"""Characters of a cell. NumPy gives each text of a column as much room as its longest needs."""
MOST_BYTES_A_COLUMN = 1 << 30
"""Of a column of texts in memory: with many images, cells may be less long."""
MOST_COLUMNS = 1000
MOST_LINE = 1 << 24
"""Characters of a line that is looked at, to name what is too long in it."""
MOST_BYTES, MOST_BYTES_A_ROW = 64 << 20, 4096
"""Of the file; the second for each image."""


def read_metadata(file: Path, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of a CSV file, each `(n,)` in the order of `image_ids`.

    The column `path` (relative to the data directory) says which image a row is about; every image needs
    exactly one row. A column of whole numbers becomes int64, of numbers (or with gaps) float64, of true/false
    bool, and anything else str. An empty cell is NaN in a column of numbers and "" in a column of text.
    Raises `UserError`, which names the file and its row (row 1 is the first below the header; blank lines do
    not count).
    """
    table = _read_csv(file, len(image_ids))
    if "path" not in table.columns:
        columns = shortened(", ".join(map(str, table.columns)), 300)
        raise UserError(f"{file} has no column path: its columns are {columns}.")
    for name in RESERVED:
        if name in table.columns:
            raise UserError(f"{file} has a column {name}, a name that is taken: rename the column.")
    paths = [nfc(str(path)).replace("\\", "/").removeprefix("./") for path in table["path"]]
    order = _rows_of(paths, image_ids, file)
    return {nfc(str(name)): _array(table[name])[order] for name in table.columns if name != "path"}


def _read_csv(file: Path, images: int) -> pd.DataFrame:
    import pandas as pd

    try:
        most = max(MOST_BYTES, MOST_BYTES_A_ROW * images)
        if file.stat().st_size > most:
            raise UserError(f"{file} has more than {most >> 20} MB, too much for {images} images: remove columns.")
        _check_cells(file, images)
        # Only an empty cell is missing: "NA" and "None" are somebody's names.
        return pd.read_csv(file, keep_default_na=False, na_values=[""], dtype={"path": str})
    except (OSError, ValueError, csv.Error) as error:  # pandas' parser errors and undecodable text are ValueErrors
        raise UserError(f"{file} cannot be read as a CSV file ({' '.join(str(error).split())}).") from error


def _check_cells(file: Path, images: int) -> None:
    """Refuse what would fill the memory: many columns, and long cells, for each of which all others get as much room.

    Raises:
        UserError: it names the row and the column.
        ValueError, OSError, csv.Error: it can't be read.
    """
    usual = csv.field_size_limit(MOST_LINE)
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = filter(None, csv.reader(_lines(opened)))
            columns = next(rows, [""])
            if len(columns) > MOST_COLUMNS:
                raise UserError(f"{file} has {len(columns)} columns, and may have {MOST_COLUMNS}: remove some.")
            longest = min(MOST_CELL, MOST_BYTES_A_COLUMN // (4 * max(images, 1)))
            for number, row in enumerate(chain([columns], rows)):
                _check_row(row, columns, number, longest, file)
    finally:
        csv.field_size_limit(usual)


def _check_row(row: Sequence[str], columns: Sequence[str], number: int, longest: int, file: Path) -> None:
    """A row, or the header as row 0, has a cell for each column at most, and no cell that is too long."""
    if len(row) > len(columns):
        raise ValueError(f"row {number} has {len(row)} cells, and there are {len(columns)} columns")
    if len(max(row, key=len)) > longest:
        place = next(place for place, cell in enumerate(row) if len(cell) > longest)
        where = f"row {number}, column {shortened(columns[place])}" if number else f"the name of column {place + 1}"
        raise UserError(
            f"{file}, {where}: the cell has {len(row[place])} characters, and may have {longest}; shorten it. (Or is a "
            "quotation mark not closed?)"
        )


def _lines(opened: TextIO) -> Iterator[str]:
    """The lines of a file, of which none may be endless."""
    number = 0
    while line := opened.readline(MOST_LINE):
        number += 1
        if len(line) == MOST_LINE:
            raise ValueError(f"line {number} has more than {MOST_LINE >> 20} million characters")
        if "\0" in line:
            raise ValueError(f"line {number} has a NUL byte")
        yield line


def _rows_of(paths: Sequence[str], image_ids: Sequence[str], file: Path) -> np.ndarray:
    """For each image the number of its row, int64 `(n,)`."""
    known = set(image_ids)
    row_of: dict[str, int] = {}
    for row, path in enumerate(paths):
        if path not in known:
            raise UserError(f"{file}, row {row + 1}: there is no image {shortened(path, 300)} in {file.parent}.")
        if path in row_of:
            raise UserError(f"{file}, row {row + 1}: {path} has a row already, row {row_of[path] + 1}.")
        row_of[path] = row
    for image in image_ids:
        if image not in row_of:
            raise UserError(f"{file} has no row for {image}: every image needs one.")
    return np.array([row_of[image] for image in image_ids], dtype=np.int64)


def _array(column: pd.Series) -> np.ndarray:
    """The values of a column as int64, float64, bool or str."""
    kinds: dict[str, type] = {"b": np.bool_, "i": np.int64, "f": np.float64}
    if column.dtype.kind in kinds:
        return column.to_numpy(dtype=kinds[column.dtype.kind])
    return np.array(["" if missing else nfc(str(value)) for value, missing in zip(column, column.isna(), strict=True)])
