"""The local leaderboard: comparable reports with the ranks that they may have, old versions of methods marked."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from evaluation.catalogue.facts import MethodFacts
from evaluation.catalogue.lookup import look_up
from evaluation.comparison.ranks import groups, rank_intervals, surely_better
from evaluation.report import Report

MIN_MODELS_FOR_RANK = 32
"""Peers that graded with 3 models ranked doing nothing above the competition's winner."""
MARK = " !"
WHY_MARKED = "hardly possible for an honest method: see its report, and docs/trust.md"
WHY_NO_RANK = "F takes too few values to tell methods apart, and flatters bad ones"

Codes = Mapping[str, str]
"""By the name of a method: the hash of its code as it is now, see `MethodRecord.code`."""
UNKNOWN: Codes = MappingProxyType({})


@dataclass(frozen=True)
class Rank:
    """Where one of several reports stands: by its score, and for sure, see `evaluation/comparison/ranks.py`."""

    place: int
    """By the number that counts, from 1."""
    low: int
    """The best rank that it may have; the intervals of all ranked rows of a table hold together."""
    high: int
    """The worst."""
    group: int
    """From 0. The first row of a group is surely worse than the first of the group above."""
    tied: bool
    """Whether the ranked row above is not surely better."""

    @property
    def interval(self) -> str:
        """In words."""
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"


@dataclass(frozen=True)
class Row:
    """A row of a table: a report, and its rank (None if it has none)."""

    rank: Rank | None
    report: Report
    is_old: bool = False
    """Whether the method's code has changed since."""


def current_codes(methods: Iterable[str]) -> dict[str, str]:
    """The code of methods as it is now, of those that can be used."""
    found = look_up(sorted(set(methods)))
    return {name: facts.code_hash for name, facts in found.items() if isinstance(facts, MethodFacts)}


def _as_of(report: Report) -> list[float] | None:
    return None if report.scores.as_of is None else report.scores.as_of.forgetting_quality_by_original


NUMBERS: dict[str, Callable[[Report], list[float] | None]] = {
    "score": lambda report: report.scores.score_by_original,
    "overlap": lambda report: report.scores.overlap_by_original,
    "as-of-512": _as_of,
}
"""What methods can be ranked by: a number for each original, of which the mean counts; None where it is not known."""


def tables(reports: Sequence[Report], codes: Codes = UNKNOWN, by: str = "score") -> list[list[Row]]:
    """Reports that can be compared, ranked `by` one of `NUMBERS`, one list for each set of `Report.conditions`.

    Of a method that `codes` does not have, the version that was graded last counts as the present one.
    """
    codes = {**_graded_last(reports), **codes}
    comparable: dict[tuple[object, ...], list[Report]] = defaultdict(list)
    for report in reports:
        comparable[report.conditions].append(report)
    return [rank(comparable[conditions], codes, by) for conditions in sorted(comparable, key=str)]


def rank(reports: Sequence[Report], codes: Codes = UNKNOWN, by: str = "score") -> list[Row]:
    """Rank comparable reports; references that are exempt from the budget, and unknown numbers, get no rank."""
    codes = {**_graded_last(reports), **codes}
    numbers = {id(report): NUMBERS[by](report) for report in reports}
    values = {key: -np.inf if of_originals is None else np.mean(of_originals) for key, of_originals in numbers.items()}
    in_order = sorted(reports, key=lambda report: (-values[id(report)], -report.scores.score.value))
    ranked = [report for report in in_order if _has_rank(report) and numbers[id(report)] is not None]
    ranks = dict(zip(map(id, ranked), ranks_of([numbers[id(report)] or [] for report in ranked]), strict=True))
    rows = []
    for report in in_order:
        is_old = report.method.code is not None and report.method.code != codes[report.method.name]
        rows.append(Row(ranks.get(id(report)), report, is_old))
    return rows


def _has_rank(report: Report) -> bool:
    return not report.method.exempt_from_budget and report.grading.models >= MIN_MODELS_FOR_RANK


def ranks_of(by_original: Sequence[Sequence[float]]) -> list[Rank]:
    """The ranks of comparable reports, of whose numbers by original the means fall.

    They are pairs: originals and retrained models are the same. (Of a suite they are by forget set, which are the
    same.) Where there is only one, by one original or under the full protocol, each may have any rank.
    """
    if not by_original:
        return []
    better = surely_better(np.array(by_original))
    tied = [False, *(~better.diagonal(1)).tolist()]  # row i + 1 with row i
    intervals = rank_intervals(better).tolist()
    return [
        Rank(place, low, high, group, tie)
        for place, ((low, high), group, tie) in enumerate(zip(intervals, groups(better), tied, strict=True), start=1)
    ]


def _graded_last(reports: Sequence[Report]) -> dict[str, str]:
    """The code of each method's last report that knows it."""
    in_order = sorted(reports, key=lambda report: report.provenance.created)
    return {one.method.name: one.method.code for one in in_order if one.method.code is not None}


def place_of(report: Report, reports: Sequence[Report]) -> tuple[Rank, int]:
    """The rank of one of the `reports`, which has one, among those it can be compared with, and how many are ranked."""
    rows = rank([other for other in reports if other.conditions == report.conditions])
    (own,) = [row.rank for row in rows if row.rank is not None and row.report == report]
    return own, sum(row.rank is not None for row in rows)


def is_suspicious(report: Report) -> bool:
    """Whether an honest method can hardly have left these models."""
    return report.plausibility is not None and not report.plausibility.is_fine


# ----------------------------------------------------------------------------------------------------------------------
# The same under several seeds
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OverSeeds:
    """Gradings of a table that differ in their seed alone."""

    reports: tuple[Report, ...]
    """Two or more, in the order of their seeds."""

    @property
    def mean(self) -> float:
        """Of the scores."""
        return statistics.fmean(report.scores.score.value for report in self.reports)

    @property
    def deviation(self) -> float:
        """Standard deviation of the scores, with n - 1 degrees of freedom."""
        return statistics.stdev(report.scores.score.value for report in self.reports)


def over_seeds(rows: Sequence[Row]) -> list[OverSeeds]:
    """The gradings of a table that were done with several seeds, those with the best mean first.

    A seed that was graded twice, on another device say, counts once: the last time.
    """
    found: dict[str, dict[int, Report]] = defaultdict(dict)
    for report in sorted((row.report for row in rows), key=lambda report: report.provenance.created):
        found[_but_for_the_seed(report)][report.grading.seed] = report
    several = [OverSeeds(tuple(one[seed] for seed in sorted(one))) for one in found.values() if len(one) > 1]
    return sorted(several, key=lambda one: -one.mean)


def _but_for_the_seed(report: Report) -> str:
    """What decides the score of one of several comparable gradings, apart from the seed."""
    method = report.method
    allowed = None if report.allowed is None else f"{report.allowed:.2g}"  # retraining is timed more than once
    return json.dumps([method.name, method.code, method.submission, method.settings, method.tuned_trials, allowed])
