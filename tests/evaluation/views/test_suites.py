"""The table of a suite: order, ranks, columns, and what is said below it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from evaluation.suites.result import comparable, read_results
from evaluation.suites.suite import Suite
from evaluation.views import suites
from tests.evaluation.suites.some_results import DIGITS, RESULTS, a_result


def test_order_and_ranks() -> None:
    """By the number of the first rule that a row has; a reference without budget has no rank."""
    rows = suites.rows_of(RESULTS, {})
    assert [row.ranked.method for row in rows] == ["perfect", "strong", "alone", "weak"]
    assert [row.ranked.rule for row in rows] == ["published", "tuned", "self-tuned", "published"]
    assert [row.rank and (row.rank.low, row.rank.high, row.rank.group) for row in rows] == [
        None,
        (1, 1, 0),
        (2, 2, 1),
        (3, 3, 2),
    ]


def test_few_models_have_no_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    """As in the leaderboard of a task."""
    rows = suites.rows_of([a_result("a", [0.1, 0.2], models=8), a_result("b", [0.9, 0.8], models=8)], {})
    assert [row.rank for row in rows] == [None, None]
    suites.print_suite(DIGITS, rows, 0)
    assert "no ranks: with fewer than 32 models" in capsys.readouterr().out


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """A column for each rule that somebody followed, and each kind; old code, failures, and other models are named."""
    rows = suites.rows_of(RESULTS, {"weak": "other"})
    suites.print_suite(DIGITS, rows, 2)
    title, names, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith(f"suite digits: {len(DIGITS.held_out)} held-out gradings ({', '.join(DIGITS.kinds)}) of ")
    assert names.split()[:6] == ["rank", "group", "method", "tuned", "self-tuned", "published"]
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["1", "a", "strong"],
        ["2", "b", "alone"],
        ["3", "c", "weak"],
    ]
    assert "weak (old)" in lines[3]
    assert "random %" in names
    assert "51.0 [" in lines[1]
    assert "5.0 [5.0, 5.0]" in lines[1]
    said = "\n".join(lines[4:])
    assert "tuned: the best of 30 trials on the tuning part" in said
    assert "left out: 2 results of other models" in said


def test_trials_that_differ_are_named() -> None:
    """Ten trials are not thirty."""
    rows = suites.rows_of([a_result("a", [0.1, 0.2], "tuned"), a_result("b", [0.1], "tuned", trials=10)], {})
    assert any("10 or 30 trials on the tuning part: not the same for all" in line for line in suites.remarks(rows, 0))


def test_markdown_and_csv() -> None:
    """A row for each method; a line for each held-out grading of each result."""
    rows = suites.rows_of([*RESULTS, a_result("a|b", [0.2, 0.3])], {})
    table = [line for line in suites.as_markdown(DIGITS, rows, 0).splitlines() if line.startswith("|")]
    assert len(table) == 2 + 5
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    lines = list(csv.DictReader(io.StringIO(suites.as_csv(rows))))
    assert len(lines) == 6 * len(DIGITS.held_out)
    assert {line["rule"] for line in lines if line["method"] == "strong"} == {"tuned", "published"}
    assert float(lines[0]["share"]) == 1.0


def test_only_results_of_the_same_models_are_compared() -> None:
    """Those of the last one."""
    later = a_result("later", [0.1], bank="ccc", created="2026-01-02T00:00:00+00:00")
    assert comparable([*RESULTS, later]) == ([later], len(RESULTS))
    assert comparable([]) == ([], 0)


def test_what_is_stored_is_read_back(results: Path) -> None:
    """And what is damaged, or of another suite, is named."""
    suite: Suite = DIGITS
    RESULTS[1].save(suite.folder)
    assert read_results(suite) == ([RESULTS[1]], [])
    path = suite.folder / "strong-tuned.json"
    text = path.read_text()
    for damaged in (text[:-40], text.replace("random:0.15@101", "random:0.15@99"), "[]", text.replace("0.5", '"a"')):
        path.write_text(damaged)
        assert read_results(suite) == ([], [path])
