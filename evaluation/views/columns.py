"""What a table of the leaderboard shows: its columns, and three ways to show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

from data.texts import printable
from evaluation import texts
from evaluation.metrics.intervals import Estimate
from evaluation.report import Report
from evaluation.texts import in_markdown
from evaluation.views.leaderboard import (
    MARK,
    MIN_MODELS_FOR_RANK,
    WHY_MARKED,
    WHY_NO_RANK,
    OverSeeds,
    Rank,
    Row,
    is_suspicious,
    over_seeds,
)

if TYPE_CHECKING:
    from rich.table import Table

OLD = "old"
WHY_OLD = f"{OLD}: the method's code has changed since"
GROUP = "group"
RANKS = "ranks: the best and the worst possible, 95 % sure for all rows together"
GROUPS = "groups: a new letter begins at a method that is surely worse than the first of the letter above"
ONE_GROUP = "no method is surely worse than the first; more originals may tell (--originals 8)"
ONE_ORIGINAL = "ranks: one original can't tell methods apart, more may (--originals 8)"
FULL_PROTOCOL = "ranks: the full protocol, with one score a method, can't tell methods apart"


def _rank(row: Row) -> str:
    return "-" if row.rank is None else row.rank.interval


def _group(row: Row) -> str:
    return "" if row.rank is None else letter(row.rank)


def letter(rank: Rank) -> str:
    """Of a group: `a` to `z`, `aa` to `zz`, `aaa` and so on."""
    repeats, place = divmod(rank.group, len(ascii_lowercase))
    return ascii_lowercase[place] * (repeats + 1)


def _score(row: Row) -> str:
    low, high = row.report.scores.score.interval
    return f"{row.report.scores.score.value:.4f}  [{low:.4f}, {high:.4f}]"


RANKED_BY = {"overlap": "overlap [95 %]", "as-of-512": "as of 512 [95 %]"}
"""The column that a table has where it is not ranked by the score."""


def _overlap(report: Report) -> str:
    return "" if report.scores.overlap is None else f"{report.scores.overlap.value:.3f}"


def overlap_with_interval(report: Report) -> str:
    """In words; empty if it is not known."""
    found = report.scores.overlap
    return "" if found is None else f"{found.value:.3f}  [{found.low:.3f}, {found.high:.3f}]"


def as_of_with_interval(report: Report) -> str:
    """The share of the ceiling in words; empty if it is not known."""
    if report.scores.as_of is None:
        return ""
    share = report.scores.as_of.share_of_ceiling
    value, low, high = (f"{100 * one:.0f}" for one in (share.value, share.low, share.high))
    return f"{value} %  [{low}, {high}]"


def _as_of(report: Report) -> str:
    found = report.scores.as_of
    return "" if found is None else f"{100 * found.share_of_ceiling.value:.0f} %"


def _used(row: Row) -> str:
    if row.report.method.exempt_from_budget:
        return "exempt"
    used = row.report.cost.budget_fraction_used
    return "?" if used is None else f"{used:.2f}"


def _code(row: Row) -> str:
    code = row.report.method.code
    return "" if code is None else f"{code} {OLD}" if row.is_old else code


def _seconds(row: Row) -> str:
    seconds = row.report.cost.runs_seconds_mean
    return "" if seconds is None else f"{seconds:.2g}"


CELLS: dict[str, Callable[[Row], str]] = {
    "rank": _rank,
    GROUP: _group,
    "method": lambda row: printable(row.report.label),
    "score": _score,
    "F": lambda row: f"{row.report.scores.forgetting_quality.value:.4f}",
    "overlap": lambda row: _overlap(row.report),
    "as of 512": lambda row: _as_of(row.report),
    "overlap [95 %]": lambda row: overlap_with_interval(row.report),
    "as of 512 [95 %]": lambda row: as_of_with_interval(row.report),
    "retain ratio": lambda row: f"{row.report.scores.retain_ratio:.3f}",
    "test ratio": lambda row: f"{row.report.scores.test_ratio:.3f}",
    "% of ceiling": lambda row: row.report.percent_of_ceiling() + (MARK if is_suspicious(row.report) else ""),
    "budget used": _used,
    "values": lambda row: row.report.values,
    "N": lambda row: str(row.report.grading.models),
    "seed": lambda row: str(row.report.grading.seed),
    "budget": lambda row: "" if row.report.allowed is None else f"{row.report.allowed:.3g}",
    "code": _code,
    "retain": lambda row: f"{row.report.unlearned.retain:.3f}",
    "test": lambda row: f"{row.report.unlearned.test:.3f}",
    "forget": lambda row: f"{row.report.unlearned.forget:.3f}",
    "s a run": _seconds,
    "date": lambda row: printable(row.report.provenance.created[:10]),
}
"""Every column, and what it says of a row."""

COLUMNS = (
    *("rank", "method", "score", "F", "overlap", "retain ratio", "test ratio", "% of ceiling", "budget used"),
    *("values", "N"),
)
"""What every table has."""
CONDITIONS = ("seed", "budget")
"""What a table has where its rows differ in it, and `group`, too; `code` where a row is of an old version."""
DETAILS = ("as of 512", "retain", "test", "forget", "s a run", "date")
"""What a wide table has, too."""


def columns(rows: Sequence[Row], wide: bool = False, by: str = "score") -> tuple[str, ...]:
    """The columns of a table; `wide` for all that there are. What it is ranked by comes first."""
    names = _columns(rows, wide)
    first = RANKED_BY.get(by)
    if first is None:
        return names
    left = [name for name in names if name not in (first, first.partition(" [")[0])]
    place = left.index("method") + 1
    return (*left[:place], first, *left[place:])


def _columns(rows: Sequence[Row], wide: bool) -> tuple[str, ...]:
    with_group = (COLUMNS[0], GROUP, *COLUMNS[1:])
    if wide:
        return (*with_group, *CONDITIONS, "code", *DETAILS)
    differing = [name for name in (GROUP, *CONDITIONS) if len({CELLS[name](row) for row in rows} - {""}) > 1]
    usual = with_group if GROUP in differing else COLUMNS
    conditions = [name for name in CONDITIONS if name in differing]
    return (*usual, *conditions, *(["code"] if any(row.is_old for row in rows) else []))


def cells(row: Row, names: Sequence[str] = COLUMNS) -> tuple[str, ...]:
    """The texts of a row, in the order of the columns."""
    return tuple(CELLS[name](row) for name in names)


def title(rows: Sequence[Row]) -> str:
    """What the rows of a table share, in words."""
    return printable(rows[0].report.described_conditions, most=1000)


def remarks(rows: Sequence[Row]) -> Iterator[str]:
    """What is to be known of a table, in lines: marks, and what several seeds come to."""
    if rows[0].report.grading.models < MIN_MODELS_FOR_RANK:
        yield f"no ranks: with fewer than {MIN_MODELS_FOR_RANK} models {WHY_NO_RANK}"
    yield from _about_ranks([row.rank for row in rows if row.rank is not None], rows[0].report)
    if any(is_suspicious(row.report) for row in rows):
        yield f"{MARK.strip()} {WHY_MARKED}"
    if any(row.is_old for row in rows):
        yield WHY_OLD
    for group in over_seeds(rows):
        yield _in_words(group, with_code=any(row.is_old for row in rows))


def _about_ranks(ranks: Sequence[Rank], report: Report) -> Iterator[str]:
    """What they mean, if there is more than one; `report` is of any of the rows."""
    if len(ranks) < 2:
        return
    if report.grading.protocol == "full":
        yield FULL_PROTOCOL
    elif report.grading.originals == 1:
        yield ONE_ORIGINAL
    else:
        yield RANKS
        yield GROUPS if ranks[-1].group else ONE_GROUP


def _in_words(group: OverSeeds, with_code: bool) -> str:
    first = group.reports[0]
    seeds = ", ".join(str(report.grading.seed) for report in group.reports)
    code = f", code {first.method.code}" if with_code and first.method.code is not None else ""
    return (
        f"{printable(first.label)} ({first.values}{code}): {group.mean:.4f} ± {group.deviation:.4f}, mean and standard "
        f"deviation of the scores of seeds {seeds}"
    )


# ----------------------------------------------------------------------------------------------------------------------
# Three ways to show a table
# ----------------------------------------------------------------------------------------------------------------------


def as_rich_table(rows: Sequence[Row], wide: bool = False, by: str = "score") -> Table:
    """For the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title(rows)), title_justify="left", title_style="", box=None, pad_edge=False)
    names = columns(rows, wide, by)
    for name in names:
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        table.add_row(*map(Text, cells(row, names)))
    return table


