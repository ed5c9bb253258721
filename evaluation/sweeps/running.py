"""The runs of a sweep, done on one or several devices: a queue, a result file for each run, a log for those that talk.

A run's file is named after all that decides it, so a sweep that is started again does only what is missing. A run that
fails stops no other; its log says why.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pebble import ProcessExpired

from checkpoints.bank import ensure
from checkpoints.networks import build_network
from checkpoints.outputs import Outputs, record_outputs
from checkpoints.pool import Pool
from checkpoints.workers import Workers, default_workers, load_task
from data import Task, TaskSpec
from data.files import locked, write_atomically
from evaluation.console import Console, OnProgress
from evaluation.grading import load_with_one_request
from evaluation.runs.one import RunSettings, fresh_network, logged_to, run_seed, unlearn_once
from evaluation.runs.prepared import prepared_for
from evaluation.spec import GradingSpec, method_settings, run_identity
from evaluation.sweeps.plan import Run, Sweep

Result = dict[str, Any]
"""What a run came to, as its file has it: see `perform`."""


@dataclass
class Results:
    """What the runs of a sweep came to."""

    finished: dict[Run, Result] = field(default_factory=dict)
    failed: dict[Run, str] = field(default_factory=dict)
    """What went wrong, and where its log is, as a sentence."""
    data: tuple[str, ...] = ()
    """Names of the tasks, which say so if features are those of random weights."""


def do_runs(sweep: Sweep, folder: Path, devices: Sequence[str], jobs: int | None, console: Console) -> Results:
    """Have all runs of a sweep done that are not in `folder` yet, by `jobs` processes on each of the devices.

    Raises:
        UserError: a task or a hyper-parameter makes no sense; nothing has been run then.
    """
    runs = sweep.runs()
    tasks = {spec: load_with_one_request(spec) for spec in dict.fromkeys(run.task for run in runs)}
    for task in tasks.values():
        build_network(task)
    paths = {run: folder / "runs" / f"{_name(run, tasks[run.task], devices[0])}.json" for run in runs}
    waiting = f"another process works on {folder}: waiting for it"
    with ExitStack() as stack:
        stack.enter_context(locked(folder / "lock", lambda: console.tell(waiting)))
        results = Results({run: found for run, path in paths.items() if (found := _read(path)) is not None})
        results.data = tuple(dict.fromkeys(task.name for task in tasks.values()))
        missing = [run for run in runs if run not in results.finished]
        if not missing:
            return results
        pools = [
            stack.enter_context(Workers(default_workers(device) if jobs is None else jobs, device))
            for device in devices
        ]
        for spec in dict.fromkeys(run.task for run in missing):
            with console.progress("originals", "models") as on_progress:
                ensure(tasks[spec], sweep.seeds, 0, pools[0], console.tell, on_progress)
        with console.progress("sweep", "runs") as on_progress:
            _work_off(missing, tasks, paths, pools, results, on_progress)
    return results


def _name(run: Run, task: Task, device: str) -> str:
    """The name of a run's files: a function of everything that decides its result."""
    spec = GradingSpec(run.method, run.task, run.settings)
    return f"{run.method}-{run_identity(spec, task, device)}-seed-{run.seed}"


def _read(path: Path) -> Result | None:
    """What a run that is done came to; None if it is not, or its file is damaged."""
    try:
        result = json.loads(path.read_text())
        return result if isinstance(result, dict) and "accuracy" in result else None
    except (OSError, ValueError):
        return None


def _work_off(
    runs: Sequence[Run],
    tasks: dict[TaskSpec, Task],
    paths: dict[Run, Path],
    pools: Sequence[Workers],
    results: Results,
    on_progress: OnProgress,
) -> None:
    """Give each run to the device that is free first."""
    total = len(results.finished) + len(runs)
    free = [pool for pool in pools for _ in range(pool.count)]
    queue = list(reversed(runs))
    pending: dict[Future[str | None], tuple[Run, Workers]] = {}
    try:
        while queue or pending:
            while free and queue:
                run, pool = queue.pop(), free.pop(0)
                settings = _run_settings(run, tasks[run.task], pool.device, paths[run].parent)
                pending[pool.submit(perform, settings, run.seed, paths[run])] = run, pool
            on_progress(total - len(queue) - len(pending), total)
            done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                run, pool = pending.pop(future)
                free.append(pool)
                _note(run, future, paths[run], results)
        on_progress(total, total)
    finally:
        for future in pending:
            future.cancel()


def _run_settings(run: Run, task: Task, device: str, folder: Path) -> RunSettings:
    hyper_parameters = method_settings(GradingSpec(run.method, run.task, run.settings), task)
    return RunSettings(
        task=run.task,
        device=device,
        method=run.method,
        hyper_parameters=tuple(hyper_parameters.items()),
        seed=0,
        budget_seconds=None,
        folder=folder,
    )


def _note(run: Run, future: Future[str | None], path: Path, results: Results) -> None:
    """Take over what a run has left."""
    try:
        complaint = future.result()
    except ProcessExpired as death:
        complaint = f"its process died with exit code {death.exitcode} (-9 often means: out of memory)"
    result = _read(path) if complaint is None else None
    if result is not None:
        results.finished[run] = result
    else:
        results.failed[run] = f"{run.method} failed: {complaint}. Its log: {path.with_suffix('.log')}."


def perform(settings: RunSettings, original: int, path: Path) -> str | None:
    """Do one run, from one of the originals, and write its result file. A job for a worker.

    The file has the run's settings, its `seconds`, its `accuracy` by split, the method's `history` and `certificate`
    where it leaves some (so that `python main.py certify` can read it), and `original`: the validation accuracy that
    the run started from. Returns None, or a line that says what the method did wrong; the traceback is in the log.
    """
    task = load_task(settings.task, settings.device)
    pool = Pool(task, "original")
    with logged_to(path.with_suffix(".log")):
        try:
            hyper_parameters = dict(settings.hyper_parameters)
            prepared = prepared_for(settings.method, hyper_parameters, task, original, settings.device)
            seed = run_seed(settings, original, 0)
            done = unlearn_once(settings, task, pool.state(original), seed, prepared=prepared)
            outputs = record_outputs(fresh_network(task, done.net, settings.method), task)
        except BaseException as error:  # whatever a method raises, SystemExit too, is its own failure
            traceback.print_exc()
            return f"{type(error).__name__}: {error}".rstrip(".")
    notes = done.notes if isinstance(done.notes, dict) else {}
    before = pool.outputs(original + 1)[original : original + 1]
    result = {
        "method": settings.method,
        "settings": dict(settings.hyper_parameters),
        "seed": original,
        "seconds": done.seconds,
        "accuracy": _accuracies(outputs, task),
        "original": _accuracies(before, task)["validation"],
        "history": notes.get("history", {}),
        "certificate": notes.get("certificate"),
    }
    text = json.dumps(result, indent=1)
    write_atomically(path, lambda beside: beside.write_text(text))
    return None


def _accuracies(outputs: Outputs, task: Task) -> dict[str, float]:
    """Of one model, on each split."""
    splits = ("validation", "test", "forget")
    found = {split: float(outputs.accuracy(split, task.labels(split))[0]) for split in splits}
    return {**found, "retain": float(outputs.retain_accuracy[0])}
