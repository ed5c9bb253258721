"""Files that are either whole or absent, whatever happens while they are written, and locks between processes."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError

_KIT = Path(__file__).parent.parent
_GENERATED = {
    "UNLEARNING_BANK": _KIT / "checkpoints" / "bank",
    "UNLEARNING_CACHE": _KIT / "data" / "cache",
    "UNLEARNING_RESULTS": _KIT / "results",
    "UNLEARNING_TUNED": _KIT / "methods" / "tuned",
    "UNLEARNING_STRANGERS": _KIT / "data" / "cache" / "strangers",
}
"""The folders of generated files, by the environment variable that names another."""
FOLDERS = tuple(_GENERATED)
"""The names of these variables."""


def generated_folder(variable: str) -> Path:
    """The folder that `variable` (UNLEARNING_BANK, ..., see `FOLDERS`) names, or its default in the kit."""
    chosen = os.environ.get(variable)
    return Path(chosen).expanduser() if chosen else _GENERATED[variable]


def chosen_folders() -> dict[str, str | None]:
    """The folders that are chosen here, by environment variable, for `choose_folders` in another process."""
    return {name: os.environ.get(name) for name in _GENERATED}


def choose_folders(chosen: Mapping[str, str | None]) -> None:
    """Choose the same folders as another process."""
    for name, folder in chosen.items():
        if folder is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = folder


def shown(path: Path) -> str:
    """A path as a user types it: relative to the current folder where it lies below that."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


UNFINISHED = ".unfinished-"
"""What the names of files begin with that are being written; the number of the writing process follows."""
_tidied: set[Path] = set()
"""The folders in which this process has looked for leftovers."""


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Inside, an `OSError` (no permission, no room, a file where a folder should be) is for the user to fix.

    Raises:
        UserError: it names the file, and the variable that moves the folder it is in.
    """
    try:
        yield
    except OSError as error:
        variables = [name for name in _GENERATED if path.is_relative_to(generated_folder(name))]
        elsewhere = f"set the environment variable {variables[0]} to" if variables else "name"
        raise UserError(
            f"{path} can't be written ({error.strerror or error}): fix that, or {elsewhere} a folder with enough space "
            "that you may write to."
        ) from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then rename it to `path`.

    A process that dies in between leaves at most a file whose name starts with a dot, which the next one that writes to
    the folder removes; two that write the same file at once both succeed, and the later one wins. Raises `UserError` if
    the file can't be written.
    """
    if not path.name:
        raise UserError("A file to write needs a name; none is given.")
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        beside = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
        with _marked_as_written(beside):
            try:
                write(beside)
                os.replace(beside, path)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise


@contextmanager
def _marked_as_written(path: Path) -> Iterator[None]:
    """Make an empty file, and hold a lock on it: the system lets go of it when this process ends, in whatever way."""
    descriptor = _locked_descriptor(path)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked_descriptor(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            with suppress(OSError):  # some file systems have no locks, and then nobody removes a leftover
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:  # it was taken for a leftover just before it was locked
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing in `folder`; done once for each folder and process."""
    if folder in _tidied:
        return
    _tidied.add(folder)
    with suppress(OSError):
        for path in folder.glob(f"{UNFINISHED}*-*"):
            with suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    _remove_unless_locked(path)


def _remove_unless_locked(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError if its writer is alive
        path.unlink()
    finally:
        os.close(descriptor)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an uncompressed `.npz` file atomically; `numpy.load` reads it and notices damage."""

    def write(beside: Path) -> None:
        with beside.open("wb") as file:  # a path would get ".npz" appended
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_atomically(path, write)


def write_tensors(path: Path, content: object) -> None:
    """`torch.save`, atomically; the same bytes for the same content wherever it is written."""
    import torch

    # Given a path, PyTorch puts its name into the file, and tells of a full disk in ways of its own.
    file = io.BytesIO()
    torch.save(content, file)
    write_atomically(path, lambda beside: beside.write_bytes(file.getbuffer()))


def read_tensors(path: Path, device: object = "cpu") -> Any:
    """Read what `write_tensors` wrote, to a device; None if it is not there, or damaged."""
    import torch

    try:
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # PyTorch writes checksums, but does not compare them
            if archive.testzip() is not None:
                return None
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)  # type: ignore[arg-type]
    except Exception:  # of a damaged file: whatever zipfile, pickle or PyTorch stumble over
        return None


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def locked(path: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Only one process at a time is inside for the same `path`; a process that dies lets go of it.

    `waiting` is called if another process is inside. Raises `UserError` if the lock file can't be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0.1)
        except Timeout:
            waiting()
            lock.acquire()
    remove_leftovers(path.parent)
    try:
        yield
    finally:
        lock.release()
