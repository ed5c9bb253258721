"""Comparing methods: originals are added until each pair is decided, all of `LOOKS` are done, or the time is over."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations
from typing import Any

import numpy as np

from checkpoints.workers import Workers
from data import UserError
from evaluation.comparison.sequential import (
    ERROR,
    LOOKS,
    Difference,
    Verdict,
    mean_difference,
    originals_to_decide,
    p_of_look,
    share_of_error,
    verdict_on,
)
from evaluation.console import Console, in_words
from evaluation.grading import grade_methods, load_with_one_request
from evaluation.report import Report
from evaluation.runs.many import finished_runs
from evaluation.runs.resolve import resolve
from evaluation.spec import GradingSpec
from evaluation.texts import counted

SECONDS_AROUND_A_RUN = 0.05
"""What a run takes beside the method's own time: its process, and recording what it left."""


@dataclass(frozen=True)
class Pair:
    """Two methods, and what is known of which is better."""

    first: str
    second: str
    originals: int
    """That both were graded with."""
    difference: Difference
    """Of the first one's score less that of the second. All such intervals, at all looks, hold together."""
    verdict: Verdict
    """On the first."""
    p: float
    """The smallest error, for all looks and pairs, at which there would be a verdict by now."""
    originals_to_decide: int | None
    """How many it would take if the differences stay as they are; None if it is decided, or that is beyond measure."""

    @property
    def is_equal(self) -> bool:
        """Whether both have the very same score with each original."""
        return self.difference == Difference(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Comparison:
    """What became of a comparison."""

    pairs: tuple[Pair, ...]
    """All that were looked at: of a method that failed later, as they were before."""
    reports: tuple[Report, ...]
    """Of each method, the last one: with the most originals."""
    failures: tuple[UserError, ...]
    seconds: float
    error: float
    """The chance of a wrong verdict, on any pair at any look."""
    why_stopped: str
    """Why the last look was not made though a pair is undecided; empty if it was, or none is."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        about = {"error": self.error, "looks": list(LOOKS), "seconds": self.seconds, "why_stopped": self.why_stopped}
        failures = [str(error) for error in self.failures]
        reports = [report.to_dict() for report in self.reports]
        return {**about, "pairs": [asdict(pair) for pair in self.pairs], "failures": failures, "reports": reports}


def compare(
    specs: Sequence[GradingSpec], minutes: float, workers: Workers, console: Console, error: float = ERROR
) -> Comparison:
    """Grade the methods of `specs`, which differ in nothing else, with more and more originals.

    Runs that earlier gradings, or an interrupted comparison, have left are not done again. The first look is made
    however long it takes.

    Raises:
        UserError: there are less than two methods, or no time, or `error` is no probability.
        GradingFailedError: so many methods failed that no pair is left.
    """
    check_comparison(specs, minutes, error)
    began = time.monotonic()
    found: dict[tuple[str, str], Pair] = {}
    reports: dict[str, Report] = {}
    failures: dict[str, UserError] = {}
    all_pairs = list(combinations([spec.method for spec in specs], 2))
    why_stopped = ""
    for before, originals in zip((0, *LOOKS), LOOKS, strict=False):
        pairs = [pair for pair in all_pairs if not failures.keys() & {*pair}]
        waiting = [pair for pair in pairs if pair not in found or _is_open(found[pair])]
        chosen = [replace(spec, originals=originals) for spec in specs if spec.method in {*chain(*waiting)}]
        if not chosen:
            break
        left = 60 * minutes - (time.monotonic() - began)
        if before and (expected := _expected_seconds(chosen, before, reports, workers)) > left:
            why_stopped = (
                f"{originals} originals would take about {in_words(expected)} more: --minutes allows more than "
                f"{minutes:g}, and no run is done twice"
            )
            break
        try:
            for spec, result in zip(chosen, grade_methods(chosen, workers, console), strict=True):
                if isinstance(result, Report):
                    reports[spec.method] = result
                else:
                    failures[spec.method] = result
        except UserError as problem:  # so much work that it is asked about, and nobody is there to answer
            if not before:
                raise
            why_stopped = str(problem)
            break
        judged = [pair for pair in waiting if not failures.keys() & {*pair}]
        found |= {pair: judge(pair, reports, len(all_pairs), error, found.get(pair)) for pair in judged}
        decided = sum(pair.verdict != "undecided" for pair in found.values())
        console.tell(f"{originals} originals: {decided} of {counted(len(all_pairs), 'pair')} decided")
    if not found:
        raise next(iter(failures.values()))
    last = tuple(reports[spec.method] for spec in specs if spec.method in reports)
    verdicts = tuple(found[pair] for pair in all_pairs if pair in found)
    return Comparison(verdicts, last, tuple(failures.values()), time.monotonic() - began, error, why_stopped)


def _is_open(pair: Pair) -> bool:
    """Whether more originals may decide: not if two methods leave the very same with each so far."""
    return pair.verdict == "undecided" and not pair.is_equal


def _expected_seconds(
    specs: Sequence[GradingSpec], before: int, reports: Mapping[str, Report], workers: Workers
) -> float:
    """What the runs from originals beyond the first `before` may take, by how long those of the look before took."""
    task = load_with_one_request(specs[0].task)
    seconds = 0.0
    for spec in specs:
        if finished_runs(resolve(spec, task, workers.device)) is None:
            a_run = (reports[spec.method].cost.runs_seconds_mean or 0.0) + SECONDS_AROUND_A_RUN
            seconds += (spec.originals - before) * spec.models * a_run / workers.count
    return seconds


def check_comparison(specs: Sequence[GradingSpec], minutes: float, error: float) -> None:
    """Raise `UserError` if there is nothing to compare, or no time for it, or the error is none."""
    if len(specs) < 2:
        raise UserError("To compare takes two methods: -m my_method,finetune.")
    if not 0 < minutes < float("inf"):
        raise UserError(f"--minutes must be greater than 0 and finite, not {minutes:g}.")
    if not 0 < error < 1:
        raise UserError(f"--error is a chance between 0 and 1, not {error:g}.")


def judge(
    pair: tuple[str, str], reports: Mapping[str, Report], pairs: int, error: float, before: Pair | None = None
) -> Pair:
    """A look at two methods, after the one `before`; all looks at so many pairs may be wrong with chance `error`."""
    first, second = (np.array(reports[name].scores.score_by_original) for name in pair)
    differences = first - second  # (originals,)
    of_this_look = share_of_error(pairs, error)
    difference = mean_difference(differences, of_this_look)
    verdict = verdict_on(difference)
    p = min(p_of_look(differences, pairs), 1.0 if before is None else before.p)
    needed = originals_to_decide(differences, of_this_look) if verdict == "undecided" else None
    return Pair(*pair, len(differences), difference, verdict, p, needed)
