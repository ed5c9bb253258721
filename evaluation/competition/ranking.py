"""From the trail and the reports that it names to places: the same ones whenever and wherever they are asked for.

A submission's score is the mean over the requests. A team stands where its best submission does. What is marked has no
place, unless the organiser has looked at it and cleared it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from data.files import sha256_of
from evaluation.competition.folder import Folder
from evaluation.competition.intake import Submission, submissions_of
from evaluation.competition.parts import hidden_conditions, public_parts
from evaluation.competition.rules import closed_at, is_cleared, is_disqualified, turns
from evaluation.competition.settings import Settings, read_seed
from evaluation.competition.trail import Line
from evaluation.report import Report, read_report

IMPLAUSIBLE, SAME_FILE, DISQUALIFIED = "!", "=", "x"
MARKS = {
    IMPLAUSIBLE: "hardly possible for an honest method: above the ceiling, or models equal to retrained ones",
    SAME_FILE: "the same file as one that another team handed in earlier",
    DISQUALIFIED: "disqualified by the organiser",
}
"""Marks, and what they mean."""


@dataclass(frozen=True)
class Row:
    """A submission's place."""

    submission: Submission
    score: float
    reports: tuple[Report, ...]
    marks: str
    """Letters of `MARKS`."""
    rank: int | None = None
    """None for one that is marked, and not cleared."""
    of: int = 1
    """How many of its team's submissions have a score."""


@dataclass
class Standing:
    """What is known of a competition at a time."""

    folder: Folder
    settings: Settings
    lines: Sequence[Line]
    now: datetime
    remarks: list[str] = field(default_factory=list)
    """Reports that are not what was written, as sentences."""

    @cached_property
    def submissions(self) -> list[Submission]:
        """Those that are graded, in the order in which they came."""
        closed = closed_at(self.settings, self.lines)
        return turns(submissions_of(list(self.lines)), self.settings.per_day, closed, self.now).admitted

    @property
    def has_ended(self) -> bool:
        """Whether the private part may be seen."""
        return any(line["event"] == "ended" for line in self.lines)

    def public_rows(self) -> list[Row]:
        """Each team's best submission, ranked by the public requests."""
        conditions = [part.conditions for part in public_parts(self.settings)]
        return _ranked(self._best_of_teams(self._scored(self.submissions, conditions)))

    def private_rows(self) -> list[Row]:
        """The finalists, ranked by the hidden requests; nothing before the end."""
        if not self.has_ended or not self.settings.hidden:
            return []
        conditions = hidden_conditions(self.settings, read_seed(self.folder))
        return _ranked(self._best_of_teams(self._scored(finalists(self), conditions)))

    def _scored(self, submissions: Sequence[Submission], conditions: Sequence[str]) -> list[Row]:
        rows = []
        for submission in submissions:
            reports = [self._report(submission, one) for one in conditions]
            found = tuple(report for report in reports if report is not None)
            if found and len(found) == len(reports):
                score = sum(report.scores.score.value for report in found) / len(found)
                rows.append(Row(submission, score, found, self._marks(submission, found)))
        return rows

    def _report(self, submission: Submission, conditions: str) -> Report | None:
        line = _verdict(self.lines, submission, conditions)
        if line is None or line["verdict"] != "graded":
            return None
        path = self.folder.root / line["report"]
        try:
            as_written = sha256_of(path) == line["report_sha256"]
        except OSError:
            as_written = False
        report = read_report(path) if as_written else None
        if report is None:
            self.remarks.append(f"left out: {path} is gone, or not what line {line['number']} of the trail tells of.")
        return report

    def _marks(self, submission: Submission, reports: Sequence[Report]) -> str:
        marks = ""
        if is_disqualified(submission, self.settings):
            marks += DISQUALIFIED
        if any(report.plausibility is not None and not report.plausibility.is_fine for report in reports):
            marks += IMPLAUSIBLE
        first = next(one for one in self.submissions if one.sha256 == submission.sha256)
        return marks + (SAME_FILE if first.team != submission.team else "")

    def _best_of_teams(self, rows: Sequence[Row]) -> list[Row]:
        """One row for each team: its best without a mark that counts, or else the best of those with one."""
        best: dict[str, Row] = {}
        count: dict[str, int] = {}
        for row in sorted(rows, key=lambda row: (not self._is_fair(row), *_order(row))):
            team = row.submission.team
            best.setdefault(team, row)
            count[team] = count.get(team, 0) + 1
        return [_with(row, of=count[team], rank=0 if self._is_fair(row) else None) for team, row in best.items()]

    def _is_fair(self, row: Row) -> bool:
        return not row.marks or (DISQUALIFIED not in row.marks and is_cleared(row.submission, self.settings))


def finalists(standing: Standing) -> list[Submission]:
    """What is graded on the hidden requests: the best of each team by the public ones, if it is a method."""
    return [row.submission for row in standing.public_rows() if row.rank is not None and row.submission.kind != "zip"]


def has_verdict(lines: Sequence[Line], submission: Submission, conditions: str) -> bool:
    """Whether nothing is left to do about a submission under these conditions."""
    return _verdict(lines, submission, conditions) is not None


def _verdict(lines: Sequence[Line], submission: Submission, conditions: str) -> Line | None:
    key = (submission.team, submission.sha256, conditions)
    found = [
        line
        for line in lines
        if line["event"] == "verdict"
        and (line["team"], line["sha256"], line["conditions"]) == key
        and line["verdict"] != "postponed"
    ]
    return found[-1] if found else None


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """In order: those that can have a place, then the others. Equal scores: whoever came first."""
    ordered = sorted(rows, key=lambda row: (row.rank is None, *_order(row)))
    return [row if row.rank is None else _with(row, rank=place) for place, row in enumerate(ordered, start=1)]


def _order(row: Row) -> tuple[float, datetime, str, str]:
    one = row.submission
    return (-row.score, one.received, one.team, one.sha256)


def _with(row: Row, rank: int | None, of: int | None = None) -> Row:
    return Row(row.submission, row.score, row.reports, row.marks, rank, row.of if of is None else of)
