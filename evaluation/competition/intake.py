"""What teams have handed in: looked at without following or waiting for anything, copied, and told in the trail.

`submissions/<team>/` belongs to strangers. Each regular file in it is a submission, known by its SHA-256; what else is
there gets a sentence in the trail, once. When a file was handed in is when it was first seen: its own times can be set
by anybody.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

from data import UserError
from data.files import write_atomically
from evaluation.competition.folder import Folder
from evaluation.competition.settings import Settings
from evaluation.competition.trail import Line, Trail

KINDS = {".py": "method", ".ipynb": "notebook", ".zip": "zip"}
MOST_TEAMS, MOST_FILES = 10_000, 1000
"""Names in the folder of all teams, and in that of one."""
LONGEST_NAME = 200
"""Characters of the name of a team or file."""
MEGABYTE = 1 << 20
Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Submission:
    """A file of a team."""

    team: str
    file: str
    """Its name when it was first seen."""
    sha256: str
    kind: str
    """One of `KINDS`."""
    received: datetime

    def copy_in(self, folder: Folder) -> Path:
        """Where its content is kept."""
        (ending,) = (ending for ending, kind in KINDS.items() if kind == self.kind)
        return folder.accepted / f"{self.sha256}{ending}"


class RefusedError(Exception):
    """A file that is no submission; the message is a clause that says why."""


def submissions_of(lines: list[Line]) -> list[Submission]:
    """What was received, as a trail tells it, in its order."""
    return [
        Submission(line["team"], line["file"], line["sha256"], line["kind"], datetime.fromisoformat(line["when"]))
        for line in lines
        if line["event"] == "received"
    ]


class Intake:
    """Looks at what is there, again and again; a file that has not changed since is read once."""

    def __init__(self, folder: Folder, settings: Settings, trail: Trail, now: Clock) -> None:
        self._folder, self._settings, self._trail, self._now = folder, settings, trail, now
        self._read: dict[tuple[str, str], tuple[int, ...]] = {}

    def look(self) -> None:
        """Write a line into the trail for all that is new."""
        try:
            names = _names_in(self._folder.submissions, MOST_TEAMS)
        except (RefusedError, OSError) as error:
            raise UserError(f"{self._folder.submissions} can't be used: {error}.") from error
        for name in names:
            try:
                if stat.S_IFMT(os.lstat(self._folder.submissions / name).st_mode) != stat.S_IFDIR:
                    raise RefusedError("it is not a folder of a team, but lies beside them")
                _check_name(name)
                self._look_at_team(name)
            except (RefusedError, OSError) as error:
                self._refuse(name, None, error)

    def _look_at_team(self, team: str) -> None:
        for file in _names_in(self._folder.submissions / team, MOST_FILES):
            try:
                _check_name(file)
                self._receive(team, file)
            except (RefusedError, OSError) as error:
                self._refuse(team, file, error)

    def _receive(self, team: str, file: str) -> None:
        kind = KINDS.get(os.path.splitext(file)[1].lower())
        if kind is None:
            raise RefusedError(f"its name ends with none of {', '.join(KINDS)}")
        settings = self._settings
        most = int((settings.largest_zip if kind == "zip" else settings.largest_method) * MEGABYTE)
        descriptor = _open_regular(self._folder.submissions / team / file)
        with os.fdopen(descriptor, "rb", buffering=0) as source:
            status = os.fstat(descriptor)
            # The time of the last change (ctime) can't be set, unlike the others.
            mark = (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
            if self._read.get((team, file)) == mark:
                return
            if status.st_size > most:
                raise RefusedError(f"it has more than {most / MEGABYTE:.3g} MB")
            kept = []
            write_atomically(
                self._folder.accepted / f"incoming{os.getpid()}",
                lambda beside: kept.append(_copy(source, beside, most)),
            )
        incoming = self._folder.accepted / f"incoming{os.getpid()}"
        self._keep(Submission(team, file, kept[0][0], kind, self._now()), incoming, kept[0][1])
        self._read[team, file] = mark

    def _keep(self, submission: Submission, incoming: Path, size: int) -> None:
        team, file, digest = submission.team, submission.file, submission.sha256
        os.replace(incoming, submission.copy_in(self._folder))
        known = {(line.get("team"), line.get("sha256")) for line in self._trail.lines if line["event"] == "received"}
        if (team, digest) not in known:
            facts = {"team": team, "file": file, "sha256": digest, "bytes": size, "kind": submission.kind}
            self._trail.add("received", submission.received, **facts)

    def _refuse(self, team: str, file: str | None, error: Exception) -> None:
        reason = (error.strerror or "it can't be read") if isinstance(error, OSError) else str(error)
        facts = {"team": _short(team), "file": file and _short(file), "verdict": reason}
        if not any(line["event"] == "not received" and facts.items() <= line.items() for line in self._trail.lines):
            self._trail.add("not received", self._now(), **facts)


def _names_in(folder: Path, most: int) -> list[str]:
    """Names in a folder, sorted, without those that begin with a dot: files that are being written.

    Raises:
        OSError: it can't be read, or is a link.
        RefusedError: there are more than `most`.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with os.scandir(descriptor) as entries:
            found = [entry.name for entry in islice(entries, most + 1)]
    finally:
        os.close(descriptor)
    if len(found) > most:
        raise RefusedError(f"there are more than {most} files in it: none is looked at")
    return sorted(name for name in found if not name.startswith("."))


def _check_name(name: str) -> None:
    if len(name) > LONGEST_NAME:
        raise RefusedError(f"its name has more than {LONGEST_NAME} characters")


def _open_regular(path: Path) -> int:
    """A descriptor of a regular file. A link is not followed, and nobody waits for the other end of a pipe."""
    if path.is_symlink():
        raise RefusedError("it is a link; hand in the file itself")
    if path.is_dir():
        raise RefusedError("it is a folder; hand in one file")
    if not stat.S_ISREG(os.lstat(path).st_mode):  # opening some devices does something
        raise RefusedError("it is not a regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it was replaced meanwhile
        os.close(descriptor)
        raise RefusedError("it is not a regular file")
    return descriptor


def _copy(source: object, target: Path, most: int) -> tuple[str, int]:
    """Copy a file that may grow meanwhile: the SHA-256 of what was copied, and its size."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        while block := source.read(MEGABYTE):  # type: ignore[attr-defined]
            size += len(block)
            if size > most:
                raise RefusedError(f"it has more than {most / MEGABYTE:.3g} MB")
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
