"""`metadata.csv`: what is known of each image besides its class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

RESERVED = ("image", "image_id", "age_group", "label", "class_name")
"""Names that batches and `where:` expressions give to other things; no metadata column may have them."""


def read_metadata(file: Path, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of a CSV file, each `(n,)` in the order of `image_ids`.

    The column `path` (relative to the data directory) says which image a row is about; every image needs
    exactly one row. A column of whole numbers becomes int64, of numbers (or with gaps) float64, of true/false
    bool, and anything else str. An empty cell is NaN in a column of numbers and "" in a column of text.
    Raises `UserError`, which names the file and its row (row 1 is the first below the header; blank lines do
    not count).
    """
    table = _read_csv(file)
    if "path" not in table.columns:
        raise UserError(f"{file} has no column path: its columns are {', '.join(map(str, table.columns))}.")
    for name in RESERVED:
        if name in table.columns:
            raise UserError(f"{file} has a column {name}, a name that is taken: rename the column.")
    paths = [str(path).replace("\\", "/").removeprefix("./") for path in table["path"]]
    order = _rows_of(paths, image_ids, file)
    return {str(name): _array(table[name])[order] for name in table.columns if name != "path"}


def _read_csv(file: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        # Only an empty cell is missing: "NA" and "None" are somebody's names.
        return pd.read_csv(file, keep_default_na=False, na_values=[""], dtype={"path": str})
    except (OSError, ValueError) as error:  # pandas' parser errors and undecodable text are ValueErrors
        raise UserError(f"{file} cannot be read as a CSV file ({str(error).strip()}).") from error


def _rows_of(paths: Sequence[str], image_ids: Sequence[str], file: Path) -> np.ndarray:
    """For each image the number of its row, int64 `(n,)`."""
    known = set(image_ids)
    row_of: dict[str, int] = {}
    for row, path in enumerate(paths):
        if path not in known:
            raise UserError(f"{file}, row {row + 1}: there is no image {path} in {file.parent}.")
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
    return np.array(["" if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)])
