"""Builds a small bank with real workers and notes what they do: for tests that kill it or look into it. Not a test.

`python -m tests.checkpoints.noting WORKERS LEDGER` does it in a process of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from checkpoints.bank import Bank, ensure
from checkpoints.jobs import time_retraining, train_group
from checkpoints.pool import Tell
from checkpoints.workers import Workers
from data import TaskSpec, load

LONG = TaskSpec("digits", forget=("random:12",), train_size=60, recipe=(("epochs", 60),))
"""Enough epochs for a process to be killed in the middle."""
ORIGINALS, MODELS = 1, 8  # in groups of 2, and 2, 2 and 4


class NotingWorkers(Workers):
    """Take a snapshot after each epoch, and note in a file the groups that they train and who times retraining."""

    def __init__(self, count: int, ledger: Path) -> None:
        super().__init__(count)
        self.ledger = ledger

    def submit(self, job: Callable[..., Any], *args: object) -> Future[Any]:
        """Queue the job, with a note of it."""
        if job is train_group:
            kind, start = args[2:4]
            return super().submit(noted, self.ledger, f"{kind} {start}", partial(job, snapshot_seconds=-1.0), *args)
        if job is time_retraining:
            return super().submit(noted, self.ledger, "timed by {pid}", job, *args)
        return super().submit(job, *args)


def noted(ledger: Path, note: str, job: Callable[..., Any], *args: object) -> Any:
    """In a worker: write the note, then do the job."""
    with ledger.open("a") as file:
        print(note.format(pid=os.getpid()), file=file)
    return job(*args)


def build_long(workers: int, ledger: Path, tell: Tell = lambda text: None) -> Bank:
    """The bank of `LONG` in the folder that the environment names."""
    with NotingWorkers(workers, ledger) as pool:
        return ensure(load(LONG), ORIGINALS, MODELS, pool, tell)


if __name__ == "__main__":
    build_long(int(sys.argv[1]), Path(sys.argv[2]), lambda text: print(text, file=sys.stderr))
