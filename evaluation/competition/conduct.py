"""Grading all that is to be graded, unattended: what is finished stands in the trail, so it can be stopped anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from checkpoints.bank import ensure
from checkpoints.workers import Workers
from data import UserError
from data.files import locked, sha256_of
from data.texts import printable
from evaluation.competition.folder import Folder
from evaluation.competition.intake import Clock, Intake, Submission, submissions_of
from evaluation.competition.judging import Verdict, judge
from evaluation.competition.parts import Part, hidden_parts, public_parts
from evaluation.competition.ranking import Standing, finalists, has_verdict
from evaluation.competition.rules import Turns, closed_at, is_disqualified, turns
from evaluation.competition.settings import Settings
from evaluation.competition.trail import Trail
from evaluation.console import Console
from evaluation.grading import load_with_one_request
from evaluation.isolation import sandbox

MakeWorkers = Callable[[], AbstractContextManager[Workers]]
PLAIN = (
    "WARNING: competition.yaml says `sandbox: false`. Strangers' methods run as you: they can read the bank, the "
    "hidden requests and your files, write them, and use the network. Do this only with methods that you trust."
)


def enter_sandbox(settings: Settings, folder: Folder, console: Console) -> None:
    """Before anything that was handed in is looked at.

    Raises:
        UserError: there is no sandbox here, or it shows the folder.
    """
    if not settings.sandbox:
        console.tell(PLAIN)
        return
    try:
        sandbox.use_sandbox()
    except UserError as error:
        raise UserError(f"{error} (`sandbox: false` in competition.yaml does without; that is dangerous.)") from error
    folder.check_unreadable_in_sandbox()


class Conduct:
    """One call of `competition grade`."""

    def __init__(self, folder: Folder, settings: Settings, trail: Trail, console: Console, now: Clock) -> None:
        self._folder, self._settings, self._trail, self._console, self._now = folder, settings, trail, console, now
        self._intake = Intake(folder, settings, trail, now)
        self._postponed: set[tuple[str, str, bool, int]] = set()

    def grade(self, make_workers: MakeWorkers, final: bool) -> bool:
        """Grade what came in time; at the end, or if it is `final`, on the hidden requests, too. False: not all."""
        self._trail.add("started", self._now(), sandbox=self._settings.sandbox, final=final)
        self._intake.look()
        if final and self._now() <= closed_at(self._settings, self._trail.lines):
            self._trail.add("closed", self._now())
        with self._folder.in_use(hidden=False), make_workers() as workers:
            self._work_off(public_parts(self._settings), self._admitted, workers)
        self._tell_others()
        if self._now() <= closed_at(self._settings, self._trail.lines) or self._postponed:
            return not self._postponed
        return self._end(make_workers)

    def _end(self, make_workers: MakeWorkers) -> bool:
        parts = hidden_parts(self._settings, self._folder)
        if parts:
            with self._folder.in_use(hidden=True), make_workers() as workers:
                self._work_off(parts, self._finalists, workers)
        if not self._postponed and not any(line["event"] == "ended" for line in self._trail.lines):
            self._trail.add("ended", self._now())
        return not self._postponed

    def _admitted(self) -> Sequence[Submission]:
        self._intake.look()
        return self._turns().admitted

    def _finalists(self) -> Sequence[Submission]:
        return finalists(Standing(self._folder, self._settings, self._trail.lines, self._now()))

    def _turns(self) -> Turns:
        lines = self._trail.lines
        closed = closed_at(self._settings, lines)
        return turns(submissions_of(lines), self._settings.per_day, closed, self._now())

    def _work_off(self, parts: Sequence[Part], wanted: Callable[[], Sequence[Submission]], workers: Workers) -> None:
        """Grade all that is wanted, one after another; what comes in meanwhile, too."""
        there: set[Part] = set()
        while (found := self._next(parts, wanted())) is not None:
            submission, part = found
            if part not in there:  # an error in this is the organiser's to correct
                self._make_bank(part, workers)
                there.add(part)
            self._note(submission, part, judge(submission, part, self._folder, workers))

    def _next(self, parts: Sequence[Part], wanted: Sequence[Submission]) -> tuple[Submission, Part] | None:
        for submission in wanted:
            if is_disqualified(submission, self._settings):
                continue
            for part in parts:
                key = (submission.team, submission.sha256, part.hidden, part.number)
                if key not in self._postponed and not has_verdict(self._trail.lines, submission, part.conditions):
                    return submission, part
        return None

    def _make_bank(self, part: Part, workers: Workers) -> None:
        spec = part.spec
        task = load_with_one_request(spec.task)
        with self._console.progress("bank", "models") as on_progress:
            ensure(task, spec.originals_needed, spec.models, workers, self._console.tell, on_progress)

    def _note(self, submission: Submission, part: Part, verdict: Verdict) -> None:
        """Into the trail, without any score, and onto the screen."""
        which = f"{'hidden' if part.hidden else 'public'} request {part.number}"
        score = "" if verdict.score is None else f", {verdict.score:.4f}"
        said = f"{verdict.kind}{score}{': ' if verdict.why else ''}{verdict.why}"
        self._console.tell(f"{printable(submission.team, 60)} · {printable(submission.file, 60)} · {which}: {said}")
        facts: dict[str, Any] = {"team": submission.team, "file": submission.file, "sha256": submission.sha256}
        facts |= {"part": "hidden" if part.hidden else "public", "request": part.number}
        facts |= {"conditions": part.conditions, "seconds": round(verdict.seconds, 3), "verdict": verdict.kind}
        facts |= {"why": verdict.why, "sandbox": self._settings.sandbox}
        if verdict.report is not None:
            report = verdict.report.resolve().relative_to(self._folder.root.resolve())
            facts |= {"report": str(report), "report_sha256": sha256_of(verdict.report)}
        if verdict.kind == "postponed":
            self._postponed.add((submission.team, submission.sha256, part.hidden, part.number))
        self._trail.add("verdict", self._now(), **facts)

    def _tell_others(self) -> None:
        """Say, and for what is final write, what becomes of those that are not graded."""
        found = self._turns()
        told = {(line["team"], line["sha256"]) for line in self._trail.lines if line["event"] == "not graded"}
        reasons = (("it came after the deadline", found.late), ("its team had handed in too many", found.over))
        for why, submissions in reasons:
            for one in submissions:
                if (one.team, one.sha256) not in told:
                    facts = {"team": one.team, "file": one.file, "sha256": one.sha256}
                    self._trail.add("not graded", self._now(), **facts, why=why)
                    self._console.tell(f"{printable(one.team, 60)} · {printable(one.file, 60)}: not graded, {why}")
        for one in found.waiting:
            team, file = printable(one.team, 60), printable(one.file, 60)
            self._console.tell(f"{team} · {file}: waits, its team has had {self._settings.per_day} for today")


def conduct(
    folder: Folder, settings: Settings, make_workers: MakeWorkers, console: Console, now: Clock, final: bool
) -> bool:
    """Grade a competition; see `Conduct.grade`. Only one process does at a time.

    Raises:
        UserError: the trail was changed, a request makes no sense, there is no sandbox, ...
    """
    enter_sandbox(settings, folder, console)
    with locked(folder.lock, lambda: console.tell("another process grades this competition: waiting for it")):
        return Conduct(folder, settings, Trail(folder.trail), console, now).grade(make_workers, final)
