"""`--debug` and `--quick`: runs of a method in this process, and what its author wants to know of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from checkpoints.bank import Bank
from checkpoints.outputs import Outputs
from checkpoints.workers import Workers
from data import Task, UserError
from evaluation.console import Console
from evaluation.grading import load_with_one_request, remarks_on, tell_remarks
from evaluation.runs.debug import DebugRun, run_here
from evaluation.runs.foresight import ensure_original
from evaluation.runs.many import budget_seconds
from evaluation.runs.resolve import Grading, resolve
from evaluation.spec import GradingSpec


def ready_to_debug(spec: GradingSpec, workers: Workers, console: Console) -> tuple[Grading, Bank]:
    """What a run in this process needs: the first original, which is trained if the bank lacks it, and nothing else.

    Raises:
        UserError: the task or the settings of the method are wrong.
    """
    task = load_with_one_request(spec.task, workers.device)
    grading = resolve(spec, task, workers.device)
    tell_remarks([grading], console)
    return grading, ensure_original(task, workers, console)


def debug(grading: Grading, bank: Bank, runs: int = 1) -> None:
    """Run the method so many times, and print what it came to.

    Raises:
        UserError: the method failed, or a grading would refuse what it left.
    """
    name = grading.spec.method
    for run in range(runs):
        done = run_here(grading, run)
        if run == 0:
            which = "run 0" if runs == 1 else f"{runs} runs"
            print(f"{name}: {which} from original 0, in this process; nothing is stored")
            print("\n".join([*_lines(grading, bank, done), *_accuracies(grading.task, done, runs)]))
            first = done
        else:
            print(f"{_row(f'run {run}', done.after, grading.task)}  {done.seconds:.2g} s")
            if _are_equal(first, done) and not (grading.method.leaves_original or grading.method.deterministic):
                print(f"remark      runs 0 and {run} have left the same outputs: their seeds make no difference")
        if done.complaint:
            raise UserError(f"A grading would fail: {done.complaint.rstrip('.')}.")


def _are_equal(one: DebugRun, other: DebugRun) -> bool:
    """Whether two runs have left the same outputs, and there are some."""
    if one.after is None or other.after is None:
        return False
    return np.array_equal(one.after.forget, other.after.forget) and np.array_equal(one.after.test, other.after.test)


def _lines(grading: Grading, bank: Bank, done: DebugRun) -> Iterator[str]:
    yield f"time        {_time(grading, bank, done)}"
    if math.isfinite(done.drift):
        changed = f"changed by {done.drift:.2g} of their length" if done.drift else "unchanged"
        yield f"weights     {changed}, all finite"
    for remark in remarks_on(grading.method, np.array([done.drift])):
        yield f"remark      {remark}"


def _time(grading: Grading, bank: Bank, done: DebugRun) -> str:
    said = f"{done.seconds:.2g} s, {done.seconds / bank.retrain_seconds:.2g} of retraining"
    if done.prepare_seconds is not None:
        said += f", after {done.prepare_seconds:.2g} s of prepare"
    allowed = budget_seconds(grading, bank.retrain_seconds)
    if allowed is None:
        return f"{said} (exempt from the budget)"
    share = f"{100 * done.seconds / allowed:,.0f} % of the budget of {allowed:.2g} s"
    return f"{said}; {share}{', for which a grading would kill it' if done.seconds > allowed else ''}"


def _accuracies(task: Task, done: DebugRun, runs: int) -> Iterator[str]:
    """A table: the accuracy on three sets, before and after; of several runs, it is that of the first."""
    yield "accuracy    retain  forget  validation"
    for name, outputs in (("before", done.before), ("after" if runs == 1 else "run 0", done.after)):
        if outputs is not None:
            yield _row(name, outputs, task)


def _row(name: str, outputs: Outputs | None, task: Task) -> str:
    if outputs is None:
        return f"  {name:<10}nothing that could be scored"
    retain, forget, validation = _shares(outputs, task)
    return f"  {name:<10}{retain:<8.3f}{forget:<8.3f}{validation:.3f}"


def _shares(outputs: Outputs, task: Task) -> list[float]:
    """On the retain, forget and validation set, of one model."""
    return [
        float(outputs.retain_accuracy[0]),
        *(float(outputs.accuracy(split, task.labels(split))[0]) for split in ("forget", "validation")),
    ]
