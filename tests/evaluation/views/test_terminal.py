"""What the command line prints of a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.metrics.plausibility import Copy, Plausibility
from evaluation.report import Report
from evaluation.tuning import TuningResult
from evaluation.views.columns import as_markdown, cells
from evaluation.views.leaderboard import rank
from evaluation.views.terminal import print_table, show_outcomes, show_report

MakeReport = Callable[..., Report]
SETTINGS = {"epochs": 0, "learning_rate": 0.123456}


@pytest.mark.parametrize(
    ("about", "line"),
    [
        ({}, "values       default (python main.py tune may find better ones)"),
        ({"changed": {"epochs": 0}}, "values       default, but epochs=0 (python main.py tune"),
        ({"tuned_trials": 15}, "values       tuned (15 trials): epochs=0 learning_rate=0.123"),
        (
            {"tuned_trials": 15, "changed": {"epochs": 0}},
            "values       tuned (15 trials), but epochs=0: epochs=0 learning_rate=0.123",
        ),
    ],
)
def test_where_the_values_come_from(
    about: dict[str, Any], line: str, make_report: MakeReport, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the user set is neither the default nor tuned, and is named."""
    show_report(make_report(settings=SETTINGS, **about))
    assert line in capsys.readouterr().out


COPIES = [Copy(0, run, 2 * run, 0.01) for run in range(7)]


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (None, []),
        (Plausibility(False, 1.2, []), []),
        (Plausibility(True, 0.7, []), ["impossible for an honest method", "the nearest is at 0.70"]),
        (Plausibility(True, None, []), ["impossible for an honest method", "look at      what the method reads"]),
        (Plausibility(False, 0.01, COPIES), ["7 of its models are copies", "run 0 of 0 (0.01), 1 of 2", "and 2 more"]),
        (Plausibility(True, 0.01, COPIES), ["impossible for an honest method", "7 of its models are copies"]),
    ],
)
def test_what_is_too_good_is_announced(
    found: Plausibility | None,
    lines: list[str],
    make_report: MakeReport,
    results: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With what to look at; nothing if there is nothing to see, or nobody looked."""
    report = make_report(plausibility=found)
    show_report(report)
    shown = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(line.split()) in shown for line in lines)
    assert ("BEWARE" in shown) == bool(lines)
    rows = rank([report])
    for text in (as_markdown(rows), "".join(map(str, cells(rows[0])))):
        assert ("!" in text) == bool(lines)


@pytest.mark.parametrize(
    ("mine", "others", "line"),
    [
        ([0.5, 0.4], [], "leaderboard  1st of 1      python main.py leaderboard"),
        ([0.5, 0.4], [[0.4, 0.4]], "leaderboard  1st of 2 (rank 1 to 2)      python main.py leaderboard"),
        ([0.5, 0.4], [[0.4, 0.3]], "leaderboard  1st of 2 (rank 1)      python main.py leaderboard"),
        ([0.4, 0.3], [[0.5, 0.4], [0.1, 0.5]], "leaderboard  2nd of 3 (rank 2 to 3)      python main.py leaderboard"),
    ],
)
def test_the_place_is_told_with_the_ranks_it_may_have(
    mine: list[float],
    others: list[list[float]],
    line: str,
    make_report: MakeReport,
    results: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A method that is alone has a place, and no interval."""

    def report(name: str, scores: list[float]) -> Report:
        two = {"forgetting_quality_by_original": scores, "epsilons": [[0.5, 0.5]] * 2}
        return make_report(name, score=sum(scores) / 2, score_by_original=scores, originals=2, **two)

    for number, scores in enumerate(others):
        report(f"other_{number}", scores).save(results / "digits-aaa" / f"other_{number}")
    show_report(report("mine", mine))
    assert line in capsys.readouterr().out.splitlines()


def test_remarks_are_shown_below_the_table(
    make_report: MakeReport, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they are: what others wrote into a report does not move the cursor."""
    show_report(make_report(remarks=("[b]one\x1b[31m", "two.")))
    out = capsys.readouterr().out
    assert "remark       [b]one" in out
    assert "remark       two." in out
    assert "\x1b" not in out
    show_report(make_report())
    assert "remark" not in capsys.readouterr().out


def test_texts_are_shown_as_they_are(
    make_report: MakeReport, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets are no markup, colons no emoji, and nothing moves the cursor. Catches a traceback for [/red]."""
    odd = make_report("a[/red]:smile:\x1b[31m\nb", changed={"text": "[bold]x"}, forget=["where:a in [1, 2]"])
    odd.save(results / "digits-aaa" / "a")
    show_report(odd)
    print_table(rank([odd]))
    out = capsys.readouterr().out
    assert "a[/red]:smile:\ufffd[31m\ufffdb text=[bold]x" in out
    assert "where:a in [1, 2]" in out
    assert "\x1b" not in out


def test_the_share_of_the_ceiling(make_report: MakeReport, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In per cent, or a dash where there is none."""
    show_report(make_report(share_of_ceiling=0.42))
    assert "42 % of the ceiling" in capsys.readouterr().out
    show_report(make_report(share_of_ceiling=None, metric="notebook"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("my_method")]
    assert line.endswith(" -")


@pytest.mark.parametrize(
    ("failed", "line"),
    [(0, None), (1, "my_method failed: it exceeded the budget"), (3, "my_method failed 3 times, mostly: it exceeded")],
)
def test_why_trials_failed_is_said(failed: int, line: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    """Below the table. Catches "failed 3" without a word why."""
    why = "it exceeded the budget of 0.1 seconds" if failed else ""
    show_outcomes([TuningResult("my_method", {"epochs": 1}, 0.1, 0.0, 4, 0, failed, Path("digits.yaml"), why)])
    out = capsys.readouterr().out
    assert (line in out) if line else ("failed:" not in out and "mostly" not in out)
