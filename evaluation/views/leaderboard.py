"""The local leaderboard: reports of comparable gradings, ranked, ties and old versions of methods marked."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from evaluation.catalogue.facts import MethodFacts
from evaluation.catalogue.lookup import look_up
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
class Row:
    """A report's place: the rank (None if it has none), and whether its interval overlaps that of the row above."""

    rank: int | None
    tied: bool
    report: Report
    is_old: bool = False
    """Whether the method's code has changed since."""


def current_codes(reports: Sequence[Report]) -> dict[str, str]:
    """The code of the methods that were graded, as it is now, of those that can be used."""
    names = sorted({report.method.name for report in reports if report.method.code is not None})
    return {name: found.code_hash for name, found in look_up(names).items() if isinstance(found, MethodFacts)}


def tables(reports: Sequence[Report], codes: Codes = UNKNOWN) -> list[list[Row]]:
    """Reports that can be compared, ranked, one list for each set of conditions (see `Report.conditions`).

    Of a method that `codes` does not have, the version that was graded last counts as the present one.
    """
    codes = {**_graded_last(reports), **codes}
    comparable: dict[tuple[object, ...], list[Report]] = defaultdict(list)
    for report in reports:
        comparable[report.conditions].append(report)
    return [rank(comparable[conditions], codes) for conditions in sorted(comparable, key=str)]


def rank(reports: Sequence[Report], codes: Codes = UNKNOWN) -> list[Row]:
    """Rank comparable reports by score; references that are exempt from the budget get no rank."""
    codes = {**_graded_last(reports), **codes}
    rows = []
    place = 0
    above: Report | None = None
    for report in sorted(reports, key=lambda report: -report.scores.score.value):
        is_old = report.method.code is not None and report.method.code != codes[report.method.name]
        if report.method.exempt_from_budget or report.grading.models < MIN_MODELS_FOR_RANK:
            rows.append(Row(None, False, report, is_old))
            continue
        place += 1
        tied = above is not None and above.scores.score.interval[0] <= report.scores.score.interval[1]
        rows.append(Row(place, tied, report, is_old))
        above = report
    return rows


def _graded_last(reports: Sequence[Report]) -> dict[str, str]:
    """The code of each method's last report that knows it."""
    in_order = sorted(reports, key=lambda report: report.provenance.created)
    return {one.method.name: one.method.code for one in in_order if one.method.code is not None}


def place_of(report: Report, reports: Sequence[Report]) -> tuple[int, bool, int]:
    """The rank of one of the `reports` among those it can be compared with, whether tied, and how many are ranked."""
    rows = [row for row in rank([other for other in reports if other.conditions == report.conditions]) if row.rank]
    (own,) = [row for row in rows if row.report == report]
    return own.rank or 0, own.tied, len(rows)


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
