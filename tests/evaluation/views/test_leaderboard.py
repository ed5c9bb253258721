"""The leaderboard: who is compared with whom, in which order, and what is said of it."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest

from evaluation.metrics.intervals import Estimate
from evaluation.report import Report
from evaluation.views.columns import (
    COLUMNS,
    FULL_PROTOCOL,
    GROUPS,
    ONE_GROUP,
    ONE_ORIGINAL,
    RANKS,
    as_csv,
    as_markdown,
    as_rich_table,
    cells,
    columns,
    remarks,
)
from evaluation.views.leaderboard import Rank, Row, over_seeds, place_of, rank, tables

MakeReport = Callable[..., Report]


def scored(make_report: MakeReport, method: str, score: float, *by_original: float, **changes: Any) -> Report:
    """A report with this score; with these scores by original, or this one with each of four."""
    several = list(by_original) or [score] * 4
    estimate = Estimate(score, score - 0.001, score + 0.001)
    return make_report(method, score=estimate, score_by_original=several, originals=len(several), **changes)


def places(rows: list[Row]) -> list[tuple[str, int | None]]:
    """Methods and their places by score, as the rows have them."""
    return [(row.report.method.name, row.rank.place if row.rank else None) for row in rows]


def test_ranks_follow_the_score(make_report: MakeReport) -> None:
    """The best first, whatever the order of the files; where the scores always differ as much, ranks are certain."""
    reports = [scored(make_report, name, score) for name, score in (("low", 0.01), ("high", 0.1), ("middle", 0.05))]
    for some in itertools.permutations(reports):
        rows = rank(some)
        assert places(rows) == [("high", 1), ("middle", 2), ("low", 3)]
        assert [cells(row)[0] for row in rows] == ["1", "2", "3"]


@pytest.fixture
def close(make_report: MakeReport) -> list[Report]:
    """Two that lead by turns, one that is always behind, and a reference between them."""
    return [
        scored(make_report, "second", 0.31, 0.41, 0.19, 0.42, 0.22),
        scored(make_report, "third", 0.001, 0.001, 0.002, 0.0, 0.001),
        scored(make_report, "do_nothing", 0.1, exempt_from_budget=True),
        scored(make_report, "first", 0.32, 0.42, 0.21, 0.39, 0.26),
    ]


def test_ranks_are_intervals(close: list[Report]) -> None:
    """Of two methods that can't be told apart each may be the better one. Catches places that look certain."""
    rows = rank(close)
    assert places(rows) == [("first", 1), ("second", 2), ("do_nothing", None), ("third", 3)]
    assert [cells(row)[0] for row in rows] == ["1 to 2", "1 to 2", "-", "3"]
    assert [row.rank.tied for row in rows if row.rank] == [False, True, False]


def test_groups_are_a_column(close: list[Report]) -> None:
    """With a line that says what a letter means; no column where all are of one group, but in wide tables."""
    rows = rank(close)
    assert shown(rows, "group") == ["a", "a", "", "b"]
    assert columns(rows)[:3] == ("rank", "group", "method")
    assert list(remarks(rows)) == [RANKS, GROUPS]
    assert all(line in as_markdown(rows) for line in (RANKS, GROUPS))
    alike = rank([close[0], close[3]])
    assert shown(alike, "group") is None
    assert "group" in columns(alike, wide=True)
    assert list(remarks(alike)) == [RANKS, ONE_GROUP]


def test_there_are_letters_for_all_groups(make_report: MakeReport) -> None:
    """Also for more than 26. Catches an index beyond the alphabet, and one letter for two groups."""
    rows = rank([scored(make_report, f"method_{number}", 0.01 * number) for number in range(60)])
    letters = shown(rows, "group") or []
    assert letters[:2] + letters[25:28] + letters[51:53] == ["a", "b", "z", "aa", "bb", "zz", "aaa"]
    assert len(set(letters)) == 60


