"""The runs of a sweep, done on one or several devices: a queue, a result file for each run, a log for those that talk.

A run's file is named after all that decides it, so a sweep that is started again does only what is missing. A run that
fails stops no other; its log says why.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from checkpoints.bank import ensure
from checkpoints.networks import build_network
from checkpoints.outputs import Outputs
from checkpoints.pool import Pool
from checkpoints.queue import work_off
from checkpoints.workers import Workers, default_workers, load_task
from data import Task
from data.documents import read_json
from data.files import locked, write_atomically
from evaluation.console import Console, OnProgress
from evaluation.grading import load_with_one_request
from evaluation.isolation.handle import CallFailedError, room_workers
from evaluation.metrics.accuracies import accuracies
from evaluation.runs.foresight import tell_seconds
from evaluation.runs.many import Retries, failure_of
from evaluation.runs.notes import curves, valid_json
from evaluation.runs.one import Failure, finite_outputs, log_file, single_run, told_in
from evaluation.runs.resolve import Grading, resolve
from evaluation.runs.settings import RunSettings
from evaluation.spec import GradingSpec
from evaluation.sweeps.plan import Run, Sweep

Result = dict[str, Any]
"""What a run came to, as its file has it: see `perform_one`."""


@dataclass
class Results:
    """What the runs of a sweep came to."""

    finished: dict[Run, Result] = field(default_factory=dict)
    failed: dict[Run, str] = field(default_factory=dict)
    """What went wrong, and where its log is, as a sentence."""
    data: tuple[str, ...] = ()
    """Names of the tasks, which say so if features are those of random weights."""


def run_sweep(sweep: Sweep, folder: Path, devices: Sequence[str], jobs: int | None, console: Console) -> Results:
    """Have all runs of a sweep done that are not in `folder` yet, by `jobs` processes on each of the devices.

    Raises:
        UserError: a task or a hyper-parameter makes no sense; nothing has been run then.
    """
    runs = sweep.runs()
    tasks = {spec: load_with_one_request(spec) for spec in dict.fromkeys(run.task for run in runs)}
    for task in tasks.values():
        build_network(task)
    gradings = {run: _grading(run, tasks[run.task], devices[0]) for run in runs}
    paths = {run: folder / "runs" / f"{_name(run, grading)}.json" for run, grading in gradings.items()}
    waiting = f"another process works on {folder}: waiting for it"
    with ExitStack() as stack:
        stack.enter_context(locked(folder / "lock", lambda: console.tell(waiting)))
        results = Results({run: found for run, path in paths.items() if (found := _read(path)) is not None})
        results.data = tuple(dict.fromkeys(task.name for task in tasks.values()))
        missing = [run for run in runs if run not in results.finished]
        if not missing:
            return results
        pools = [
            stack.enter_context(room_workers(default_workers(device) if jobs is None else jobs, device))
            for device in devices
        ]
        problems = list(dict.fromkeys(run.task for run in missing))
        at_once = sum(pool.count for pool in pools)

        def foresee(training: float, retraining: float) -> None:
            tell_seconds(training * len(problems), len(missing), len(missing) * retraining / at_once, console)

        for spec in problems:
            before = foresee if spec == problems[0] else None
            with console.progress("originals", "models") as on_progress:
                ensure(tasks[spec], sweep.seeds, 0, pools[0], console.tell, on_progress, before)
        with console.progress("sweep", "runs") as on_progress:
            _do_missing(missing, gradings, paths, pools, results, on_progress)
    return results


def _grading(run: Run, task: Task, device: str) -> Grading:
    return resolve(GradingSpec(run.method, run.task, run.settings), task, device)


def _name(run: Run, grading: Grading) -> str:
    """The name of a run's files: a function of everything that decides its result."""
    return f"{run.method}-{grading.identity}-seed-{run.seed}"


def _read(path: Path) -> Result | None:
    """What a run that is done came to; None if it is not, or its file is damaged."""
    try:
        result = read_json(path)
        return result if isinstance(result, dict) and "accuracy" in result else None
    except (OSError, ValueError):
        return None


def _do_missing(
    runs: Sequence[Run],
    gradings: dict[Run, Grading],
    paths: dict[Run, Path],
    pools: Sequence[Workers],
    results: Results,
    on_progress: OnProgress,
) -> None:
    """Give each run to the device that is free first; one that fails is noted, and stops no other.

    One whose process was killed from outside is tried again, as often as in a grading.
    """
    known = len(results.finished)
    total = known + len(runs)
    retries = Retries[Run](gradings[runs[0]].run_settings.limits.attempts)

    def submit(run: Run, pool: Workers) -> Future[Failure | None]:
        settings = replace(gradings[run].run_settings, device=pool.device, folder=paths[run].parent)
        return pool.submit(perform_one, settings, run.seed, paths[run])

    def settle(run: Run, future: Future[Failure | None]) -> bool:
        failure = failure_of(future)
        if failure is not None and retries.next_attempt(run, failure) is not None:
            return True
        _note(run, failure, paths[run], results)
        return False

    work_off(runs, pools, submit, settle, lambda done: on_progress(known + done, total))


def _note(run: Run, failure: Failure | None, path: Path, results: Results) -> None:
    """Take over what a run has left."""
    result = _read(path) if failure is None else None
    if result is not None:
        results.finished[run] = result
    else:
        complaint = "its result is gone" if failure is None else failure.complaint
        results.failed[run] = f"{run.method} failed: {complaint.rstrip('.')}. Its log: {path.with_suffix('.log')}."


def perform_one(settings: RunSettings, original: int, path: Path) -> Failure | None:
    """Do one run, from one of the originals, and write its result file. A job for a worker.

    The file has the run's settings, its `seconds`, its `accuracy` by split, the method's `history` and `certificate`
    where it leaves some (so that `python main.py certify` can read it), and `original`: the validation accuracy that
    the run started from. None if all went well.
    """
    task = load_task(settings.task, settings.device)
    try:
        with log_file(path.with_suffix(".log")) as log:
            done, network = single_run(settings, task, original, 0, log)
            with told_in(log):
                outputs = finite_outputs(network, task, settings.method)
    except CallFailedError as error:
        return Failure(error.complaint, error.retry)
    left = json.loads(done.notes or "{}")
    notes = left if isinstance(left, dict) else {}
    before = Pool(task, "original").outputs(original + 1)[original : original + 1]
    result = {
        "method": settings.method,
        "settings": settings.hyper_parameters,
        "seed": original,
        "seconds": done.seconds,
        "accuracy": _accuracies(outputs, task),
        "original": _accuracies(before, task)["validation"],
        "history": curves(notes),
        "certificate": notes.get("certificate"),
    }
    text = valid_json(json.dumps(result, indent=1))
    write_atomically(path, lambda beside: beside.write_text(text))
    return None


def _accuracies(outputs: Outputs, task: Task) -> dict[str, float]:
    """Of one model, on each split."""
    found = accuracies(outputs, task)
    return {split: getattr(found, split) for split in ("validation", "test", "forget", "retain")}
