"""Lists of images, by index or id, in files that somebody else may have written: `.npy`, `.npz`, `.csv`, and others.

All are read with limits, and nothing is unpickled.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.arrays import ArrayError, read_array, read_arrays
from data.documents import DocumentError, parse_json, read_text
from data.errors import shortened
from data.texts import lines_of_file
from data.weights import WeightsError, load_tensors

NAMES = ("image_id", "image_ids", "id", "ids", "path", "paths", "index", "indices", "forget_indices", "forget")
"""What a column or entry is called that is the list, where there are others. The first that is there counts."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,19}")


class ListError(ValueError):
    """The file holds no such list; the message says why, without the name of the file."""


def read_list(path: Path, most_bytes: int) -> np.ndarray:
    """The numbers or texts in a file: an array as it is in a `.npy`; of other kinds of files int64 or str `(n,)`.

    Raises:
        OSError: as for any file.
        ListError: it is none of the kinds that `READERS` has, damaged, has no list, or more than `most_bytes`.
    """
    reader = READERS.get(path.suffix.lower(), read_array)
    try:
        return reader(path, most_bytes)
    except (ArrayError, DocumentError) as error:
        raise ListError(str(error)) from error
    except WeightsError as error:
        raise ListError(f"it {error}") from error


def _from_npz(path: Path, most_bytes: int) -> np.ndarray:
    return np.asarray(_chosen(read_arrays(path, most_bytes)))


def _from_json(path: Path, most_bytes: int) -> np.ndarray:
    return _array(_chosen(parse_json(_text(path, most_bytes))))


def _from_tensors(path: Path, most_bytes: int) -> np.ndarray:
    import torch

    if not path.is_file() and path.exists():
        raise ListError("it is not a regular file")
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ListError(f"it has more than {most_bytes:,} bytes")
    values = _chosen(load_tensors(data))
    if not isinstance(values, torch.Tensor):
        return _array(values)
    if values.layout != torch.strided or values.device.type != "cpu" or values.numel() * 8 > most_bytes:
        raise ListError("it has an unusual kind of tensor")
    try:
        return values.detach().numpy()
    except (RuntimeError, TypeError) as error:
        raise ListError("it has an unusual kind of tensor") from error


def _from_text(path: Path, most_bytes: int) -> np.ndarray:
    """One a line, or whole numbers between spaces or commas. What follows a # at the beginning of a line is no line."""
    lines = [line.strip() for line in lines_of_file(_text(path, most_bytes))]
    lines = [line for line in lines if line and not line.startswith("#")]
    parts = [part for line in lines for part in re.split(r"[\s,;]+", line.strip("[]()")) if part]
    return _array(parts if all(_is_number(part) for part in parts) else lines)


def _from_csv(path: Path, most_bytes: int) -> np.ndarray:
    """A column, with or without a header: the only one, or the one that is called as a list is (see `NAMES`)."""
    text = _text(path, most_bytes)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [[cell.strip() for cell in row] for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ListError(f"it is not a CSV file: {error}") from error
    if not rows:
        return np.empty(0, dtype=np.int64)
    header = [cell.lower() for cell in rows[0]]
    column = next((header.index(name) for name in NAMES if name in header), None)
    if column is None:
        if len(rows) == 1 and all(map(_is_number, rows[0])):
            return _array(rows[0])
        # pandas puts a column without a name before the others: the numbers of the rows
        unnamed = [place for place, name in enumerate(header) if name or len(header) == 1]
        if len(unnamed) != 1:
            names = shortened(", ".join(rows[0]), 200)
            raise ListError(f"it has several columns, {names}: call the one that counts image_id or index")
        column = unnamed[0]
        has_header = len(header) > 1 or (not _is_number(header[0]) and all(_is_number(row[0]) for row in rows[1:]))
        rows = rows[1 if has_header and len(rows) > 1 else 0 :]
    else:
        rows = rows[1:]
    return _array([row[column] for row in rows if column < len(row) and row[column]])


READERS: dict[str, Callable[[Path, int], np.ndarray]] = {
    ".npy": read_array,
    ".npz": _from_npz,
    ".csv": _from_csv,
    ".tsv": _from_csv,
    ".txt": _from_text,
    ".json": _from_json,
    ".pt": _from_tensors,
    ".pth": _from_tensors,
}
"""By the end of a file's name, in small letters. Any other file is taken for a `.npy`."""


def _text(path: Path, most_bytes: int) -> str:
    return read_text(path, most_bytes).removeprefix("\ufeff")


def _is_number(text: str) -> bool:
    """Whether it is a number, as numpy.savetxt writes whole ones, too: 1.200000000000000000e+01."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # which Python passes over


def _chosen(values: Any) -> Any:
    """The list itself, or the one in a dict: the only one, or the one that is called as a list is."""
    if not isinstance(values, dict):
        return values
    lists = {str(name): value for name, value in values.items() if not isinstance(value, (str, int, float, dict))}
    name = next((name for name in NAMES if name in lists), None)
    if name is None and len(lists) == 1:
        (name,) = lists
    if name is None:
        names = shortened(", ".join(map(str, values)), 200)
        raise ListError(f"it has the entries {names}: call the one that counts image_ids or indices")
    return lists[name]


def _array(values: Any) -> np.ndarray:
    """Whole numbers as int64, texts as str, `(n,)`."""
    if not isinstance(values, (list, tuple)):
        raise ListError("it has no list")
    if all(isinstance(value, str) for value in values) and not all(map(_is_number, values)):
        return np.array(values, dtype=np.str_)
    return np.array(_whole_numbers(values), dtype=np.int64)


def _whole_numbers(values: Sequence[Any]) -> list[int]:
    numbers = []
    for value in values:
        text = str(value)
        if isinstance(value, bool) or not isinstance(value, (int, float, str)) or len(text) > 40:
            raise ListError(f"{shortened(text)} is neither an index nor an id")
        if _WHOLE.fullmatch(text):
            number: float = int(text)
        elif _is_number(text):
            number = float(text)
        else:
            raise ListError(f"it has numbers and texts, {shortened(text)!r} for example: give indices or ids")
        if not abs(number) < 2**62 or int(number) != number:
            raise ListError(f"{shortened(text)} is not a whole number")
        numbers.append(int(number))
    return numbers
