"""The leaderboard: who is compared with whom, in which order, and what is said of it."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from evaluation.metrics.intervals import Estimate
from evaluation.report import Report
from evaluation.views.leaderboard import COLUMNS, Row, as_csv, as_markdown, as_rich_table, cells, place_of, rank, tables

MakeReport = Callable[..., Report]


def scored(make_report: MakeReport, method: str, score: float, half_width: float = 0.001, **changes: Any) -> Report:
    """A report with this score and interval."""
    return make_report(method, score=Estimate(score, score - half_width, score + half_width), **changes)


def test_ranks_follow_the_score(make_report: MakeReport) -> None:
    """The best first, whatever the order of the files; no ties where intervals are apart."""
    reports = [scored(make_report, name, score) for name, score in (("low", 0.01), ("high", 0.1), ("middle", 0.05))]
    for some in itertools.permutations(reports):
        rows = rank(some)
        assert [(row.rank, row.report.method.name, row.tied) for row in rows] == [
            (1, "high", False),
            (2, "middle", False),
            (3, "low", False),
        ]


def test_overlapping_intervals_are_ties(make_report: MakeReport) -> None:
    """Marked at the lower of the two. Catches intervals compared the wrong way round."""
    rows = rank(
        [
            scored(make_report, "first", 0.10, 0.02),
            scored(make_report, "second", 0.09, 0.02),
            scored(make_report, "third", 0.05, 0.01),
        ]
    )
    assert [cells(row)[0] for row in rows] == ["1", "2=", "3"]
    touching = rank([scored(make_report, "one", 0.75, 0.25), scored(make_report, "other", 0.25, 0.25)])
    assert [row.tied for row in touching] == [False, True]


def test_references_stand_without_a_rank(make_report: MakeReport) -> None:
    """Retraining is exempt from the budget: it is shown in its place, and takes no rank from a method."""
    rows = rank(
        [
            scored(make_report, "retrain", 0.2, 0.1, exempt_from_budget=True),
            scored(make_report, "method", 0.1),
            scored(make_report, "do_nothing", 0.0, exempt_from_budget=True),
        ]
    )
    assert [(row.report.method.name, row.rank, row.tied) for row in rows] == [
        ("retrain", None, False),
        ("method", 1, False),
        ("do_nothing", None, False),
    ]
    assert cells(rows[0])[0] == "-"
    assert cells(rows[0])[COLUMNS.index("budget used")] == "exempt"


@pytest.mark.parametrize(("models", "ranked"), [(31, False), (32, True)])
def test_no_ranks_below_32_models(models: int, ranked: bool, make_report: MakeReport) -> None:
    """F takes too few values then."""
    rows = rank([make_report(models=models), make_report(models=models, score=0.01)])
    assert [row.rank for row in rows] == ([1, 2] if ranked else [None, None])


@pytest.mark.parametrize(
    "change",
    [
        {"models": 128},
        {"metric": "notebook"},
        {"task_fingerprint": "another forget set"},
        {"bank_fingerprint": "other weights"},
        {"task": "mnist"},
        {"originals": 2},
        {"protocol": "full"},
    ],
    ids=str,
)
def test_what_cannot_be_compared_shares_no_table(change: dict[str, Any], make_report: MakeReport) -> None:
    """Another N, metric, forget set or bank is another table, with ranks of its own."""
    here, there, also_here = make_report(), make_report(**change, score=0.1), make_report(method="other", score=0.01)
    found = tables([here, there, also_here])
    assert sorted(len(rows) for rows in found) == [1, 2]
    assert all(len({row.report.conditions for row in rows}) == 1 for rows in found)
    assert [row.rank for rows in found for row in rows if row.report == there] == [1]
    assert place_of(here, [here, there, also_here]) == (1, False, 2)


@pytest.mark.parametrize(
    "change",
    [{"settings": {"epochs": 9}}, {"seed": 5}, {"workers": 7}, {"seconds": 1.0}, {"git_commit": "abc"}],
    ids=str,
)
def test_what_can_be_compared_shares_a_table(change: dict[str, Any], make_report: MakeReport) -> None:
    """Other hyper-parameters, another seed or another number of workers are no other conditions."""
    assert len(tables([make_report(), make_report(**change)])) == 1


def test_the_place_of_a_report(make_report: MakeReport) -> None:
    """As the end of a grading says it; references do not count."""
    best, mine = scored(make_report, "best", 0.1, 0.06), scored(make_report, "mine", 0.05, 0.01)
    oracle = scored(make_report, "retrain", 0.2, exempt_from_budget=True)
    assert place_of(best, [mine, oracle, best]) == (1, False, 2)
    assert place_of(mine, [mine, oracle, best]) == (2, True, 2)


@pytest.fixture
def rows(make_report: MakeReport) -> list[Row]:
    """A table with a rank, a tie and a reference."""
    return rank(
        [
            scored(make_report, "retrain", 0.18, exempt_from_budget=True),
            scored(make_report, "best", 0.1, 0.06, changed={"epochs": 4}, settings={"epochs": 4, "mode": 'a,"b"'}),
            scored(make_report, "next", 1 / 30, 0.01, forget=['where:camera == "A" and year <= 2016']),
        ]
    )


def test_no_share_of_the_ceiling_is_a_dash(make_report: MakeReport) -> None:
    """By the notebook metric there is none."""
    (row,) = rank([make_report(metric="notebook", share_of_ceiling=None)])
    assert cells(row)[COLUMNS.index("% of ceiling")] == "-"
    assert cells(rank([make_report(share_of_ceiling=0.42)])[0])[COLUMNS.index("% of ceiling")] == "42"


def test_csv_is_unrounded_and_can_be_read(rows: list[Row], make_report: MakeReport) -> None:
    """By Python's csv module, with commas and quotation marks in the values; no number loses a digit.

    Several tables have one header, and a column that tells them apart.
    """
    other = rank([make_report(models=128)])
    read = list(csv.DictReader(io.StringIO(as_csv([rows, other]))))
    assert [(row["conditions"], row["models"]) for row in read] == [("1", "64")] * 3 + [("2", "128")]
    del read[-1]
    assert [(row["rank"], row["method"], row["tied"]) for row in read] == [
        ("", "retrain", "0"),
        ("1", "best", "0"),
        ("2", "next", "1"),
    ]
    assert float(read[2]["score"]) == 1 / 30
    assert (float(read[2]["score_low"]), float(read[2]["score_high"])) == rows[2].report.scores.score.interval
    assert read[1]["settings"] == '{"epochs": 4, "mode": "a,\\"b\\""}'
    assert read[2]["models"] == "64"
    assert read[2]["budget_fraction_used"] == "0.1"


def test_markdown_is_a_table(rows: list[Row]) -> None:
    """Every line has the columns of the header; the conditions stand above it."""
    title, blank, header, line, *body = as_markdown(rows).splitlines()
    assert title.startswith("**digits, small_cnn")
    assert blank == ""
    assert header.strip("| ").split(" | ") == list(COLUMNS)
    assert line == "|" + "---|" * len(COLUMNS)
    assert len(body) == 3
    assert all(text.count("|") == len(COLUMNS) + 1 for text in body)
    assert body[1].startswith("| 1 | best epochs=4 | 0.1000  [0.0400, 0.1600] |")


def test_the_terminal_shows_the_same_cells(rows: list[Row]) -> None:
    """One table, three ways to show it."""
    table = as_rich_table(rows)
    columns = [list(map(str, column.cells)) for column in table.columns]
    assert list(zip(*columns, strict=True)) == [cells(row) for row in rows]
