"""Decoded data sets on disk, so that 60,000 small files are decoded once.

The folder is `data/cache/` of this repository, or the one that the environment variable `UNLEARNING_CACHE`
names. A cache file is a NumPy archive (uncompressed zip, no pickles) of the arrays of a `RawData` and the key
they were built for. The zip format carries a checksum of every array, which is compared on reading.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from data.files import UNFINISHED, generated_folder, locked, write_arrays
from data.raw import RawData

_FORMAT = 1
"""Raised by one whenever the contents of a cache file change their meaning: older files are then rebuilt."""

_log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """The cache folder: `UNLEARNING_CACHE` if it is set, else `data/cache/` of the repository."""
    return generated_folder("UNLEARNING_CACHE")


def cached(name: str, key: str, build: Callable[[], RawData]) -> RawData:
    """The data set `name`: from the cache if it was built for the same `key`, else built and kept.

    `key` stands for all that decides the contents (the files with their sizes and times, for example). A file
    with another key, or a damaged one, is built again. Several processes may call this at once: one builds,
    the others wait for it. Raises `UserError` when the cache folder cannot be written.
    """
    path = cache_dir() / f"{name}.npz"
    raw = _read(path, key)
    if raw is not None:
        return raw
    with cache_lock(name):
        raw = _read(path, key, warn=True)  # another process may have built it while this one waited
        if raw is None:
            raw = build()
            _write(path, key, raw)
        return raw


def cached_folder(name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` in the cache; if it is not there yet, `make(path)` makes it, beside, and it is renamed."""
    folder = cache_dir() / name
    if folder.is_dir():
        return folder
    with cache_lock(name):
        if not folder.is_dir():  # another process may have made it while this one waited
            for leftover in folder.parent.glob(f"{UNFINISHED}*-{name}"):  # nobody else makes it: we have the lock
                shutil.rmtree(leftover, ignore_errors=True)
            beside = folder.with_name(f"{UNFINISHED}{os.getpid()}-{name}")
            make(beside)
            beside.rename(folder)
    return folder


def short_digest(text: str) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of `text`, for names of cache files."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def stat_key(root: Path, names: Iterable[str]) -> str:
    """A text that changes when a file is added, removed, resized or written to; names are relative to `root`."""
    folder = str(root.resolve())
    stats = ((name, os.stat(f"{folder}/{name}")) for name in names)  # text: pathlib takes seconds for 60,000 files
    listing = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    digest = hashlib.sha256(listing.encode(errors="surrogateescape"))  # a name may have bytes that are not UTF-8
    return f"{folder} {digest.hexdigest()}"


def cache_lock(name: str) -> AbstractContextManager[None]:
    """Only one process at a time is inside for the same `name`; a process that dies lets go of it."""
    return locked(cache_dir() / f"{name}.lock")


def _write(path: Path, key: str, raw: RawData) -> None:
    arrays = {
        "format": np.array(_FORMAT),
        "key": np.array(key),
        "content_sha256": np.array(raw.content_sha256),
        "pixels": raw.pixels,
        "labels": raw.labels,
        "image_ids": raw.image_ids,
        "parts": raw.parts,
        "classes": np.array(raw.classes),
        "column_names": np.array(list(raw.columns), dtype=np.str_),
    }
    arrays |= {f"column_{i}": column for i, column in enumerate(raw.columns.values())}
    write_arrays(path, arrays)


def _read(path: Path, key: str, warn: bool = False) -> RawData | None:
    """The data set in the file; None if there is no file, it has another key, or it is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            if stored["format"] != _FORMAT or stored["key"] != key:
                return None
            names = stored["column_names"].tolist()
            return RawData(
                pixels=stored["pixels"],
                labels=stored["labels"],
                image_ids=stored["image_ids"],
                parts=stored["parts"],
                classes=tuple(stored["classes"].tolist()),
                content_sha256=str(stored["content_sha256"]),
                columns={name: stored[f"column_{i}"] for i, name in enumerate(names)},
            )
    # A damaged file can fail in as many ways as zip and npy have fields; the remedy is always the same.
    except Exception as error:
        if warn:
            _log.warning("The cache file %s is damaged (%s): it is built again.", path, error)
        return None
