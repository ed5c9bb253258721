"""Running a method K x N times: which runs are needed, which are done, and what they left."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Generic, TypeVar

from checkpoints.bank import Bank
from checkpoints.pool import Tell
from checkpoints.processes import WorkerLostError
from checkpoints.queue import work_off
from checkpoints.workers import Workers
from data import UserError
from data.files import locked, write_atomically
from evaluation.isolation import watch
from evaluation.runs.one import Failure, perform
from evaluation.runs.resolve import Grading
from evaluation.runs.settings import RunSettings, run_path
from evaluation.runs.unlearned import Unlearned
from evaluation.spec import GradingSpec

Key = TypeVar("Key")
RunKey = tuple[int, int]
"""(original, run)."""
MOST_RUNS = 10**6
"""No grading on disk has more: its config says nonsense, and isn't written out."""
QUEUED = 3
"""Runs that are submitted at a time, for each worker: one that it does, and some that it finds when that is done."""


class GradingFailedError(UserError):
    """A run of the method failed, and so does its grading. The message names the run and its log."""


class GradingLostError(GradingFailedError):
    """The worker of a run was lost, again and again. That tells nothing of the method: its grading may go on later."""


def unlearn(
    grading: Grading,
    bank: Bank,
    workers: Workers,
    tell: Tell = lambda text: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    for_audit: bool = False,
    keep_weights: bool = False,
    start: str = "original",
) -> Unlearned:
    """Run the method as often as the grading needs; runs that are on disk already are not repeated.

    Weights are kept where another request is to arrive, and with `keep_weights`: `runs/*.pt` in the grading's folder.
    Runs start from the originals, or as `RunSettings.start` says. With `for_audit`, runs may take as long as they like,
    need logits on the retain set, which early versions did not record, and what the folder says of the grading (its
    config, and whether it failed) stays.

    Raises:
        GradingFailedError: a run raised, broke the contract or exceeded the budget. The others are kept.
        UserError: files of the grading were removed meanwhile.
    """
    spec, folder = grading.spec, grading.folder
    last = spec.task.step == len(grading.task.requests) - 1
    budget = None if for_audit else budget_seconds(grading, bank.retrain_seconds)
    keep = keep_weights or not last
    settings = replace(grading.run_settings, budget_seconds=budget, keep_weights=keep, start=start)
    with locked(folder / "lock", lambda: tell("another process works on this grading: waiting for it")):
        config = folder / "config.yaml"
        if not (for_audit and config.is_file()):
            write_atomically(config, lambda beside: beside.write_text(spec.to_yaml()))
            (folder / "failed.json").unlink(missing_ok=True)
        write_atomically(folder / "run_identity", lambda beside: beside.write_text(grading.identity))
        known = _known_runs(folder, grading.identity, tell)
        if budget is not None:  # an earlier grading may have allowed more
            known = {key: run for key, run in known.items() if run.seconds[0] <= budget}
        if for_audit:
            known = {key: run for key, run in known.items() if run.outputs.retain is not None}
        if settings.keep_weights:
            known = {key: run for key, run in known.items() if run_path(folder, *key, ".pt").is_file()}
        missing = [key for key in spec.runs() if key not in known]

        def submit(key: RunKey, pool: Workers) -> Future[Failure | None]:
            return pool.submit(perform, replace(settings, device=pool.device), *key)

        try:
            do_runs(missing, submit, workers, len(spec.runs()), on_progress, settings, tell)
        except RunFailedError as failure:
            raise _grading_failed(settings, failure, _more_time(spec)) from failure
        return gather_runs(folder, spec.runs(), known)


def finished_runs(grading: Grading) -> Unlearned | None:
    """What all runs of a grading have left, if they are done."""
    mark = grading.folder / "run_identity"
    if not mark.is_file() or mark.read_text() != grading.identity:
        return None
    together = Unlearned.load(grading.folder / "outputs.npz")
    return together if together is not None and len(together) == len(grading.spec.runs()) else None


def budget_seconds(grading: Grading, retraining: float) -> float | None:
    """Seconds after which a run is killed, where retraining takes so long; None for a method that is exempt."""
    if grading.method.exempt_from_budget:
        return None
    return grading.spec.budget_seconds or grading.spec.budget * retraining


def _known_runs(folder: Path, identity: str, tell: Tell) -> dict[RunKey, Unlearned]:
    """Runs with this identity that are on disk: in this folder, or in that of a grading with other numbers."""
    known: dict[RunKey, Unlearned] = {}
    for config in sorted(folder.parent.glob("*/config.yaml")):
        mark = config.with_name("run_identity")
        if not mark.is_file() or mark.read_text() != identity:
            continue
        try:
            other = GradingSpec.read(config)
        except UserError:  # damaged, and that of another grading: this one's has just been written
            continue
        if math.prod(other.shape) > MOST_RUNS:
            continue
        keys = other.runs()
        _bring_files(config.parent, folder, keys)
        together = Unlearned.load(config.with_name("outputs.npz"), tell)
        if together is not None and len(together) == len(keys):
            known |= {key: together[number : number + 1] for number, key in enumerate(keys)}
            continue
        for key in keys:
            alone = Unlearned.load(run_path(config.parent, *key, ".npz"), tell)
            if alone is not None:
                known[key] = alone
    return known


