"""Grading methods on a suite: tuned on one part of it, graded on the other. All steps can be interrupted."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from checkpoints.bank import Foresee, ensure
from checkpoints.workers import Workers
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
from evaluation.tuned import Tuned, shares_on_tuning, tuned_in
from evaluation.tuning import can_be_tuned, search

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
    if trials is not None:
        _tune(suite, methods, trials, workers, console)
    entries = [entry for method in methods for entry in _entries(suite, method)]
    bank = _make_banks(suite, entries, workers, console)
    label = methods[0] if len(methods) == 1 else counted(len(methods), "method")
    done, total = 0, len(entries) * len(suite.held_out)
    with console.progress(label, "gradings") as on_progress:
        for problem in suite.held_out:
            specs = [problem.graded(entry.method, entry.tuned) for entry in entries]
            began = time.monotonic()
            on_progress(done, total)
            for entry, result in zip(entries, grade_methods(specs, workers, Console(quiet=True)), strict=True):
                _note(entry, problem, result)
                entry.seconds += time.monotonic() - began
                began = time.monotonic()
                done += 1
                on_progress(done, total)
    return [_conclude(entry, suite, bank, console) for entry in entries]


def _tune(suite: Suite, methods: Sequence[str], trials: int, workers: Workers, console: Console) -> None:
    """Search for values of the methods that have some to search for, on the tuning part."""
    for method in methods:
        if suite.tuning and can_be_tuned(method):
            specs = [problem.graded(method) for problem in suite.tuning]
            search(specs, trials, suite.tuned_path, workers, console)


def _entries(suite: Suite, method: str) -> list[_Entry]:
    """What a method is graded with: tuned values, if there are some, and its own."""
    own: Rule = "self-tuned" if facts_of(method).self_tuning else "published"
    tuned = tuned_in(suite.tuned_path, method)
    if tuned is None:
        return [_Entry(method, own, None, None)]
    best, published = shares_on_tuning(suite.tuned_path, method)
    return [_Entry(method, "tuned", tuned, best), _Entry(method, own, None, published)]


def _make_banks(suite: Suite, entries: Sequence[_Entry], workers: Workers, console: Console) -> str:
    """Train the models of all held-out gradings that are missing, and return a hash of all of them.

    Before that, say, or ask, how long all may take, by what the first of the gradings would.
    """
    first, times = suite.held_out[0].grading, len(suite.held_out)
    console.tell(
        f"{suite.name}: {counted(times, 'held-out grading')}, "
        f"each of {counted(first.originals, 'original')} x {first.models} runs"
    )
    digest = hashlib.sha256()
    foresee: Foresee | None = None
    for problem in suite.held_out:
        grading = problem.grading
        task = load_with_one_request(grading.task)
        specs = [problem.graded(entry.method, entry.tuned) for entry in entries]
        gradings = [resolve(spec, task, workers.device) for spec in specs]
        if problem is suite.held_out[0]:
            tell_remarks(gradings, console)
            foresee = foreseer(gradings, workers, console, banks=times, times=times)
        with console.progress("bank", "models") as on_progress:
            bank = ensure(task, grading.originals, grading.models, workers, console.tell, on_progress, foresee)
        foresee = None  # told once, of all
        originals, retrained = bank.originals.outputs(grading.originals), bank.retrained.outputs(grading.models)
        digest.update(bank.fingerprint(originals, retrained).encode())
    return digest.hexdigest()[:12]


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
