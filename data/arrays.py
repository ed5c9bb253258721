"""Arrays in files that somebody else may have written: `.npy` and `.npz`, read with limits and without unpickling.

What a file says of itself is compared with its size before memory is asked for: a header of a few bytes can promise
terabytes, and a compressed part of a zip can become them. `numpy.load` believes both.
"""

from __future__ import annotations

import hashlib
import math
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from data.files import write_arrays

SEAL = "sha256"
"""The name of the array, in a sealed file, that holds the digest of all others."""

MOST_DIMENSIONS = 32
"""NumPy's own limit, before version 2."""


class ArrayError(ValueError):
    """The file holds no such arrays; the message says why, without the name of the file."""


def read_array(path: Path, most_bytes: int) -> np.ndarray:
    """The array in a `.npy` file.

    Raises:
        OSError: as for any file.
        ArrayError: it is something else, damaged, larger than `most_bytes`, or has objects in it.
    """
    with _regular(path) as file:
        size = path.stat().st_size
        if size > most_bytes:
            raise ArrayError(f"it has more than {most_bytes:,} bytes")
        return _read(file, size)


def read_arrays(path: Path, most_bytes: int | None = None) -> dict[str, np.ndarray]:
    """The arrays in a `.npz` file, by name. One that is compressed is read if its parts have `most_bytes` in all.

    Raises:
        OSError: as for any file.
        ArrayError: it is something else, damaged, compressed (without such a limit), larger, or has objects in it.
    """
    try:
        with _regular(path) as file, zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            size = sum(part.file_size for part in parts)
            if most_bytes is None:
                if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                    raise ArrayError("its parts are compressed")
                if size > path.stat().st_size:
                    raise ArrayError("its parts are larger than the file")
            elif max(size, path.stat().st_size) > most_bytes:
                raise ArrayError(f"it has more than {most_bytes:,} bytes")
            names = [part.filename.removesuffix(".npy") for part in parts]
            if len(set(names)) < len(names):
                raise ArrayError("it has two arrays of one name")
            found = {}
            for name, part in zip(names, parts, strict=True):
                with archive.open(part) as content:  # whose checksum is compared
                    found[name] = _read(content, part.file_size)
            return found
    # Damaged; of other kinds; encrypted; damaged and compressed.
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError) as error:
        raise ArrayError(f"it is not a file of numpy.savez ({error})") from error


@contextmanager
def _regular(path: Path) -> Iterator[IO[bytes]]:
    """A file to read: a pipe or a device could be read for ever."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ArrayError("it is a folder")
    if not stat.S_ISREG(mode):
        raise ArrayError("it is not a regular file")
    with path.open("rb") as file:
        yield file


def _read(file: IO[bytes], size: int) -> np.ndarray:
    """The array in a stream of `size` bytes, all of which it must be."""
    shape, by_columns, dtype = _header(file)
    if dtype.hasobject or dtype.itemsize == 0:
        raise ArrayError("it holds objects, not numbers")
    if len(shape) > MOST_DIMENSIONS or not all(type(length) is int and 0 <= length <= size for length in shape):
        raise ArrayError("it says that it has an impossible shape")
    wanted = math.prod(shape) * dtype.itemsize
    content = file.read(wanted + 1) if wanted <= size else b""
    if len(content) != wanted:
        raise ArrayError("it does not have as many numbers as it says")
    if not content:
        return np.empty(shape, dtype)
    return np.frombuffer(bytearray(content), dtype).reshape(shape, order="F" if by_columns else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type, as a stream says at its beginning."""
    try:
        version = npy.read_magic(file)
        if version == (1, 0):
            return npy.read_array_header_1_0(file)
        if version == (2, 0):
            return npy.read_array_header_2_0(file)
    except Exception as error:  # whatever NumPy, and the parser and tokenizer that it calls, stumble over
        raise ArrayError("it is not a file of numpy.save") from error
    raise ArrayError("it is of an unusual version of NumPy's format")


# ----------------------------------------------------------------------------------------------------------------------
# Sealed files
# ----------------------------------------------------------------------------------------------------------------------


def write_sealed(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an `.npz` file, whole or not at all, with the digest of its arrays beside them.

    In one file, so that no interruption separates the two. Raises `UserError` if it can't be written.
    """
    write_arrays(path, {**arrays, SEAL: np.frombuffer(digest_of(arrays), np.uint8)})


def read_sealed(path: Path) -> dict[str, np.ndarray]:
    """Read what `write_sealed` wrote, without the digest. Files of early versions have none, and are read as well.

    Raises:
        OSError, ArrayError: as `read_arrays`; or an array is not the one that was written.
    """
    arrays = read_arrays(path)
    seal = arrays.pop(SEAL, None)
    if seal is not None and seal.tobytes() != digest_of(arrays):
        raise ArrayError("its numbers are not the ones that were written")
    return arrays


def digest_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The SHA-256 of names, types, shapes and values, whatever the order, and however they lie in memory."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(repr((name, array.dtype.str, arrays[name].shape)).encode())
        digest.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return digest.digest()
