"""The leaderboard of a suite: a row for each method, a column for each rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from rich.table import Table
from rich.text import Text

from data.texts import printable
from evaluation import texts
from evaluation.metrics.intervals import Estimate
from evaluation.suites.result import Rule, SuiteResult
from evaluation.suites.suite import Suite
from evaluation.texts import counted, in_markdown
from evaluation.views.columns import GROUP, OLD, RANKS, letter
from evaluation.views.leaderboard import MIN_MODELS_FOR_RANK, WHY_NO_RANK, Codes, Rank, ranks_of
from evaluation.views.terminal import WIDE, make_screen

RULES: tuple[Rule, ...] = ("tuned", "self-tuned", "published")
"""In the order in which one of them stands for the method."""


@dataclass(frozen=True)
class Row:
    """A method with its results."""

    rank: Rank | None
    results: Mapping[Rule, SuiteResult]
    is_old: bool
    """Whether the method's code has changed since."""

    @property
    def ranked(self) -> SuiteResult:
        """The result that stands for the method."""
        return next(self.results[rule] for rule in RULES if rule in self.results)


def rows_of(results: Sequence[SuiteResult], codes: Codes) -> list[Row]:
    """Comparable results by method, the best mean share first; references that are exempt from the budget have no rank.

    `codes` are the hashes of the methods' code as it is now. Ranks hold together: shares on the same forget sets are
    pairs, see `evaluation/comparison/ranks.py`.
    """
    by_method: dict[str, dict[Rule, SuiteResult]] = {}
    for result in results:
        by_method.setdefault(result.method, {})[result.rule] = result
    rows = [Row(None, found, _is_old(found, codes)) for found in by_method.values()]
    rows.sort(key=lambda row: -row.ranked.share.value)
    in_order = [row for row in rows if not row.ranked.exempt_from_budget and row.ranked.models >= MIN_MODELS_FOR_RANK]
    ranks = dict(zip(map(id, in_order), ranks_of([row.ranked.shares for row in in_order]), strict=True))
    return [Row(ranks.get(id(row)), row.results, row.is_old) for row in rows]


def _is_old(found: Mapping[Rule, SuiteResult], codes: Codes) -> bool:
    return any(codes.get(result.method, result.code) != result.code for result in found.values())


# ----------------------------------------------------------------------------------------------------------------------
# Columns
# ----------------------------------------------------------------------------------------------------------------------


Column = tuple[str, Callable[[Row], str]]
"""A name, and what the column says of a row."""


def columns(rows: Sequence[Row], kinds: Sequence[str]) -> list[Column]:
    """The columns of a table; rules that nobody followed are left out. Shares of the ceiling are in per cent."""
    rules = [rule for rule in RULES if any(rule in row.results for row in rows)]
    is_tuned = any(row.ranked.on_tuning_part is not None for row in rows)
    return [
        ("rank", lambda row: "-" if row.rank is None else row.rank.interval),
        (GROUP, lambda row: "" if row.rank is None else letter(row.rank)),
        ("method", _method),
        *((rule, partial(_by_rule, rule)) for rule in rules),
        *((f"{kind} %", partial(_of_kind, kind)) for kind in kinds),
        *([("tuning part %", _on_tuning_part)] if is_tuned else []),
        ("overlap", lambda row: f"{row.ranked.overlap.value:.3f}"),
        ("retain ratio", lambda row: f"{fmean(part.retain_ratio for part in row.ranked.held_out):.3f}"),
        ("test ratio", lambda row: f"{fmean(part.test_ratio for part in row.ranked.held_out):.3f}"),
        ("budget used", lambda row: "exempt" if row.ranked.exempt_from_budget else f"{row.ranked.budget_used:.2f}"),
    ]


def _method(row: Row) -> str:
    failed = f", {len(row.ranked.failures)} failed" if row.ranked.failures else ""
    return f"{printable(row.ranked.method)}{f' ({OLD})' if row.is_old else ''}{failed}"


def _by_rule(rule: Rule, row: Row) -> str:
    return in_per_cent(row.results[rule].share) if rule in row.results else ""


