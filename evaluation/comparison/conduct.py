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
    share_of_error,
    verdict_on,
)
from evaluation.console import Console, in_words
from evaluation.grading import grade_methods
from evaluation.report import Report
from evaluation.runs.many import GradingFailedError
from evaluation.spec import GradingSpec
from evaluation.texts import counted


@dataclass(frozen=True)
class Pair:
    """Two methods, and what is known of which is better."""

    first: str
    second: str
    originals: int
    """That both were graded with."""
    difference: Difference
    """Of the first one's score less that of the second. The interval counts all looks and all pairs."""
    verdict: Verdict
    """On the first."""
    originals_to_decide: int | None
    """How many it would take if the differences stay as they are; None if that is beyond measure."""


@dataclass(frozen=True)
class Comparison:
    """What became of a comparison."""

    pairs: tuple[Pair, ...]
    reports: tuple[Report, ...]
    """Of each method, the last one: with the most originals."""
    seconds: float
    stopped: bool
    """Whether the time was over before the last look."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        pairs = [asdict(pair) for pair in self.pairs]
        scores = {report.method.name: report.scores.score_by_original for report in self.reports}
        about = {"error": ERROR, "looks": list(LOOKS), "seconds": self.seconds, "stopped": self.stopped}
        return {**about, "pairs": pairs, "score_by_original": scores}


def compare(specs: Sequence[GradingSpec], minutes: float, workers: Workers, console: Console) -> Comparison:
    """Grade the methods of `specs`, which differ in nothing else, with more and more originals.

    What earlier gradings, or an interrupted comparison, have left is not done again.

    Raises:
        UserError: there are less than two methods, or no time; or a method failed.
    """
    check_comparison(specs, minutes)
    began = time.monotonic()
    pairs = list(combinations([spec.method for spec in specs], 2))
    found: dict[tuple[str, str], Pair] = {}
    reports: dict[str, Report] = {}
    rate = 0.0  # seconds for an original of a method, in the look before
    for before, originals in zip((0, *LOOKS), LOOKS, strict=False):
        waiting = [pair for pair in pairs if pair not in found or found[pair].verdict == "undecided"]
        chosen = [replace(spec, originals=originals) for spec in specs if spec.method in {*chain(*waiting)}]
        if not chosen:
            break
        expected, spent = rate * (originals - before) * len(chosen), time.monotonic() - began
        if before and spent + expected > 60 * minutes:
            console.tell(
                f"{originals} originals would take about {in_words(expected)} more, and {in_words(spent)} of "
                f"{in_words(60 * minutes)} are over: --minutes allows more, and nothing is done twice"
            )
            break
        began_look = time.monotonic()
        for report in grade_methods(chosen, workers, console):
            if isinstance(report, GradingFailedError):
                raise report
            reports[report.method.name] = report
        rate = (time.monotonic() - began_look) / ((originals - before) * len(chosen))
        found |= {pair: judge(pair, reports, share_of_error(len(pairs))) for pair in waiting}
        decided = sum(pair.verdict != "undecided" for pair in found.values())
        console.tell(f"{originals} originals: {decided} of {counted(len(pairs), 'pair')} decided")
    stopped = any(pair.verdict == "undecided" and pair.originals < LOOKS[-1] for pair in found.values())
    last = tuple(reports[spec.method] for spec in specs)
    return Comparison(tuple(found[pair] for pair in pairs), last, time.monotonic() - began, stopped)


def check_comparison(specs: Sequence[GradingSpec], minutes: float) -> None:
    """Raise `UserError` if there is nothing to compare, or no time for it."""
    if len(specs) < 2:
        raise UserError("To compare takes two methods: -m my_method,finetune.")
    if not 0 < minutes < float("inf"):
        raise UserError(f"--minutes must be greater than 0 and finite, not {minutes:g}.")


def judge(pair: tuple[str, str], reports: Mapping[str, Report], error: float) -> Pair:
    """A look at two methods, which may be wrong with chance `error`."""
    first, second = (np.array(reports[name].scores.score_by_original) for name in pair)
    differences = first - second  # (originals,)
    difference = mean_difference(differences, error)
    verdict = verdict_on(difference)
    needed = originals_to_decide(differences, error) if verdict == "undecided" else None
    return Pair(*pair, len(differences), difference, verdict, needed)