def as_markdown(rows: Sequence[Row], wide: bool = False, by: str = "score") -> str:
    """For a README."""
    names = columns(rows, wide, by)
    lines = [f"**{in_markdown(title(rows))}**", "", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for row in rows:  # the brackets of an interval mean nothing where they stand
        texts = zip(names, cells(row, names), strict=True)
        shown = [text if name in ("score", *RANKED_BY.values()) else in_markdown(text) for name, text in texts]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join([*lines, *(line for remark in remarks(rows) for line in ("", in_markdown(remark)))])


def as_csv(tables: Sequence[Sequence[Row]]) -> str:
    """For a spreadsheet: unrounded, all tables as one. Rows with the same conditions can be compared."""
    lines: list[dict[str, Any]] = []
    for number, rows in enumerate(tables, start=1):
        groups = {id(report): group for group in over_seeds(rows) for report in group.reports}
        for row in rows:
            place = {"conditions": number, **_place(row)}
            lines.append({**place, **_unrounded(row), **_of_seeds(groups.get(id(row.report)))})
    return texts.as_csv(lines) if lines else ""


def _place(row: Row) -> dict[str, Any]:
    """A rank as columns: `rank` is the place by score."""
    if row.rank is None:
        return {"rank": "", "rank_low": "", "rank_high": "", GROUP: "", "tied": 0}
    rank = row.rank
    return {
        "rank": rank.place,
        "rank_low": rank.low,
        "rank_high": rank.high,
        GROUP: _group(row),
        "tied": int(rank.tied),
    }


def _unrounded(row: Row) -> dict[str, Any]:
    """A report as columns."""
    report = row.report
    method, about, scores, cost = report.method, report.grading, report.scores, report.cost
    return {
        "method": method.name,
        "settings": method.settings,
        "tuned_trials": method.tuned_trials,
        "code": method.code,
        "old_code": int(row.is_old),
        "task": about.task,
        "network": about.network,
        "forget": about.forget,
        "protocol": about.protocol,
        "metric": about.metric,
        "models": about.models,
        "originals": about.originals,
        "seed": about.seed,
        "score": scores.score.value,
        "score_low": scores.score.low,
        "score_high": scores.score.high,
        "forgetting_quality": scores.forgetting_quality.value,
        "retain_ratio": scores.retain_ratio,
        "test_ratio": scores.test_ratio,
        "share_of_ceiling": scores.share_of_ceiling,
        **_with_interval("overlap", scores.overlap),
        **_with_interval("as_of_512", None if scores.as_of is None else scores.as_of.forgetting_quality),
        **_with_interval("as_of_512_share_of_ceiling", None if scores.as_of is None else scores.as_of.share_of_ceiling),
        "suspicious": "" if report.plausibility is None else int(is_suspicious(report)),
        **_accuracies(report),
        "budget": report.allowed,
        "budget_fraction_used": cost.budget_fraction_used,
        "run_seconds": cost.runs_seconds_mean,
        "retrain_seconds": cost.retrain_seconds,
        "grading_seconds": report.provenance.seconds,
        "created": report.provenance.created,
        "task_fingerprint": about.task_fingerprint,
        "bank_fingerprint": about.bank_fingerprint,
    }


def _with_interval(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _accuracies(report: Report) -> dict[str, float | None]:
    """Those of the unlearned models, and of the retrained ones."""
    splits = ("retain", "test", "validation", "forget")
    own = {f"{split}_accuracy": getattr(report.unlearned, split) for split in splits}
    return {**own, **{f"retrained_{split}_accuracy": getattr(report.retrained, split) for split in splits}}


def _of_seeds(group: OverSeeds | None) -> dict[str, Any]:
    """What gradings that differ in their seed alone come to; empty where there are none."""
    if group is None:
        return dict.fromkeys(("seeds", "score_mean_over_seeds", "score_deviation_over_seeds"), "")
    return {
        "seeds": len(group.reports),
        "score_mean_over_seeds": group.mean,
        "score_deviation_over_seeds": group.deviation,
    }
