"""What a check says, and how checks are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Evidence = TypeVar("Evidence")
Severity = Literal["error", "warning", "note", "skipped"]
"""error: the score will mean nothing. warning: it may not mean what it seems to. note: good to know. skipped: the check
could not be made, or makes no sense here."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong."""

    severity: Severity
    sentence: str
    """What is wrong, and what to do; of a check that was skipped, why."""


@dataclass(frozen=True)
class Checked:
    """A check that was made."""

    about: str
    """What it looked at: "task", "bank", "method" or "scores"."""
    name: str
    """What should hold, in words: the name of its function."""
    finding: Finding | None
    """None: it holds."""

    @property
    def told(self) -> Finding | None:
        """What was found; None if it holds, and if the check was skipped."""
        return None if self.finding is not None and self.finding.severity == "skipped" else self.finding


def name_of(check: Callable[..., object]) -> str:
    """The name of a check, in words."""
    return check.__name__.replace("_", " ")


def make_checks(
    about: str, checks: Sequence[Callable[[Evidence], Finding | None]], evidence: Evidence
) -> list[Checked]:
    """Make all checks of one kind."""
    return [Checked(about, name_of(check), check(evidence)) for check in checks]


def warnings_in(checked: Iterable[Checked]) -> list[str]:
    """What a grading tells of the checks that it makes: errors and warnings, as sentences; notes are for `check`."""
    told = ("error", "warning")
    return [one.finding.sentence for one in checked if one.finding is not None and one.finding.severity in told]


def percent(share: float, digits: int = 0) -> str:
    """A share in words.

    >>> percent(0.25), percent(0.9876, 1)
    ('25 %', '98.8 %')
    """
    return f"{100 * share:.{digits}f} %"
