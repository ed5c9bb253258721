"""A competition in a folder of its own, with a clock that tests set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from data.files import sha256_of
from evaluation.competition.folder import Folder
from evaluation.competition.intake import Intake, Submission, submissions_of
from evaluation.competition.parts import Part, hidden_parts, public_parts
from evaluation.competition.ranking import Standing
from evaluation.competition.settings import Settings, make_competition, read_settings
from evaluation.competition.trail import Trail

if TYPE_CHECKING:
    from evaluation.report import Report

DEADLINE = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)
SETTINGS = """
title: A test
task: {name: digits, train_size: 160, recipe: {epochs: 3}}
public: ["random:12"]
hidden: ["random:12"]
originals: 1
models: 8
budget_seconds: 20
per_day: 2
largest_method: 0.01
deadline: 2026-03-10T13:00:00+01:00
"""


@dataclass
class Contest:
    """A competition that tests write into; nothing is graded."""

    folder: Folder
    now: datetime = DEADLINE - timedelta(days=5)
    intake: Intake | None = None

    @property
    def settings(self) -> Settings:
        return read_settings(self.folder)

    @property
    def trail(self) -> Trail:
        return Trail(self.folder.trail)

    @property
    def standing(self) -> Standing:
        return Standing(self.folder, self.settings, self.trail.lines, self.now)

    def put(self, team: str, content: str | bytes = "pass", file: str = "m.py") -> Path:
        """A file that a team hands in."""
        path = self.folder.submissions / team / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def look(self) -> list[Submission]:
        """What the grader has seen by now."""
        trail = self.trail
        Intake(self.folder, self.settings, trail, lambda: self.now).look()
        return submissions_of(trail.lines)

    def refusals(self) -> dict[tuple[str, str | None], str]:
        """What was not received, and why."""
        lines = [line for line in self.trail.lines if line["event"] == "not received"]
        return {(line["team"], line["file"]): line["verdict"] for line in lines}

    def public_part(self) -> Part:
        return public_parts(self.settings)[0]

    def hidden_part(self) -> Part:
        return hidden_parts(self.settings, self.folder)[0]

    def grade(self, submission: Submission, part: Part, report: Report) -> Path:
        """A verdict, with the report that it is about."""
        folder = self.folder.results(part.hidden) / "task" / submission.sha256[:24]
        folder.mkdir(parents=True, exist_ok=True)
        path = report.save(folder)
        facts: dict[str, Any] = {"team": submission.team, "sha256": submission.sha256, "verdict": "graded"}
        facts |= {"conditions": part.conditions, "report": str(path.relative_to(self.folder.root))}
        self.trail.add("verdict", self.now, **facts, report_sha256=sha256_of(path))
        return path


@pytest.fixture
def make_contest(tmp_path: Path) -> Callable[..., Contest]:
    """Makes a competition whose settings have some texts replaced."""

    def make(**changes: str) -> Contest:
        folder = Folder(tmp_path / "contest")
        make_competition(folder, DEADLINE)
        lines = [line for line in SETTINGS.splitlines() if line.partition(":")[0] not in changes]
        folder.settings.write_text("\n".join([*lines, *(f"{name}: {value}" for name, value in changes.items())]))
        return Contest(folder)

    return make


@pytest.fixture
def contest(make_contest: Callable[..., Contest]) -> Contest:
    """The usual one."""
    return make_contest()
