"""Several forget requests, one after another: for each, the method is called on the model that the one before left.

After each request the models are graded like any others: against models retrained on what is left by then, on all that
has to be forgotten by then. So the report of the last step says how good the method is after all requests, and its F of
each request says whether one that was forgotten early has come back. In the end the same method forgets all requests at
once, in one run from the originals: what it costs to do it step by step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from checkpoints.bank import Bank, ensure
from checkpoints.workers import Workers
from data import Task, TaskSpec, load
from data.files import write_atomically
from evaluation.console import Console
from evaluation.grading import announce, make_report
from evaluation.report import Report
from evaluation.runs.many import GradingFailedError, finished_runs, unlearn
from evaluation.runs.one import run_path
from evaluation.spec import GradingSpec, grading_folder, method_settings


@dataclass(frozen=True)
class SequenceReport:
    """The reports after each request, and that of all requests at once."""

    steps: list[Report]
    at_once: Report

    def to_dict(self) -> dict[str, Any]:
        """As what `sequence.json` holds."""
        return {"steps": [report.to_dict() for report in self.steps], "at_once": self.at_once.to_dict()}

    def save(self, folder: Path) -> None:
        """Write `sequence.json`."""
        text = json.dumps(self.to_dict(), indent=1) + "\n"
        write_atomically(folder / "sequence.json", lambda beside: beside.write_text(text))


@dataclass(frozen=True)
class _Stage:
    """One of the gradings that a sequence consists of."""

    task: Task
    bank: Bank

    def spec(self, of: GradingSpec) -> GradingSpec:
        return replace(of, task=self.task.spec)


def stages_of(task: TaskSpec) -> list[TaskSpec]:
    """The task after each request, and with all requests at once."""
    steps = [replace(task, step=step) for step in range(len(task.forget))]
    return [*steps, replace(task, at_once=True)]


def grade_sequences(
    specs: Sequence[GradingSpec], workers: Workers, console: Console
) -> Iterator[SequenceReport | GradingFailedError]:
    """Grade methods on a task with several requests, one method after another; one that fails stops no other.

    Raises:
        UserError: the task or the settings of a method are wrong; nothing has been run then.
    """
    began = time.monotonic()
    tasks = [load(task) for task in stages_of(specs[0].task)]
    for spec in specs:
        method_settings(spec, tasks[0])
    announce(specs[0], tasks[-1], workers, console)
    stages = []
    for number, task in enumerate(tasks[:-1], start=1):
        with console.progress(f"bank {number}/{len(tasks) - 1}", "models") as on_progress:
            bank = ensure(task, specs[0].originals_needed, specs[0].models, workers, console.tell, on_progress)
        stages.append(_Stage(task, bank))
    bank = ensure(tasks[-1], specs[0].originals_needed, specs[0].models, workers, console.tell)  # only new outputs
    stages.append(_Stage(tasks[-1], bank))
    for spec in specs:
        try:
            yield _grade_one(spec, stages, workers, console, began)
        except GradingFailedError as error:
            yield error
        began = time.monotonic()


def _grade_one(
    spec: GradingSpec, stages: Sequence[_Stage], workers: Workers, console: Console, began: float
) -> SequenceReport:
    """Grade every stage; the weights that lead from one step to the next are removed in the end."""
    folders = [grading_folder(stage.spec(spec), stage.task, workers.device) for stage in stages]
    done = [finished_runs(stage.spec(spec), stage.task, workers.device) for stage in stages]
    reports = []
    for number, stage in enumerate(stages, start=1):
        unlearned = done[number - 1]
        if unlearned is None or None in done:  # one step has to be done again, and may need the weights of another
            label = f"{spec.method} {number}/{len(stages) - 1}" if number < len(stages) else f"{spec.method} at once"
            with console.progress(label, "runs") as on_progress:
                unlearned = unlearn(stage.spec(spec), stage.task, stage.bank, workers, console.tell, on_progress)
        report = make_report(stage.spec(spec), stage.task, stage.bank, unlearned, workers, began)
        report.save(folders[number - 1])
        reports.append(report)
        began = time.monotonic()
    for folder, (original, run) in ((folder, key) for folder in folders for key in spec.runs()):
        run_path(folder, original, run, ".pt").unlink(missing_ok=True)
    sequence = SequenceReport(reports[:-1], reports[-1])
    sequence.save(folders[-2])
    return sequence
