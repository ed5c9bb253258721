"""Which submissions are graded: those that came in time, so many a day and team. A function of the trail alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone

from evaluation.competition.intake import Submission
from evaluation.competition.settings import Settings
from evaluation.competition.trail import Line


@dataclass
class Turns:
    """What is to become of submissions, each list in the order in which they came."""

    admitted: list[Submission] = field(default_factory=list)
    waiting: list[Submission] = field(default_factory=list)
    """Their team has had its number for today."""
    late: list[Submission] = field(default_factory=list)
    """They came after the deadline."""
    over: list[Submission] = field(default_factory=list)
    """They would have had to wait until after the deadline."""


def turns(submissions: Sequence[Submission], per_day: int, deadline: datetime, now: datetime) -> Turns:
    """Each submission counts on the day (UTC) when it came, or else on the first one after it that has room left."""
    found = Turns()
    taken = Counter[tuple[str, date]]()
    for submission in submissions:
        if submission.received > deadline:
            found.late.append(submission)
            continue
        day = _day(submission.received)
        while taken[submission.team, day] >= per_day:
            day += timedelta(days=1)
        taken[submission.team, day] += 1
        if datetime.combine(day, time(), timezone.utc) > deadline:
            found.over.append(submission)
        elif day > _day(now):
            found.waiting.append(submission)
        else:
            found.admitted.append(submission)
    return found


def closed_at(settings: Settings, lines: Sequence[Line]) -> datetime:
    """When no more is taken: the deadline, or when the organiser has closed before."""
    closings = [datetime.fromisoformat(line["when"]) for line in lines if line["event"] == "closed"]
    return min([settings.deadline, *closings])


def is_disqualified(submission: Submission, settings: Settings) -> bool:
    """Whether the organiser has said so."""
    return any(submission.sha256.startswith(digest) for digest in settings.disqualified)


def is_cleared(submission: Submission, settings: Settings) -> bool:
    """Whether the organiser has looked at what is odd about it."""
    return any(submission.sha256.startswith(digest) for digest in settings.cleared)


def _day(when: datetime) -> date:
    return when.astimezone(timezone.utc).date()
