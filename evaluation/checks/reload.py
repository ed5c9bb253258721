"""A check of a task that was loaded twice, in two processes."""

from __future__ import annotations

from dataclasses import dataclass

from checkpoints.workers import load_task
from data import TaskSpec
from evaluation.checks.finding import Finding


@dataclass(frozen=True)
class Fingerprints:
    """Of one task, as two processes have loaded it."""

    here: str
    there: str


def fingerprint_there(spec: TaskSpec, device: str) -> str:
    """The fingerprint of a task as the process that calls this has loaded it. A job for a worker."""
    return load_task(spec, device).fingerprint


def task_is_the_same_each_time(fingerprints: Fingerprints) -> Finding | None:
    """A split or a forget set that changes from one process to the next.

    Then models are retrained without other images than those that methods forget. Seen in
    unlearning-challenge/starting-kit, issue 15 (a split without a seed).
    """
    if fingerprints.here == fingerprints.there:
        return None
    return Finding(
        "error",
        "The task is another one each time it is loaded: draw its split and its forget set with a fixed seed, and "
        "don't rely on the order of a set or of a folder.",
    )


RELOAD_CHECKS = (task_is_the_same_each_time,)
"""Of `Fingerprints`."""
