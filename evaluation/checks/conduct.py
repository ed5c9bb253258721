"""Making all checks of a method on a task: with as few models and runs as they need."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from checkpoints.bank import Bank, ensure
from checkpoints.outputs import Outputs
from checkpoints.pool import Pool
from checkpoints.workers import Workers
from data import Task
from evaluation.checks.bank import BANK_CHECKS, BankOutputs
from evaluation.checks.finding import Checked, make_checks
from evaluation.checks.method import METHOD_CHECKS, MethodRuns
from evaluation.checks.reload import RELOAD_CHECKS, Fingerprints, fingerprint_there
from evaluation.checks.scores import SCORE_CHECKS, ScoredOutputs
from evaluation.checks.task import TASK_CHECKS
from evaluation.checks.trying import try_method
from evaluation.console import Console
from evaluation.report import Report, read_report
from evaluation.runs.foresight import tell_seconds
from evaluation.runs.many import budget_seconds, finished_runs
from evaluation.runs.resolve import Grading
from evaluation.texts import counted

ORIGINALS, RETRAINED = 2, 4
"""Models that are trained if there are none: eight pairs for each example tell chances to some percent."""


@dataclass(frozen=True)
class CheckReport:
    """What became of the checks of a method on a task."""

    method: str
    task: str
    forget: tuple[str, ...]
    checks: tuple[Checked, ...]
    seconds: float

    @property
    def is_fine(self) -> bool:
        """Whether no error was found: a score may mean something."""
        return not any(one.finding is not None and one.finding.severity == "error" for one in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def check(grading: Grading, workers: Workers, console: Console, not_exportable: str = "") -> CheckReport:
    """Make all checks of the method and the task of a grading, which need not have been done.

    Models that are missing are trained, and stay in the bank; of the runs nothing is kept. What a grading has left is
    looked at, too, if it is done.

    Args:
        not_exportable: why there can be no notebook of the method, as a sentence.
    """
    began = time.monotonic()
    task = grading.task
    there = workers.pools[0].submit(fingerprint_there, task.spec, workers.pools[0].device)
    checks = make_checks("task", TASK_CHECKS, task)
    checks += make_checks("task", RELOAD_CHECKS, Fingerprints(task.fingerprint, there.result()))
    if all(one.finding is None for one in checks if one.name == "task is the same each time"):
        checks += _checks_with_models(grading, workers, console, not_exportable)
    forget = tuple(request.text for request in task.arrived)
    return CheckReport(grading.spec.method, task.name, forget, tuple(checks), time.monotonic() - began)


def _checks_with_models(grading: Grading, workers: Workers, console: Console, not_exportable: str) -> list[Checked]:
    task, method = grading.task, grading.method
    bank, originals, retrained = _models(task, grading.spec.models, workers, console)
    checks = make_checks("bank", BANK_CHECKS, BankOutputs(task, originals, retrained))
    allowed = budget_seconds(grading, bank.retrain_seconds)
    results, faster = try_method(grading, allowed, workers)
    runs = MethodRuns(method, task, results, faster, allowed, not_exportable)
    checks += make_checks("method", METHOD_CHECKS, runs)
    equal_is_meant = method.leaves_original or method.deterministic
    graded = _graded(grading)
    if graded is None:
        moved = [run.outputs for run in runs.finished if run.drift != 0]  # of the others enough is said
        tried = [Outputs.join(moved)] if moved else []
        scored = ScoredOutputs(task, retrained, tried, equal_is_meant)
    else:
        scored = ScoredOutputs(task, retrained, graded[0], equal_is_meant, graded[1].scores.epsilons)
    return checks + make_checks("scores", SCORE_CHECKS, scored)


def _models(task: Task, wanted: int, workers: Workers, console: Console) -> tuple[Bank, Outputs, Outputs]:
    """A bank, and the outputs of models in it: of as many retrained ones as are there, up to `wanted`."""
    pool = Pool(task, "retrained")
    models = RETRAINED
    while 2 * models <= wanted and pool.is_complete(2 * models):
        models *= 2

    def foresee(training: float, retraining: float) -> None:
        tell_seconds(training, 0, 0, console)  # runs are few

    with console.progress("bank", "models") as on_progress:
        bank = ensure(task, ORIGINALS, models, workers, console.tell, on_progress, foresee)
    return bank, bank.originals.outputs(ORIGINALS), bank.retrained.outputs(models)


def _graded(grading: Grading) -> tuple[list[Outputs], Report] | None:
    """The runs of each original, and the report, of the grading if it is done."""
    runs, report = finished_runs(grading), read_report(grading.folder / "report.json")
    if runs is None or report is None:
        return None
    count, models = grading.spec.shape
    return [runs.outputs[k * models : (k + 1) * models] for k in range(count)], report


def summary(report: CheckReport) -> str:
    """What was found, in a line."""
    found = [one.finding.severity for one in report.checks if one.finding is not None]
    numbers = [counted(found.count(kind), kind) for kind in ("error", "warning", "note") if kind in found]
    skipped = found.count("skipped")
    said = f"{counted(len(report.checks) - skipped, 'check')}: {', '.join(numbers) or 'nothing found'}"
    return f"{said}; {skipped} skipped" if skipped else said
