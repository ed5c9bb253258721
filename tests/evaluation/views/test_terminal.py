"""What the command line prints of a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.report import Report
from evaluation.views.terminal import show_report

MakeReport = Callable[..., Report]
SETTINGS = {"epochs": 0, "learning_rate": 0.123456}


@pytest.mark.parametrize(
    ("about", "line"),
    [
        ({}, "values       published (python main.py tune searches for better ones)"),
        ({"changed": {"epochs": 0}}, "values       published, but epochs=0 (python main.py tune"),
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
    """What the user set is neither published nor tuned, and is named."""
    show_report(make_report(settings=SETTINGS, **about))
    assert line in capsys.readouterr().out


def test_the_share_of_the_ceiling(make_report: MakeReport, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In per cent, or a dash where there is none."""
    show_report(make_report(share_of_ceiling=0.42))
    assert "42 % of the ceiling" in capsys.readouterr().out
    show_report(make_report(share_of_ceiling=None, metric="notebook"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("my_method")]
    assert line.endswith(" -")
