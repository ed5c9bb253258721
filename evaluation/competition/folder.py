"""Where things are in the folder of a competition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data import UserError
from data.files import choose_folders, chosen_folders
from evaluation.isolation import sandbox


@dataclass(frozen=True)
class Folder:
    """The folder of a competition. All but `private/` may be published."""

    root: Path

    @property
    def settings(self) -> Path:
        """Written by the organiser."""
        return self.root / "competition.yaml"

    @property
    def submissions(self) -> Path:
        """A folder for each team, in which strangers may write anything."""
        return self.root / "submissions"

    @property
    def accepted(self) -> Path:
        """Copies of what was handed in, by their SHA-256: a file may change while it is graded."""
        return self.root / "accepted"

    @property
    def trail(self) -> Path:
        """The audit trail."""
        return self.root / "trail.jsonl"

    @property
    def lock(self) -> Path:
        """Held while somebody grades."""
        return self.root / "lock"

    @property
    def private(self) -> Path:
        """What must not be published before the end, and the seed never."""
        return self.root / "private"

    @property
    def seed(self) -> Path:
        """What hidden requests are drawn by."""
        return self.private / "seed"

    def results(self, hidden: bool) -> Path:
        """Gradings, of the public part or of the private one."""
        return (self.private if hidden else self.root) / "results"

    @contextmanager
    def in_use(self, hidden: bool) -> Iterator[None]:
        """Inside, results and strangers' methods, here and in workers that are started, lie in this folder."""
        before = chosen_folders()
        mine = {"UNLEARNING_RESULTS": self.results(hidden), "UNLEARNING_STRANGERS": self.accepted / "methods"}
        choose_folders({**before, **{name: str(path.resolve()) for name, path in mine.items()}})
        try:
            yield
        finally:
            choose_folders(before)

    def check_unreadable_in_sandbox(self) -> None:
        """Raises `UserError` if methods in a sandbox could read this folder: it is among Python's or the system's."""
        if sandbox.shows(self.root):
            raise UserError(f"{self.root} lies in a folder that is there in the sandbox: move it to your home, say.")