@pytest.mark.parametrize(
    ("changes", "line"), [({"originals": 1}, ONE_ORIGINAL), ({"originals": 64, "protocol": "full"}, FULL_PROTOCOL)]
)
def test_one_score_each_leaves_all_ranks(changes: dict[str, Any], line: str, make_report: MakeReport) -> None:
    """With one original, or by the full protocol; a line says why. Catches certain ranks from a single score."""
    rows = rank([make_report(name, score=score, **changes) for name, score in (("a", 0.1), ("b", 0.05), ("c", 0.01))])
    assert [cells(row)[0] for row in rows] == ["1 to 3"] * 3
    assert list(remarks(rows)) == [line]
    assert list(remarks(rows[:1])) == []


def test_references_stand_without_a_rank(make_report: MakeReport) -> None:
    """Retraining is exempt from the budget: it is shown in its place, and takes no rank from a method."""
    rows = rank(
        [
            scored(make_report, "retrain", 0.2, exempt_from_budget=True),
            scored(make_report, "method", 0.1),
            scored(make_report, "do_nothing", 0.0, exempt_from_budget=True),
        ]
    )
    assert places(rows) == [("retrain", None), ("method", 1), ("do_nothing", None)]
    assert [cells(row)[0] for row in rows] == ["-", "1", "-"]
    assert cells(rows[0])[COLUMNS.index("budget used")] == "exempt"


@pytest.mark.parametrize(("models", "ranked"), [(31, False), (32, True)])
def test_no_ranks_below_32_models(models: int, ranked: bool, make_report: MakeReport) -> None:
    """F takes too few values then."""
    rows = rank([make_report(models=models), make_report(models=models, score=0.01)])
    assert [place for _, place in places(rows)] == ([1, 2] if ranked else [None, None])


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
    assert [places(rows) for rows in found if rows[0].report == there] == [[(there.method.name, 1)]]
    assert place_of(here, [here, there, also_here]) == (Rank(1, 1, 2, 0, False), 2)


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
    best, mine = scored(make_report, "best", 0.1, 0.1, 0.02), scored(make_report, "mine", 0.05, 0.04, 0.06)
    oracle = scored(make_report, "retrain", 0.2, 0.2, 0.2, exempt_from_budget=True)
    assert place_of(best, [mine, oracle, best]) == (Rank(1, 1, 2, 0, False), 2)
    assert place_of(mine, [mine, oracle, best]) == (Rank(2, 1, 2, 0, True), 2)
    assert place_of(mine, [oracle, mine]) == (Rank(1, 1, 1, 0, False), 1)


