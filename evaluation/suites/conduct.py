"""Grading methods on a suite: tuned on one part of it, graded on the other. All steps can be interrupted."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from statistics import median

from checkpoints.bank import Foresee, ensure
from checkpoints.networks import build_network
from checkpoints.workers import Workers
from data import Task, UserError
from evaluation.catalogue.lookup import facts_of
from evaluation.console import Console
from evaluation.grading import grade_methods, load_with_one_request, tell_remarks
from evaluation.report import Report
from evaluation.runs.foresight import foreseer
from evaluation.runs.many import GradingFailedError, GradingLostError
from evaluation.runs.resolve import resolve
from evaluation.suites.result import HeldOut, Rule, SuiteResult
from evaluation.suites.suite import Problem, Suite
from evaluation.texts import counted
from evaluation.tuned import Tuned, search_in
from evaluation.tuning import TuningResult, can_be_tuned, check_trials, search

LONGEST_COMPLAINT = 2000
"""Characters of it that a result keeps."""


@dataclass
class _Entry:
    """A method with the values of one rule, and what it has come to so far."""

    method: str
    rule: Rule
    tuned: Tuned | None
    on_tuning_part: float | None
    found: list[HeldOut] = field(default_factory=list)
    remarks: dict[str, None] = field(default_factory=dict)
    """What is odd about its runs, in order, each once."""
    seconds: float = 0.0
    lost: GradingLostError | None = None
    """Why it has no result: workers were lost again and again."""


def grade_on_suite(
    suite: Suite, methods: Sequence[str], trials: int | None, workers: Workers, console: Console
) -> list[SuiteResult | GradingLostError]:
    """Tune methods by so many trials on the tuning part, unless `trials` is None, and grade them on the held-out part.

    A method that has tuned values, from now or from before, is graded with them and with its published ones. Results
    are kept in the folder of the suite, too.

    Raises:
        UserError: a task of the suite, or a method's search space, is wrong; or the work is so long that it is asked
            about, and the answer is no.
    """
    tasks = _load_tasks(suite)
    if trials is not None:
        _tune(suite, methods, trials, workers, console)
    entries = [entry for method in methods for entry in _entries(suite, method, tasks[0], workers.device, console)]
    bank, budgets = _make_banks(suite, entries, tasks, workers, console)
    label = methods[0] if len(methods) == 1 else counted(len(methods), "method")
    done, total = 0, len(entries) * len(suite.held_out)
    with console.progress(label, "gradings") as on_progress:
        for problem in suite.held_out:
            specs = [problem.graded(entry.method, entry.tuned, budgets[problem.kind]) for entry in entries]
            began = time.monotonic()
            on_progress(done, total)
            for entry, result in zip(entries, grade_methods(specs, workers, Console(quiet=True)), strict=True):
                _note(entry, problem, result)
                entry.seconds += time.monotonic() - began
                began = time.monotonic()
                done += 1
                on_progress(done, total)
    return [_conclude(entry, suite, bank, console) for entry in entries]


def _load_tasks(suite: Suite) -> list[Task]:
    """The tasks of all held-out gradings; those of the tuning part are looked at, too, before any work is done.

    Raises:
        UserError: one can't be loaded; or two are of the same forget set, however it is written.
    """
    found: dict[tuple[str, str, str], Problem] = {}
    tasks = []
    for problem in (*suite.held_out, *suite.tuning):
        where = f"suite {suite.name}, kind {problem.kind}"
        try:
            task = load_with_one_request(problem.grading.task)
            build_network(task)  # if there is no such network, now is the time to say so
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        forgotten = hashlib.sha256(task.forget_indices.tobytes()).hexdigest()
        other = found.setdefault((task.data_sha256, str((task.network, task.recipe)), forgotten), problem)
        if other is not problem:
            raise UserError(f"{where}: {problem.request} and {other.request} forget the same images; leave out one.")
        tasks.append(task)
    return tasks[: len(suite.held_out)]


def _tune(suite: Suite, methods: Sequence[str], trials: int, workers: Workers, console: Console) -> None:
    """Search for values of the methods that have some to search for, on the tuning part.

    Raises:
        UserError: there is no such part, or less than one trial; or as `search` does.
    """
    if not suite.tuning:
        raise UserError(f"Suite {suite.name} has no tuning part: leave out --trials.")
    check_trials(trials)
    for method in methods:
        if not can_be_tuned(method):
            console.tell(f"{method} has no search_space: it is graded as it is")
            continue
        specs = [problem.graded(method) for problem in suite.tuning]
        console.tell(_in_words(search(specs, trials, suite.tuned_path, workers, console)))


def _in_words(result: TuningResult) -> str:
    """What a search came to, in a line."""
    values = ", ".join(f"{name}={value}" for name, value in result.settings.items())
    failed = f", {result.failed} failed ({result.why_failed})" if result.failed else ""
    return (
        f"{result.method}: {result.score:.4f} on the tuning part, published {result.published_score:.4f} "
        f"({counted(result.trials, 'trial')}{failed}): {values}"
    )


def _entries(suite: Suite, method: str, task: Task, device: str, console: Console) -> list[_Entry]:
    """What a method is graded with: tuned values, if there are some that fit its code, and its own."""
    facts = facts_of(method)
    own: Rule = "self-tuned" if facts.self_tuning else "published"
    path, again = suite.tuned_path, f"python main.py suite {suite.name} -m {method} --trials N tunes it"
    found = search_in(path, method)
    if found is None:
        return [_Entry(method, own, None, None)]
    if found.code not in (facts.code_hash, None):
        console.tell(f"{method} was tuned with other code than it has now: it is graded as published. {again} again.")
        return [_Entry(method, own, None, None)]
    try:
        resolve(suite.held_out[0].graded(method, found.tuned), task, device)
    except UserError as error:
        console.tell(f"{method} can't use its values in {path} ({error}): it is graded as published. {again} again.")
        return [_Entry(method, own, None, None)]
    return [_Entry(method, "tuned", found.tuned, found.best), _Entry(method, own, None, found.published)]


def _make_banks(
    suite: Suite, entries: Sequence[_Entry], tasks: Sequence[Task], workers: Workers, console: Console
) -> tuple[str, dict[str, float]]:
    """Train the models of all held-out gradings that are missing: a hash of all, and the seconds that a run may take.

    The seconds are by kind, of the median time of retraining: each is measured once, and the machine may have been busy
    or idle then. Before training, say, or ask, how long all may take, by what the first of the gradings would.
    """
    first, times = suite.held_out[0].grading, len(suite.held_out)
    console.tell(
        f"{suite.name}: {counted(times, 'held-out grading')}, "
        f"each of {counted(first.originals, 'original')} x {first.models} runs"
    )
    gradings = [
        [resolve(problem.graded(entry.method, entry.tuned), task, workers.device) for entry in entries]
        for problem, task in zip(suite.held_out, tasks, strict=True)
    ]
    tell_remarks(gradings[0], console)
    digest = hashlib.sha256()
    foresee: Foresee | None = foreseer(gradings[0], workers, console, banks=times, times=times)
    seconds: dict[str, list[float]] = {}
    for problem, task in zip(suite.held_out, tasks, strict=True):
        with console.progress("bank", "models") as on_progress:
            bank = ensure(task, first.originals, first.models, workers, console.tell, on_progress, foresee)
        foresee = None  # told once, of all
        originals, retrained = bank.originals.outputs(first.originals), bank.retrained.outputs(first.models)
        digest.update(bank.fingerprint(originals, retrained).encode())
        seconds.setdefault(problem.kind, []).append(bank.retrain_seconds)
    return digest.hexdigest()[:12], {kind: first.budget * median(some) for kind, some in seconds.items()}


def _note(entry: _Entry, problem: Problem, result: Report | GradingFailedError) -> None:
    """Add a grading to what the method has come to. One that failed is worth nothing, as on Kaggle."""
    kind, request = problem.kind, problem.request
    if isinstance(result, GradingLostError):
        entry.lost = result
    elif isinstance(result, GradingFailedError):
        entry.found.append(HeldOut(kind, request, 0.0, 0.0, 0.0, 0.0, 0.0, str(result)[:LONGEST_COMPLAINT]))
    else:
        scores, overlap = result.scores, result.scores.overlap
        entry.found.append(
            HeldOut(
                kind,
                request,
                share=scores.share_of_ceiling or 0.0,
                overlap=0.0 if overlap is None else overlap.value,
                retain_ratio=scores.retain_ratio,
                test_ratio=scores.test_ratio,
                budget_used=result.cost.budget_fraction_used or 0.0,
            )
        )
        entry.remarks |= dict.fromkeys(result.remarks)


def _conclude(entry: _Entry, suite: Suite, bank: str, console: Console) -> SuiteResult | GradingLostError:
    """Write down what a method came to, and say what is odd about it."""
    for remark in entry.remarks:
        console.tell(f"{entry.method}: {remark}")
    if entry.lost is not None:
        return entry.lost
    facts = facts_of(entry.method)
    result = SuiteResult(
        method=entry.method,
        rule=entry.rule,
        trials=entry.tuned.trials if entry.tuned else None,
        settings=dict(entry.tuned.settings) if entry.tuned else {},
        exempt_from_budget=facts.exempt_from_budget,
        code=facts.code_hash,
        bank=bank,
        models=suite.held_out[0].grading.models,
        held_out=tuple(entry.found),
        on_tuning_part=entry.on_tuning_part,
        seconds=entry.seconds,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    result.save(suite.folder)
    for part in result.failures:
        console.tell(f"{entry.method} ({entry.rule}) failed on {part.request}, which counts as 0: {part.failure}")
    return result
