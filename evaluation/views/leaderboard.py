"""The local leaderboard: reports of comparable gradings, ranked, ties marked."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.texts import printable
from evaluation.report import Report

if TYPE_CHECKING:
    from rich.table import Table

MIN_MODELS_FOR_RANK = 32
"""Peers that graded with 3 models ranked doing nothing above the competition's winner."""
MARK = " !"
WHY_MARKED = "hardly possible for an honest method: see its report, and docs/trust.md"
WHY_NO_RANK = "F takes too few values to tell methods apart, and flatters bad ones"


@dataclass(frozen=True)
class Row:
    """A report's place: the rank (None if it has none), and whether its interval overlaps that of the row above."""

    rank: int | None
    tied: bool
    report: Report


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
    for report in sorted(reports, key=lambda report: -report.scores.score.value):
        if report.method.exempt_from_budget or report.grading.models < MIN_MODELS_FOR_RANK:
            rows.append(Row(None, False, report))
            continue
        place += 1
        tied = above is not None and above.scores.score.interval[0] <= report.scores.score.interval[1]
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
    low, high = report.scores.score.interval
    rank_text = "-" if row.rank is None else f"{row.rank}{'=' if row.tied else ''}"
    used = "exempt" if report.method.exempt_from_budget else "?"
    if report.cost.budget_fraction_used is not None and not report.method.exempt_from_budget:
        used = f"{report.cost.budget_fraction_used:.2f}"
    return (
        rank_text,
        printable(report.label),
        f"{report.scores.score.value:.4f}  [{low:.4f}, {high:.4f}]",
        f"{report.scores.forgetting_quality.value:.4f}",
        f"{report.scores.retain_ratio:.3f}",
        f"{report.scores.test_ratio:.3f}",
        report.percent_of_ceiling() + (MARK if is_suspicious(report) else ""),
        used,
        report.values,
        str(report.grading.models),
    )


def title(rows: Sequence[Row]) -> str:
    """What the rows of a table share, in words."""
    return printable(rows[0].report.described_conditions, most=1000)


def is_suspicious(report: Report) -> bool:
    """Whether an honest method can hardly have left these models."""
    return report.plausibility is not None and not report.plausibility.is_fine


def as_rich_table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title(rows)), title_justify="left", title_style="", box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        table.add_row(*map(Text, cells(row)))
    return table


def as_markdown(rows: Sequence[Row]) -> str:
    """For a README."""
    lines = [f"**{title(rows)}**", "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells(row))} |" for row in rows]
    return "\n".join([*lines, *(["", f"{MARK.strip()} {WHY_MARKED}"] if any(map(is_marked, rows)) else [])])


def is_marked(row: Row) -> bool:
    """Whether the row has the mark of a report that is suspicious."""
    return is_suspicious(row.report)


def as_csv(tables: Sequence[Sequence[Row]]) -> str:
    """For a spreadsheet: unrounded, all tables as one. Rows with the same conditions can be compared."""
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for number, row in ((number, row) for number, rows in enumerate(tables, start=1) for row in rows):
        place = {"conditions": number, "rank": row.rank or "", "tied": int(row.tied)}
        values = {**place, **_unrounded(row.report)}
        if writer is None:
            writer = csv.DictWriter(text, list(values), lineterminator="\n")
            writer.writeheader()
        writer.writerow(values)
    return text.getvalue()


def _unrounded(report: Report) -> dict[str, Any]:
    """A report as columns."""
    method, about, scores = report.method, report.grading, report.scores
    return {
        "method": method.name,
        "settings": json.dumps(method.settings),
        "tuned_trials": method.tuned_trials,
        "task": about.task,
        "forget": json.dumps(about.forget),
        "protocol": about.protocol,
        "metric": about.metric,
        "models": about.models,
        "originals": about.originals,
        "score": scores.score.value,
        "score_low": scores.score.low,
        "score_high": scores.score.high,
        "forgetting_quality": scores.forgetting_quality.value,
        "retain_ratio": scores.retain_ratio,
        "test_ratio": scores.test_ratio,
        "share_of_ceiling": scores.share_of_ceiling,
        "suspicious": "" if report.plausibility is None else int(is_suspicious(report)),
        "budget_fraction_used": report.cost.budget_fraction_used,
        "task_fingerprint": about.task_fingerprint,
        "bank_fingerprint": about.bank_fingerprint,
    }
