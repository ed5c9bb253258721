"""The local leaderboard: reports of comparable gradings, ranked, ties marked."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.report import Report, read_report

if TYPE_CHECKING:
    from rich.table import Table

MIN_MODELS_FOR_RANK = 32
"""Peers that graded with 3 models ranked doing nothing above the competition's winner."""
WHY_NO_RANK = "F takes too few values to tell methods apart, and flatters bad ones"


@dataclass(frozen=True)
class Row:
    """A report's place: the rank (None if it has none), and whether its interval overlaps that of the row above."""

    rank: int | None
    tied: bool
    report: Report


def read_reports(folder: Path) -> list[Report]:
    """All reports below `folder`, whatever their task; files that are not reports are passed over."""
    reports = map(read_report, sorted(folder.glob("*/*/report*.json")))
    return [report for report in reports if report is not None]


def tables(reports: Sequence[Report]) -> list[list[Row]]:
    """Reports that can be compared, ranked, one list for each set of conditions (see `Report.conditions`)."""
    comparable: dict[tuple[object, ...], list[Report]] = defaultdict(list)
    for report in reports:
        comparable[report.conditions].append(report)
    return [rank(comparable[conditions]) for conditions in sorted(comparable, key=str)]


def rank(reports: Sequence[Report]) -> list[Row]:
    """Rank comparable reports by score; references that are exempt from the budget get no rank."""
    rows = []
    place = 0
    above: Report | None = None
    for report in sorted(reports, key=lambda report: -report.score):
        if report.exempt_from_budget or report.models < MIN_MODELS_FOR_RANK:
            rows.append(Row(None, False, report))
            continue
        place += 1
        tied = above is not None and above.score_interval[0] <= report.score_interval[1]
        rows.append(Row(place, tied, report))
        above = report
    return rows


def place_of(report: Report, reports: Sequence[Report]) -> tuple[int, bool, int]:
    """The rank of one of the `reports` among those it can be compared with, whether tied, and how many are ranked."""
    rows = [row for row in rank([other for other in reports if other.conditions == report.conditions]) if row.rank]
    (own,) = [row for row in rows if row.report == report]
    return own.rank or 0, own.tied, len(rows)


# ----------------------------------------------------------------------------------------------------------------------
# Three ways to show a table
# ----------------------------------------------------------------------------------------------------------------------

COLUMNS = ("rank", "method", "score", "F", "retain ratio", "test ratio", "% of ceiling", "budget used", "values", "N")


def cells(row: Row) -> tuple[str, ...]:
    """The texts of a row, in the order of `COLUMNS`; `=` marks a tie with the row above."""
    report = row.report
    low, high = report.score_interval
    rank_text = "-" if row.rank is None else f"{row.rank}{'=' if row.tied else ''}"
    used = "exempt" if report.exempt_from_budget else "?"
    if report.budget_fraction_used is not None and not report.exempt_from_budget:
        used = f"{report.budget_fraction_used:.2f}"
    return (
        rank_text,
        report.label,
        f"{report.score:.4f}  [{low:.4f}, {high:.4f}]",
        f"{report.forgetting_quality:.4f}",
        f"{report.retain_ratio:.3f}",
        f"{report.test_ratio:.3f}",
        report.percent_of_ceiling(),
        used,
        report.values,
        str(report.models),
    )


def title(rows: Sequence[Row]) -> str:
    """What the rows of a table share, in words."""
    return rows[0].report.described_conditions


def as_rich_table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    from rich.table import Table

    table = Table(title=title(rows), title_justify="left", title_style="", box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        table.add_row(*cells(row))
    return table


def as_markdown(rows: Sequence[Row]) -> str:
    """For a README."""
    lines = [f"**{title(rows)}**", "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows)])


def as_csv(tables: Sequence[Sequence[Row]]) -> str:
    """For a spreadsheet: unrounded, all tables as one. Rows with the same conditions can be compared."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = (
        "method",
        "settings",
        "tuned_trials",
        "task",
        "forget",
        "protocol",
        "metric",
        "models",
        "originals",
        "score",
    )
    more = ("forgetting_quality", "retain_ratio", "test_ratio", "share_of_ceiling", "budget_fraction_used")
    hashes = ("tuned_trials", "task_fingerprint", "bank_fingerprint")
    writer.writerow(["conditions", "rank", "tied", *names, "score_low", "score_high", *more, *hashes])
    for number, row in ((number, row) for number, rows in enumerate(tables, start=1) for row in rows):
        values = [getattr(row.report, name) for name in (*names, *more, *hashes)]
        texts = [json.dumps(value) if isinstance(value, (dict, list)) else value for value in values]
        low, high = row.report.score_interval
        cut = len(names)
        writer.writerow([number, row.rank or "", int(row.tied), *texts[:cut], low, high, *texts[cut:]])
    return text.getvalue()
