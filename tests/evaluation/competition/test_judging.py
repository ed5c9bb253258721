"""Verdicts on what can't be graded: by the fault of whoever handed it in, in words that name their file."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from data import UserError
from evaluation.competition.intake import Submission
from evaluation.competition.judging import Verdict, judge
from evaluation.isolation.handle import room_workers
from tests.evaluation.competition.conftest import Contest


def judged(contest: Contest, submission: Submission) -> Verdict:
    """The verdict on the public request; no worker is asked, so none is started."""
    with contest.folder.in_use(hidden=False), room_workers(1) as workers:
        return judge(submission, contest.public_part(), contest.folder, workers)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("n.ipynb", "{}", "it is not a notebook of Jupyter"),
        ("n.ipynb", json.dumps({"cells": []}), "no cell has a function unlearning"),
        ("z.zip", "no zip", "z.zip is not a zip file"),
        ("m [red].py", "x = 1", "m [red].py can't be used: m [red].py can't be imported (TypeError: it has 0 classes"),
        ("m.py", "import os\nos.kill(os.getpid(), 9)", "the process that imported it was killed"),
        ("m.py", "\nraise ValueError('\x1b[31m' * 1000)", "m.py can't be imported (line 2: ValueError"),
        ("m.py", "x =", "m.py can't be imported (line 1: SyntaxError"),
        ("m.py", "from methods.BaseMethod import BaseMethod as B\n\n\nclass A(B):\n    pass\n", "A needs a method run"),
    ],
)
def test_what_is_refused(file: str, content: str, said: str, contest: Contest) -> None:
    """One sentence, on one line, without control characters or where the competition lies."""
    contest.put("a", content, file)
    (submission,) = contest.look()
    verdict = judged(contest, submission)
    assert verdict.kind == "refused"
    assert said in verdict.why
    assert str(contest.folder.root) not in verdict.why
    assert verdict.why.isprintable()
    assert len(verdict.why) <= 600


def test_zips_need_one_original(make_contest: Callable[..., Contest]) -> None:
    """Checkpoints come from one."""
    contest = make_contest(originals="2")
    contest.put("a", "no zip", "z.zip")
    assert "checkpoints come from one original" in judged(contest, contest.look()[0]).why


@pytest.mark.parametrize("change", ["removed", "edited"])
def test_copies_that_were_changed(change: str, contest: Contest) -> None:
    """What was handed in is graded, or nothing: that is for the organiser to mend, and no verdict."""
    contest.put("a", "x = 1")
    (submission,) = contest.look()
    kept = submission.copy_in(contest.folder)
    if change == "removed":
        kept.unlink()
    else:
        kept.write_text("x = 2")
    with pytest.raises(UserError, match="is gone, or was changed"):
        judged(contest, submission)


@pytest.mark.slow
def test_the_kit_s_own_errors_are_nobody_s_fault(contest: Contest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the kit while it grades one submission is told with its log, and is no verdict on it."""
    from evaluation.competition import judging

    def broken(*arguments: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(judging, "resolve", broken)
    contest.put("a", "from methods.MyMethod import MyMethod\n\n\nclass A(MyMethod):\n    pass\n")
    (submission,) = contest.look()
    verdict = judged(contest, submission)
    assert verdict.kind == "postponed"
    assert "KeyError: see results/errors/" in verdict.why
    (log,) = (contest.folder.root / "results" / "errors").iterdir()
    assert "a bug" in log.read_text()
