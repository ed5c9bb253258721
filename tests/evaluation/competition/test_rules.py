"""Deadline and daily quota, by when files were first seen."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from evaluation.competition.intake import Submission
from evaluation.competition.rules import turns
from tests.evaluation.competition.conftest import DEADLINE, Contest


def sent(*times: str, team: str = "a") -> list[Submission]:
    """Submissions at these times of March 2026, like "08 23:59"."""
    whens = [datetime.fromisoformat(f"2026-03-{time}:00+00:00") for time in times]
    return [Submission(team, "m.py", f"{team}{number}", "method", when) for number, when in enumerate(whens)]


def names(submissions: list[Submission]) -> list[str]:
    """What they are called in `sent`."""
    return [one.sha256 for one in submissions]


def at(time: str) -> datetime:
    """A time of that month."""
    return datetime.fromisoformat(f"2026-03-{time}:00+00:00")


def test_quota_of_a_day() -> None:
    """Two a day and team: the third waits for the next day, and takes a place of that."""
    times = sent("08 00:00", "08 10:00", "08 23:59", "09 00:01", "09 00:02")
    others = sent("08 11:00", "08 12:00", team="b")
    found = turns([*times, *others], 2, DEADLINE, at("08 23:59"))
    assert names(found.admitted) == ["a0", "a1", "b0", "b1"]
    assert names(found.waiting) == ["a2", "a3", "a4"]
    found = turns([*times, *others], 2, DEADLINE, at("09 00:02"))
    assert names(found.admitted) == ["a0", "a1", "a2", "a3", "b0", "b1"]
    assert names(found.waiting) == ["a4"]
    assert names(turns(times, 2, DEADLINE, at("10 00:00")).admitted) == names(times)


def test_quota_does_not_depend_on_when_it_is_asked() -> None:
    """Who was admitted stays so; a flood of one team holds up no other, nor time."""
    flood = sent(*["08 10:00"] * 30)
    late = sent("08 11:00", team="b")
    for hours in range(0, 100, 7):
        found = turns([*flood, *late], 2, DEADLINE, at("08 12:00") + timedelta(hours=hours))
        assert names(found.admitted[:2]) == ["a0", "a1"]
        assert "b0" in names(found.admitted)
    assert len(found.admitted) == 7
    assert len(found.over) == 24, "those that would have their turn after the deadline"


@pytest.mark.parametrize(("time", "is_late"), [("10 11:59", False), ("10 12:00", False), ("10 12:01", True)])
def test_deadline(time: str, is_late: bool) -> None:
    """In any zone: 12:00 UTC is 13:00+01:00."""
    found = turns(sent(time), 2, datetime(2026, 3, 10, 13, tzinfo=timezone(timedelta(hours=1))), at("20 00:00"))
    assert (len(found.admitted), len(found.late)) == (1 - is_late, is_late)


def test_late_files_take_no_place() -> None:
    """A file after the deadline counts for nothing, neither for its team's number."""
    found = turns(sent("10 13:00", "10 13:00", "10 11:00"), 1, DEADLINE, at("10 14:00"))
    assert (names(found.admitted), names(found.late)) == (["a2"], ["a0", "a1"])


def test_closing_and_a_later_deadline(contest: Contest) -> None:
    """What came after the organiser has closed is late; an extended deadline alone takes what was late before."""
    contest.put("a")
    contest.now = DEADLINE + timedelta(hours=1)
    contest.look()
    assert contest.standing.submissions == []
    text = contest.folder.settings.read_text().replace("2026-03-10T13", "2026-03-11T13")
    contest.folder.settings.write_text(text)
    assert len(contest.standing.submissions) == 1
    contest.trail.add("closed", DEADLINE)
    assert contest.standing.submissions == []
