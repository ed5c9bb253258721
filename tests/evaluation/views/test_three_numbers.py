"""Overlap and F as of more models in the table of a grading, on the leaderboard, and in what can be compared."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import pytest

from evaluation.metrics.as_of import AsOf
from evaluation.metrics.intervals import Estimate
from evaluation.report import Report
from evaluation.views.columns import as_csv, as_markdown
from evaluation.views.leaderboard import NUMBERS, rank, tables
from evaluation.views.terminal import show_report

MakeReport = Callable[..., Report]


def report(make_report: MakeReport, name: str, score: float, overlap: float, as_of: float) -> Report:
    """A grading with two originals, whose numbers differ by hardly anything."""
    quality = Estimate(as_of, as_of / 2, as_of * 2)
    return make_report(
        name,
        score=score,
        score_by_original=[score, score + 1e-4],
        forgetting_quality_by_original=[score, score],
        epsilons=[[0.5, 1.0]] * 2,
        originals=2,
        overlap=Estimate(overlap, overlap - 0.05, overlap + 0.05),
        overlap_by_original=[overlap, overlap + 1e-4],
        as_of=AsOf(512, quality, [as_of, as_of + 1e-5], 0.1, Estimate(as_of / 0.1, as_of / 0.2, as_of / 0.05)),
    )


@pytest.fixture
def reports(make_report: MakeReport) -> list[Report]:
    """Three methods, which each number orders otherwise, and one of an early version, which has the score alone."""
    return [
        report(make_report, "one", 0.09, 0.2, 0.02),
        report(make_report, "two", 0.06, 0.6, 0.01),
        report(make_report, "three", 0.03, 0.4, 0.03),
        make_report(
            "early", score=0.12, originals=2, score_by_original=[0.12, 0.12], epsilons=[[0.5, 1.0]] * 2,
            forgetting_quality_by_original=[0.12, 0.12],
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("by", "order"),
    [
        ("score", ["early", "one", "two", "three"]),
        ("overlap", ["two", "three", "one", "early"]),
        ("as-of-512", ["three", "one", "two", "early"]),
    ],
)
def test_ranked_by(by: str, order: list[str], reports: list[Report]) -> None:
    """Reports without the number come last, without a rank. Catches a table ordered by one and ranked by another."""
    rows = rank(reports, by=by)
    assert [row.report.method.name for row in rows] == order
    places = [None if row.rank is None else row.rank.place for row in rows]
    assert places == ([1, 2, 3, 4] if by == "score" else [1, 2, 3, None])
    table = as_markdown(rows, by=by)
    assert ("overlap [95 %]" in table, "as of 512 [95 %]" in table) == (by == "overlap", by == "as-of-512")
    assert set(NUMBERS) == {"score", "overlap", "as-of-512"}


def test_reports_survive(reports: list[Report]) -> None:
    """As JSON; and numbers of another count of originals are refused."""
    for one in reports:
        assert Report.from_json(one.to_json()) == one
    text = reports[0].to_json().replace('"overlap_by_original": [', '"overlap_by_original": [\n0.5,')
    with pytest.raises(ValueError, match="its overlaps are of another number of originals"):
        Report.from_json(text)


def test_shown(reports: list[Report], capsys: pytest.CaptureFixture[str], results: object) -> None:
    """The overlap always; F as of 512 with `--all`, in wide tables, and in CSV; blank where nobody knows it."""
    show_report(reports[0])
    said = capsys.readouterr().out
    assert "overlap" in said
    assert "0.200  [0.150, 0.250]" in said
    assert "as of 512" not in said
    show_report(reports[0], all_numbers=True)
    line = "as of 512    20 %  [10, 40] of the ceiling of so many models (F 0.0200 of 0.1000, by estimates)"
    assert line in capsys.readouterr().out
    show_report(reports[3], all_numbers=True)
    assert "as of 512    unknown: score this grading again" in capsys.readouterr().out
    rows = tables(reports)
    assert "as of 512" not in as_markdown(rows[0])
    assert "| 20 % |" in as_markdown(rows[0], wide=True)
    found = {row["method"]: row for row in csv.DictReader(io.StringIO(as_csv(rows)))}
    assert float(found["one"]["overlap_low"]) == pytest.approx(0.15)
    assert float(found["three"]["as_of_512_share_of_ceiling"]) == pytest.approx(0.3)
    assert found["early"]["overlap"] == found["early"]["as_of_512"] == ""
