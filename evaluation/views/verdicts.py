"""A comparison as the command line prints it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from data.texts import printable
from evaluation.comparison.conduct import Comparison, Pair
from evaluation.comparison.sequential import LOOKS, MOST_ORIGINALS
from evaluation.texts import counted
from evaluation.views.leaderboard import MIN_MODELS_FOR_RANK, WHY_NO_RANK
from evaluation.views.terminal import make_screen, remarks_of, suspicions_of


def show_comparison(comparison: Comparison) -> None:
    """The scores, best first, a line for each pair with its verdict, and what to beware of."""
    scores, verdicts = Table(box=None, pad_edge=False), Table(box=None, pad_edge=False)
    for table, names in ((scores, ("", "score", "")), (verdicts, ("", "difference of scores", "verdict", "p", ""))):
        table.add_column(names[0], overflow="fold")
        for name in names[1:]:
            table.add_column(name, no_wrap=True)
    for report in sorted(comparison.reports, key=lambda report: -report.scores.score.value):
        estimate = report.scores.score
        cell = f"{estimate.value:.4f}  [{estimate.low:.4f}, {estimate.high:.4f}]"
        exempt = " (exempt)" if report.method.exempt_from_budget else ""
        scores.add_row(printable(report.label) + exempt, cell, counted(report.grading.originals, "original"))
    for pair in comparison.pairs:
        verdicts.add_row(*_cells(pair))
    screen = make_screen()
    for part in ("", scores, "", verdicts, ""):
        screen.print(part)
    for line in _lines(comparison):
        screen.print(line)


def _cells(pair: Pair) -> tuple[str, str, str, str, str]:
    difference = pair.difference
    numbers = f"{difference.value:+.4f}  [{difference.low:+.4f}, {difference.high:+.4f}]"
    verdict = "equal on every original" if pair.is_equal else "undecided"
    if pair.verdict != "undecided":
        verdict = f"{printable(pair.first if pair.verdict == 'better' else pair.second)} is better"
    names = f"{printable(pair.first)} - {printable(pair.second)}"
    return names, numbers, verdict, in_short(pair.p), f"{pair.originals} originals"


def in_short(p: float) -> str:
    """A p value.

    >>> in_short(0.00012), in_short(0.0312), in_short(1e-9), in_short(1.0)
    ('0.0001', '0.031', '< 0.0001', '1')
    """
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.2g}"


def _lines(comparison: Comparison) -> Iterator[str]:
    for pair in comparison.pairs:
        if pair.verdict == "undecided" and not pair.is_equal:
            yield f"{printable(pair.first)} - {printable(pair.second)}: {_what_it_takes(pair)}"
    if comparison.why_stopped:
        yield comparison.why_stopped
    for report in comparison.reports:
        yield from (f"{report.method.name}: {line}" for line in (*remarks_of(report), *suspicions_of(report)))
    if any(report.grading.models < MIN_MODELS_FOR_RANK for report in comparison.reports):
        yield f"with fewer than {MIN_MODELS_FOR_RANK} models {WHY_NO_RANK}"
    looks = ", ".join(map(str, LOOKS))
    yield (
        f"Of methods with one distribution of scores, at most {100 * comparison.error:g} % get a verdict, "
        f"for all looks ({looks}) and pairs; p holds for all of them, too."
    )
    yield "All are compared with the same retrained models: what others would change is not in it."


def _what_it_takes(pair: Pair) -> str:
    if pair.originals_to_decide is None:
        return f"more than {MOST_ORIGINALS:,} originals would decide it, if the difference stays as it is"
    more = f"about {pair.originals_to_decide:,} originals would decide it, if the difference stays as it is"
    return more if pair.originals_to_decide <= LOOKS[-1] else f"{more}, and compare takes {LOOKS[-1]} at most"