@pytest.fixture
def rows(make_report: MakeReport) -> list[Row]:
    """A table with a rank, a tie and a reference."""
    return rank(
        [
            scored(make_report, "retrain", 0.18, 0.18, 0.18, exempt_from_budget=True),
            scored(
                make_report, "best", 0.1, 0.18, 0.02, changed={"epochs": 4}, settings={"epochs": 4, "mode": 'a,"b"'}
            ),
            scored(make_report, "next", 1 / 30, 1 / 30, 1 / 30, forget=['where:camera == "A" and year <= 2016']),
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
    names = ("rank", "rank_low", "rank_high", "group", "method", "tied")
    assert [tuple(row[name] for name in names) for row in read] == [
        ("", "", "", "", "retrain", "0"),
        ("1", "1", "2", "a", "best", "0"),
        ("2", "1", "2", "a", "next", "1"),
    ]
    assert float(read[2]["score"]) == 1 / 30
    assert (float(read[2]["score_low"]), float(read[2]["score_high"])) == rows[2].report.scores.score.interval
    assert read[1]["settings"] == '{"epochs": 4, "mode": "a,\\"b\\""}'
    assert read[2]["models"] == "64"
    assert read[2]["budget_fraction_used"] == "0.1"


def test_markdown_is_a_table(rows: list[Row]) -> None:
    """Every line has the columns of the header; the conditions stand above it."""
    title, blank, header, line, *body = as_markdown(rows).partition("\n\nranks:")[0].splitlines()
    assert title.startswith("**digits, small_cnn")
    assert blank == ""
    assert header.strip("| ").split(" | ") == list(COLUMNS)
    assert line == "|" + "---|" * len(COLUMNS)
    assert len(body) == 3
    assert all(text.count("|") == len(COLUMNS) + 1 for text in body)
    assert body[1].startswith("| 1 to 2 | best epochs=4 | 0.1000  [0.0990, 0.1010] |")


def test_the_terminal_shows_the_same_cells(rows: list[Row]) -> None:
    """One table, three ways to show it."""
    table = as_rich_table(rows)
    columns = [list(map(str, column.cells)) for column in table.columns]
    assert list(zip(*columns, strict=True)) == [cells(row) for row in rows]


def shown(rows: list[Row], name: str) -> list[str] | None:
    """A column of a table as it is printed; None if the table has no such column."""
    table = as_rich_table(rows)
    found = [list(map(str, column.cells)) for column in table.columns if column.header == name]
    return found[0] if found else None


@pytest.mark.parametrize(
    ("column", "changes", "texts"),
    [
        ("seed", [{"seed": 0}, {"seed": 7}], ["0", "7"]),
        ("seed", [{"seed": 3}, {"seed": 3}], None),
        ("budget", [{"budget_seconds": 0.2}, {"budget_seconds": 0.91}], ["0.2", "0.91"]),
        ("budget", [{"budget_seconds": 0.2}, {"budget_seconds": 0.2001}], None),
        ("budget", [{"budget_seconds": 0.2}, {"budget_seconds": None}], None),
        ("code", [{"code": "aa"}, {"code": "bb", "created": "2026-01-02"}], ["aa old", "bb"]),
        ("code", [{"code": None}, {"code": "bb"}], None),
        ("date", [{"created": "2026-01-02"}, {"created": "2026-01-03"}], None),
    ],
)
def test_what_rows_differ_in_is_a_column(
    column: str, changes: list[dict[str, Any]], texts: list[str] | None, make_report: MakeReport
) -> None:
    """Catches three seeds, or two budgets, that look alike; and a column that says the same of each row."""
    rows = rank([make_report(score=0.1 - number / 100, **change) for number, change in enumerate(changes)])
    assert shown(rows, column) == texts
    assert (f"| {column} |" in as_markdown(rows).splitlines()[2]) == (texts is not None)
    assert column in columns(rows, wide=True)


def test_old_versions_of_a_method_are_marked(make_report: MakeReport) -> None:
    """By what its file is now; if that is not known, by what was graded last, be it in another table."""
    first = make_report(code="v1", created="2026-01-01T00:00:00+00:00", score=0.3)
    second = make_report(code="v2", created="2026-01-02T00:00:00+00:00", models=128)
    early, other = make_report(score=0.2), make_report("other", code="v1", score=0.1)
    reports = [second, first, early, other]

    def old(codes: dict[str, str]) -> list[tuple[str, str | None]]:
        found = [row for rows in tables(reports, codes) for row in rows if row.is_old]
        return [(row.report.method.name, row.report.method.code) for row in found]

    assert old({}) == [("my_method", "v1")]
    assert old({"my_method": "v1"}) == [("my_method", "v2")]
    assert old({"my_method": "v3", "other": "v1"}) == [("my_method", "v2"), ("my_method", "v1")]
    (marked,) = [rows for rows in tables(reports) if len(rows) == 3]
    assert "the method's code has changed since" in as_markdown(marked)
    assert [row["old_code"] for row in csv.DictReader(io.StringIO(as_csv([marked])))] == ["1", "0", "0"]


def test_several_seeds_have_a_mean_with_spread(make_report: MakeReport) -> None:
    """By hand: 0.02, 0.04, 0.09 have mean 0.05 and deviation sqrt(0.0013). Other settings, code and budgets are apart.

    Catches a mean over different things, and a seed that counts twice.
    """
    scores = {0: 0.02, 1: 0.04, 2: 0.09}
    alike = [make_report(seed=seed, score=score) for seed, score in scores.items()]
    again = make_report(seed=2, score=0.5, created="2025-01-01T00:00:00+00:00")  # the seed was graded again later
    apart = [
        make_report(seed=9, score=0.01, **change)
        for change in ({"settings": {"epochs": 2}}, {"code": "v2"}, {"tuned_trials": 3}, {"budget_seconds": 0.9})
    ]
    rows = rank([*apart, again, *alike])
    (group,) = over_seeds(rows)
    assert (group.mean, group.deviation) == pytest.approx((0.05, 0.0013**0.5))
    about_ranks, line = remarks(rows)
    assert about_ranks == ONE_ORIGINAL
    assert line.startswith("my_method (default): 0.0500 ± 0.0361,")
    assert line.endswith("seeds 0, 1, 2")
    assert line in as_markdown(rows)
    read = list(csv.DictReader(io.StringIO(as_csv([rows]))))
    assert [row["seeds"] for row in read if row["seed"] in "012" and float(row["score"]) < 0.4] == ["3"] * 3
    assert {row["score_mean_over_seeds"] for row in read if row["seed"] == "9"} == {""}
    assert list(remarks(rank(alike[:1]))) == []


def test_csv_has_what_a_grading_came_to(make_report: MakeReport) -> None:
    """Seed, code, date, seconds and accuracies, and each column once."""
    (row,) = csv.DictReader(io.StringIO(as_csv([rank([make_report(seed=5, code="v1")])])))
    for name, value in {
        "seed": "5",
        "code": "v1",
        "created": "2026-01-01T00:00:00+00:00",
        "grading_seconds": "12.5",
        "run_seconds": "0.1",
        "budget": "0.2",
        "retain_accuracy": "0.9",
        "forget_accuracy": "0.85",
        "retrained_test_accuracy": "0.84",
    }.items():
        assert row[name] == value
    header = as_csv([rank([make_report()])]).splitlines()[0].split(",")
    assert len(set(header)) == len(header)


def test_default_values_are_not_called_published(make_report: MakeReport) -> None:
    """Whose they are is not known: a user's own method has published nothing."""
    assert shown(rank([make_report()]), "values") == ["default"]
    assert shown(rank([make_report(tuned_trials=1)]), "values") == ["tuned, 1 trial"]
    assert "1 original x 64 runs" in as_markdown(rank([make_report()]))


TEXTS = ["<unk>", "[unk]", "a|b", "*a*", "_x_", "`x`", "$x$", "&lt;", ":cat:", "[a](b)", "a_b", "~~x~~"]


@pytest.mark.parametrize("text", TEXTS)
def test_users_texts_are_shown_as_they_are(text: str, make_report: MakeReport) -> None:
    """In every form: nothing is taken for markup, a link, HTML, an emoji or a column."""
    rows = rank([make_report(text, forget=[f"class:{text}"])])
    assert shown(rows, "method") == [text]
    assert f"class:{text}" in str(as_rich_table(rows).title)
    (read,) = csv.DictReader(io.StringIO(as_csv([rows])))
    assert read["method"] == text
    page = as_markdown(rows)
    assert as_text(page.splitlines()[0]).startswith(f"digits, small_cnn, forget class:{text} (2 of 4")
    assert as_text(re.split(r"(?<!\\) ?\| ?", page.splitlines()[4])[2]) == text


def as_text(markdown: str) -> str:
    """What a reader sees of a line of Markdown."""
    from markdown_it import MarkdownIt

    parsed = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    (tokens,) = [block.children for block in parsed if block.children]
    assert {token.type for token in tokens} <= {"text", "text_special", "strong_open", "strong_close"}
    return "".join(token.content for token in tokens)
