"""How long gradings may take, told before anything is begun."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from checkpoints.bank import Bank, Foresee, ensure
from checkpoints.workers import Workers
from data import Task
from evaluation.console import LONG, Console, in_words
from evaluation.runs.many import budget_seconds, finished_runs
from evaluation.runs.resolve import Grading
from evaluation.runs.settings import run_path
from evaluation.texts import counted


def foreseer(
    gradings: Sequence[Grading], workers: Workers, console: Console, banks: int = 1, times: int = 1
) -> Foresee:
    """What tells, or asks, how long it may take to train so many banks, and to do the runs of gradings so many times.

    Training is expected to take what its first steps take, and each run as long as it may: no method that is worth
    anything takes longer than retraining.
    """

    def runs(count: Callable[[Grading], int], retraining: float) -> tuple[int, float]:
        """How many runs, and the seconds that they may take."""
        longest = [longest_run(grading, retraining) for grading in gradings]
        found = [(times * count(grading), most) for grading, most in zip(gradings, longest, strict=True)]
        return sum(number for number, _ in found), sum(number * most for number, most in found) / workers.count

    def foresee(training: float, retraining: float) -> None:
        _, longest = runs(lambda grading: math.prod(grading.spec.shape), retraining)
        if training * banks + longest >= LONG:  # it matters how many of them are done
            number, seconds = runs(runs_left, retraining)
            tell_seconds(training * banks, number, seconds, console)

    return foresee


def ensure_original(task: Task, workers: Workers, console: Console) -> Bank:
    """The bank with its first original, which is trained if it is not there, and nothing else."""

    def foresee(training: float, retraining: float) -> None:
        tell_seconds(training, 0, 0, console)  # the run that follows has no limit, and can be interrupted

    with console.progress("original", "models") as on_progress:
        return ensure(task, 1, 0, workers, console.tell, on_progress, foresee)


def longest_run(grading: Grading, retraining: float) -> float:
    """The seconds that a run is expected to take at most: its budget, or those of retraining."""
    return min(budget_seconds(grading, retraining) or retraining, retraining)


def tell_seconds(training: float, runs: int, seconds: float, console: Console) -> None:
    """Tell, or ask, how long the training of models and so many runs may take."""
    parts = [f"about {in_words(training)} to train models"] if training >= 1 else []
    parts += [f"up to {in_words(seconds)} for {counted(runs, 'run')}"] if runs else []
    console.foresee(training + seconds, ", ".join(parts))


def runs_left(grading: Grading) -> int:
    """How many runs of a grading have left nothing in its folder yet."""
    if finished_runs(grading) is not None:
        return 0
    done = sum(1 for _ in run_path(grading.folder, 0, 0, ".npz").parent.glob("*.npz"))
    return max(math.prod(grading.spec.shape) - done, 0)