def _bring_files(source: Path, folder: Path, keys: list[RunKey]) -> None:
    """Copy the notes and weights that runs of another grading have left, if any, to where this one's are."""
    for key, ending in product(keys, (".json", ".pt")):
        there, here = run_path(source, *key, ending), run_path(folder, *key, ending)
        if there.is_file() and not here.is_file():
            here.parent.mkdir(exist_ok=True)
            shutil.copyfile(there, here)


def gather_runs(folder: Path, keys: list[RunKey], known: dict[RunKey, Unlearned]) -> Unlearned:
    """The runs `keys` as one, those that are not `known` read from their files; it replaces the files."""
    runs = [known[key] if key in known else Unlearned.load(run_path(folder, *key, ".npz")) for key in keys]
    finished = [run for run in runs if run is not None]
    if len(finished) < len(keys):
        raise UserError(
            f"Outputs of {len(keys) - len(finished)} finished runs in {folder} were removed or damaged meanwhile: type "
            "the same command again to make them anew."
        )
    unlearned = Unlearned.join(finished)
    unlearned.save(folder / "outputs.npz")
    for path in (folder / "runs").glob("*.npz"):
        path.unlink()
    return unlearned


class RunFailedError(Exception):
    """The first run that failed: which, what went wrong in words, and how many had finished by then."""

    def __init__(self, key: RunKey, complaint: str, finished: int, lost: bool = False) -> None:
        super().__init__(complaint)
        self.key, self.complaint, self.finished = key, complaint, finished
        self.lost = lost
        """Whether nothing is known of the method's part in it: its worker was lost."""


class Retries(Generic[Key]):
    """How often runs have failed for a reason that may not be there another time: their time, or a process killed."""

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts
        """How often a run is begun."""
        self._failed: Counter[Key] = Counter()

    def next_attempt(self, key: Key, failure: Failure) -> int | None:
        """The number of the attempt that comes after a failure; None if it was the last."""
        self._failed[key] += 1
        return self._failed[key] + 1 if failure.retry and self._failed[key] < self.attempts else None


def do_runs(
    keys: list[RunKey],
    submit: Callable[[RunKey, Workers], Future[Failure | None]],
    workers: Workers,
    total: int,
    on_progress: Callable[[int, int], None],
    settings: RunSettings | None = None,
    tell: Tell = lambda text: None,
) -> None:
    """Have the workers do the runs `keys`, of `total` in all. The first that fails ends the work.

    A run that was killed for its time is tried again, as often as the limits in `settings` say, which `tell` is told;
    one whose worker is lost as often as `work_off` says.

    Raises:
        RunFailedError: a run answered with a complaint, or its worker was lost each time.
    """
    retries = Retries[RunKey](1 if settings is None else settings.limits.attempts)
    finished = 0

    def settle(key: RunKey, future: Future[Failure | None]) -> bool:
        nonlocal finished
        failure = failure_of(future)
        if failure is None:
            finished += 1
            return False
        attempt = retries.next_attempt(key, failure)
        if attempt is not None:
            original, run = key
            what = failure.complaint.partition(";")[0]  # the advice that follows is for the end
            tell(f"run {run} from original {original}: {what}; attempt {attempt} of {retries.attempts} comes next")
            return True
        raise RunFailedError(key, failure.complaint, finished, failure.lost)

    known = total - len(keys)
    work_off(keys, workers.pools, submit, settle, lambda done: on_progress(known + done, total), QUEUED)


def failure_of(future: Future[Failure | None]) -> Failure | None:
    """What went wrong in a run; None if nothing did."""
    try:
        return future.result()
    except WorkerLostError as death:
        return Failure(f"its worker {death.how}", lost=True)


def _more_time(spec: GradingSpec) -> str:
    """What to do about a run that was killed for its time. How much it would have needed nobody knows."""
    seconds = spec.budget_seconds
    twice = f"--budget {2 * spec.budget:g}" if seconds is None else f"--budget-seconds {2 * seconds:g}"
    return f"{twice} allows twice as much, and --debug tells how much it needs"


def _grading_failed(settings: RunSettings, failure: RunFailedError, more_time: str) -> GradingFailedError:
    """What to raise for a grading of which a run has failed; `failed.json` tells of it, too, if the method did.

    `more_time` is what to do if it was for its time.
    """
    original, run = failure.key
    log = run_path(settings.folder, original, run, ".log")
    complaint = failure.complaint.replace(watch.MORE, more_time).rstrip(".")  # who watches runs knows no options
    message = f"{settings.method} failed in run {run} from original {original}: {complaint}."
    kept = "The run that finished is" if failure.finished == 1 else f"The {failure.finished} runs that finished are"
    message = f"{message} Its log: {log}. {kept} kept."
    if failure.lost:
        return GradingLostError(message)
    record = {"method": settings.method, "original": original, "run": run, "complaint": failure.complaint}
    write_atomically(settings.folder / "failed.json", lambda beside: beside.write_text(json.dumps(record, indent=1)))
    return GradingFailedError(message)
