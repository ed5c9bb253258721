"""What the operating system refuses, as one sentence: no room, too many open files, files that are gone."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from data.files import FOLDERS, generated_folder

WHATEVER_THE_FILE = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "allow larger files (`ulimit -f unlimited`)",
    errno.EMFILE: "allow more open files (`ulimit -n 1024`)",
    errno.ENFILE: "end other programs, which have too many open files",
    errno.ENOMEM: "make room in memory (--workers 1 needs less)",
    errno.EAGAIN: "end other programs",
    errno.EROFS: "name a folder that you may write to",
    errno.EIO: "look after that disk or terminal",
}
"""Errors that have their cause in the machine, and what to do about them."""
OF_OUR_FILES = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EACCES, errno.EPERM}
"""Errors that, of a file that the kit has made, say that somebody else has moved, removed or replaced it."""


def sentence(error: OSError) -> str | None:
    """What went wrong, and what to do about it; None if that may be our bug."""
    reason = error.strerror or str(error)
    name = os.fspath(error.filename) if isinstance(error.filename, (str, os.PathLike)) else None
    if error.errno in WHATEVER_THE_FILE:
        advice = f"{WHATEVER_THE_FILE[error.errno]}, then type the same command again"
        return f"{name or 'A file, or the output,'} can't be written or read ({reason}): {advice}."
    if error.errno in OF_OUR_FILES and name is not None and _is_ours(Path(name)):
        return (
            f"{name} can't be written or read ({reason}): it seems to have been removed or replaced meanwhile. Type "
            "the same command again: what is gone is made anew."
        )
    return None


def _is_ours(path: Path) -> bool:
    folders = [*map(generated_folder, FOLDERS), Path(tempfile.gettempdir())]
    return any(path.is_relative_to(folder) for folder in folders)
