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
from evaluation.grading import announce, make_report, tell_remarks
from evaluation.report import Report
from evaluation.runs.foresight import foreseer
from evaluation.runs.many import GradingFailedError, finished_runs, unlearn
from evaluation.runs.resolve import Grading, resolve
from evaluation.runs.settings import run_path
from evaluation.spec import GradingSpec


@dataclass(frozen=True)
class SequenceReport:
    """The reports after each request, and that of all requests at once."""

    steps: list[Report]
    """After each request, in order."""
    at_once: Report
    """All requests in one run from the originals."""

    def to_dict(self) -> dict[str, Any]:
        """As what `sequence.json` holds."""
        return {"steps": [report.to_dict() for report in self.steps], "at_once": self.at_once.to_dict()}

    def save(self, folder: Path) -> None:
        """Write `sequence.json`."""
        text = json.dumps(self.to_dict(), indent=1) + "\n"
        write_atomically(folder / "sequence.json", lambda beside: beside.write_text(text))


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
    first = specs[0]
    tasks = [load(task) for task in stages_of(first.task)]
    chains = [_resolve_all(spec, tasks, workers.device) for spec in specs]
    announce(first, tasks[-1], workers, console)
    gradings, pools = [grading for chain in chains for grading in chain], len(tasks) - 1
    tell_remarks(gradings, console)
    banks: list[Bank] = []
    for number, task in enumerate(tasks[:-1], start=1):
        foresee = foreseer([] if banks else gradings, workers, console, 1 if banks else pools)
        with console.progress(f"bank {number}/{pools}", "models") as on_progress:
            needed = first.originals_needed, first.models
            banks.append(ensure(task, *needed, workers, console.tell, on_progress, foresee))
    banks.append(ensure(tasks[-1], first.originals_needed, first.models, workers, console.tell))  # only new outputs
    for chain in chains:
        try:
            yield _grade_one(chain, banks, workers, console, began)
        except GradingFailedError as error:
            yield error
        began = time.monotonic()


def _resolve_all(spec: GradingSpec, tasks: Sequence[Task], device: str) -> list[Grading]:
    """The gradings that a sequence consists of; each step goes on from the one before, the last from the originals."""
    chain: list[Grading] = []
    for task in tasks:
        previous = chain[-1] if task.spec.step else None
        chain.append(resolve(replace(spec, task=task.spec), task, device, previous))
    return chain


def _grade_one(
    chain: Sequence[Grading], banks: Sequence[Bank], workers: Workers, console: Console, began: float
) -> SequenceReport:
    """Grade every stage; the weights that lead from one step to the next are removed in the end."""
    method = chain[0].spec.method
    done = [finished_runs(grading) for grading in chain]
    reports = []
    for number, (grading, bank) in enumerate(zip(chain, banks, strict=True), start=1):
        unlearned = done[number - 1]
        if unlearned is None or None in done:  # one step has to be done again, and may need the weights of another
            label = f"{method} {number}/{len(chain) - 1}" if number < len(chain) else f"{method} at once"
            with console.progress(label, "runs") as on_progress:
                unlearned = unlearn(grading, bank, workers, console.tell, on_progress)
        report = make_report(grading, bank, unlearned, workers, began)
        report.save(grading.folder)
        reports.append(report)
        began = time.monotonic()
    for stage in chain:
        for original, run in stage.spec.runs():
            run_path(stage.folder, original, run, ".pt").unlink(missing_ok=True)
    sequence = SequenceReport(reports[:-1], reports[-1])
    sequence.save(chain[-2].folder)
    return sequence
