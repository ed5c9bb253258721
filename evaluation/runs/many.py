"""Running a method K x N times: which runs are needed, which are done, and what they left."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from pebble import ProcessExpired

from checkpoints.bank import Bank
from checkpoints.pool import Tell
from checkpoints.workers import Workers
from data import Task, UserError, load
from data.files import locked, write_atomically
from evaluation.runs.one import OVER_BUDGET, RunSettings, Unlearned, perform, run_path
from evaluation.spec import GradingSpec, grading_folder, method_settings, run_identity
from methods import all_method_handlers

RunKey = tuple[int, int]
"""(original, run)."""
QUEUED = 3
"""Runs that are submitted at a time, for each worker: one that it does, and some that it finds when that is done."""
ATTEMPTS = 3
"""How often a run may be killed for its time before it has failed: the same run takes longer on a busy machine."""


class GradingFailedError(UserError):
    """A run of the method failed, and so does its grading. The message names the run and its log."""


def unlearn(
    spec: GradingSpec,
    task: Task,
    bank: Bank,
    workers: Workers,
    tell: Tell = lambda text: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Unlearned:
    """Run the method as often as the grading needs; runs that are on disk already are not repeated.

    Raises:
        GradingFailedError: a run raised, broke the contract or exceeded the budget. The others are kept.
    """
    folder = grading_folder(spec, task, workers.device)
    identity = run_identity(spec, task, workers.device)
    last = spec.task.step == len(task.requests) - 1
    settings = RunSettings(
        task=spec.task,
        device=workers.device,
        method=spec.method,
        hyper_parameters=tuple(method_settings(spec, task).items()),
        seed=spec.seed,
        budget_seconds=budget_seconds(spec, bank),
        folder=folder,
        previous=grading_folder(*_step_before(spec), workers.device) if spec.task.step else None,
        keep_weights=not last,
    )
    with locked(folder / "lock", lambda: tell("another process works on this grading: waiting for it")):
        write_atomically(folder / "config.yaml", lambda beside: beside.write_text(spec.to_yaml()))
        write_atomically(folder / "run_identity", lambda beside: beside.write_text(identity))
        (folder / "failed.json").unlink(missing_ok=True)
        known = _known_runs(folder, identity)
        if settings.budget_seconds is not None:  # an earlier grading may have allowed more
            known = {key: run for key, run in known.items() if run.seconds[0] <= settings.budget_seconds}
        if settings.keep_weights:
            known = {key: run for key, run in known.items() if run_path(folder, *key, ".pt").is_file()}
        missing = [key for key in spec.runs() if key not in known]
        failure = work_off(
            missing,
            lambda key: workers.submit(perform, settings, *key),
            QUEUED * workers.count,
            len(spec.runs()),
            on_progress,
            settings.budget_seconds,
        )
        if failure is not None:
            _fail(settings, failure)
        return gather_runs(folder, spec.runs(), known)


def _step_before(spec: GradingSpec) -> tuple[GradingSpec, Task]:
    """The grading of the request before this one."""
    before = replace(spec, task=replace(spec.task, step=spec.task.step - 1))
    return before, load(before.task)


def finished_runs(spec: GradingSpec, task: Task, device: str) -> Unlearned | None:
    """What all runs of a grading have left, if they are done."""
    folder = grading_folder(spec, task, device)
    mark = folder / "run_identity"
    if not mark.is_file() or mark.read_text() != run_identity(spec, task, device):
        return None
    together = Unlearned.load(folder / "outputs.npz")
    return together if together is not None and len(together) == len(spec.runs()) else None


def budget_seconds(spec: GradingSpec, bank: Bank) -> float | None:
    """Seconds after which a run is killed; None for a method that is exempt."""
    if all_method_handlers()[spec.method].exempt_from_budget:
        return None
    return spec.budget_seconds or spec.budget * bank.retrain_seconds


def _known_runs(folder: Path, identity: str) -> dict[RunKey, Unlearned]:
    """Runs with this identity that are on disk: in this folder, or in that of a grading with other numbers."""
    known: dict[RunKey, Unlearned] = {}
    for config in sorted(folder.parent.glob("*/config.yaml")):
        mark = config.with_name("run_identity")
        if not mark.is_file() or mark.read_text() != identity:
            continue
        try:
            keys = GradingSpec.read(config).runs()
        except UserError:  # damaged, and that of another grading: this one's has just been written
            continue
        _bring_files(config.parent, folder, keys)
        together = Unlearned.load(config.with_name("outputs.npz"))
        if together is not None and len(together) == len(keys):
            known |= {key: together[number : number + 1] for number, key in enumerate(keys)}
            continue
        for key in keys:
            alone = Unlearned.load(run_path(config.parent, *key, ".npz"))
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
    assert len(finished) == len(keys), f"runs were reported as finished, but left no outputs in {folder}"
    unlearned = Unlearned.join(finished)
    unlearned.save(folder / "outputs.npz")
    for path in (folder / "runs").glob("*.npz"):
        path.unlink()
    return unlearned


@dataclass(frozen=True)
class Failure:
    """The first run that failed, what went wrong in words, and how many had finished by then."""

    key: RunKey
    complaint: str
    finished: int


def work_off(
    keys: list[RunKey],
    submit: Callable[[RunKey], Future[str | None]],
    at_once: int,
    total: int,
    on_progress: Callable[[int, int], None],
    budget_seconds: float | None = None,
) -> Failure | None:
    """Have the workers do the runs `keys`, of `total` in all. The first that fails ends the work and is returned.

    They are submitted `at_once` at a time: the pool starts a process anew for each that is cancelled.
    """
    waiting, finished, killed = list(reversed(keys)), 0, Counter[RunKey]()
    pending: dict[Future[str | None], RunKey] = {}
    try:
        while waiting or pending:
            while waiting and len(pending) < at_once:
                key = waiting.pop()
                pending[submit(key)] = key
            on_progress(total - len(pending) - len(waiting), total)
            done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=pending.__getitem__):  # of several that failed meanwhile, the first is told
                key = pending.pop(future)
                complaint = _complaint(future, budget_seconds)
                if complaint is None:
                    finished += 1
                    continue
                killed[key] += 1
                if not _was_too_slow(future) or killed[key] == ATTEMPTS:
                    return Failure(key, complaint, finished)
                waiting.append(key)
        on_progress(total, total)
    finally:
        for future in pending:
            future.cancel()
    return None


def _was_too_slow(future: Future[str | None]) -> bool:
    error = future.exception()
    return isinstance(error, ProcessExpired) and error.exitcode in OVER_BUDGET


def _complaint(future: Future[str | None], budget_seconds: float | None) -> str | None:
    """What went wrong in a run, in words; None if nothing did."""
    try:
        return future.result()
    except ProcessExpired as death:
        if _was_too_slow(future):
            over = f"it exceeded the budget of {budget_seconds:.3g} seconds and was killed"
            return f"{over}; --budget or --budget-seconds allow more"
        return f"its process died with exit code {death.exitcode} (-9 often means: out of memory)"


def _fail(settings: RunSettings, failure: Failure) -> None:
    original, run = failure.key
    log = run_path(settings.folder, original, run, ".log")
    message = f"{settings.method} failed in run {run} from original {original}: {failure.complaint.rstrip('.')}."
    record = {"method": settings.method, "original": original, "run": run, "complaint": failure.complaint}
    write_atomically(settings.folder / "failed.json", lambda beside: beside.write_text(json.dumps(record, indent=1)))
    raise GradingFailedError(f"{message} Its log: {log}. The {failure.finished} runs that finished are kept.")