def _of_kind(kind: str, row: Row) -> str:
    return f"{100 * row.ranked.share_of_kind(kind):.0f}"


def _on_tuning_part(row: Row) -> str:
    return "" if row.ranked.on_tuning_part is None else f"{100 * row.ranked.on_tuning_part:.0f}"


def in_per_cent(share: Estimate) -> str:
    """A share of the ceiling with its interval.

    >>> in_per_cent(Estimate(0.314, 0.27, 0.358))
    '31.4 [27.0, 35.8]'
    """
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def title(suite: Suite) -> str:
    """What the suite is, in a line."""
    first = suite.held_out[0].grading
    return (
        f"suite {suite.name}: {counted(len(suite.held_out), 'held-out grading')} "
        f"({', '.join(suite.kinds)}) of {counted(first.originals, 'original')} x {first.models} runs"
    )


def remarks(rows: Sequence[Row], others: int) -> Iterator[str]:
    """What the numbers mean, in lines; `others` results are of other models."""
    if rows[0].ranked.models < MIN_MODELS_FOR_RANK:
        yield f"no ranks: with fewer than {MIN_MODELS_FOR_RANK} models {WHY_NO_RANK}"
    yield (
        "mean share of the ceiling over the held-out gradings in per cent [95 %, over forget sets, too]; "
        "a perfect method has 100"
    )
    rules = {rule for row in rows for rule in row.results}
    if "tuned" in rules:
        trials = sorted({row.results["tuned"].trials or 0 for row in rows if "tuned" in row.results})
        number = counted(trials[0], "trial") if len(trials) == 1 else f"{' or '.join(map(str, trials))} trials"
        equal = "" if len(trials) == 1 else ": not the same for all, which is unfair"
        yield f"tuned: the best of {number} on the tuning part{equal}"
    if "self-tuned" in rules:
        yield "self-tuned: the method chooses its values itself, within its budget"
    if sum(row.rank is not None for row in rows) > 1:
        yield RANKS
    if len(rules) > 1:
        yield "the first number of a row is what it is ranked by, and what the columns after it are about"
    if others:
        yield f"left out: {counted(others, 'result')} of other models than these; the same command makes them anew"


# ----------------------------------------------------------------------------------------------------------------------
# Three ways to show it
# ----------------------------------------------------------------------------------------------------------------------


def print_suite(suite: Suite, rows: Sequence[Row], others: int) -> None:
    """For the terminal."""
    shown = columns(rows, suite.kinds)
    table = Table(title=Text(title(suite)), title_justify="left", title_style="", box=None, pad_edge=False)
    for name, _ in shown:
        table.add_column(Text(name), justify="left" if name == "method" else "right")
    for row in rows:
        table.add_row(*(Text(cell(row)) for _, cell in shown))
    screen = make_screen(WIDE)
    screen.print(table)
    for line in remarks(rows, others):
        screen.print(line)


def as_markdown(suite: Suite, rows: Sequence[Row], others: int) -> str:
    """For a README."""
    shown = columns(rows, suite.kinds)
    lines = [f"**{in_markdown(title(suite))}**", "", f"| {' | '.join(in_markdown(name) for name, _ in shown)} |"]
    lines.append(f"|{'---|' * len(shown)}")
    for row in rows:  # the brackets of an interval mean nothing where they stand
        texts_of_row = ((name, cell(row)) for name, cell in shown)
        escaped = (text if name in RULES else in_markdown(text) for name, text in texts_of_row)
        lines.append(f"| {' | '.join(escaped)} |")
    return "\n".join([*lines, *(line for remark in remarks(rows, others) for line in ("", in_markdown(remark)))])


def as_csv(rows: Sequence[Row]) -> str:
    """For a spreadsheet: a line for each held-out grading of each result, unrounded."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        for rule, result in row.results.items():
            about = {"method": result.method, "rule": rule, "trials": result.trials, "settings": result.settings}
            mean = {"mean_share": result.share.value, "low": result.share.low, "high": result.share.high}
            for part in result.held_out:
                lines.append({**about, **mean, "on_tuning_part": result.on_tuning_part, **vars(part)})
    return texts.as_csv(lines) if lines else ""
