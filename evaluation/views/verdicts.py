"""A comparison as the command line prints it."""

from __future__ import annotations

from rich.table import Table

from data.texts import printable
from evaluation.comparison.conduct import Comparison, Pair
from evaluation.comparison.sequential import LOOKS, MOST_ORIGINALS
from evaluation.texts import counted
from evaluation.views.terminal import make_screen


def show_comparison(comparison: Comparison) -> None:
    """The scores, best first, and a line for each pair with its verdict."""
    scores = Table(box=None, pad_edge=False)
    for name in ("", "score", ""):
        scores.add_column(name)
    for report in sorted(comparison.reports, key=lambda report: -report.scores.score.value):
        estimate = report.scores.score
        cell = f"{estimate.value:.4f}  [{estimate.low:.4f}, {estimate.high:.4f}]"
        scores.add_row(printable(report.label), cell, counted(report.grading.originals, "original"))
    verdicts = Table(box=None, pad_edge=False)
    for name in ("", "difference of scores", "verdict", ""):
        verdicts.add_column(name)
    for pair in comparison.pairs:
        verdicts.add_row(*_cells(pair))
    screen = make_screen()
    screen.print()
    screen.print(scores)
    screen.print()
    screen.print(verdicts)
    screen.print()
    looks = ", ".join(map(str, LOOKS))
    screen.print(f"The chance of a wrong verdict on equal methods: 5 % for all pairs and looks ({looks}) together.")
    screen.print("All are compared with the same retrained models: what others would change is not in it.")


def _cells(pair: Pair) -> tuple[str, str, str, str]:
    difference = pair.difference
    names = f"{printable(pair.first)} - {printable(pair.second)}"
    numbers = f"{difference.value:+.4f}  [{difference.low:+.4f}, {difference.high:+.4f}]"
    after = f"after {counted(pair.originals, 'original')}"
    if pair.verdict != "undecided":
        better = pair.first if pair.verdict == "better" else pair.second
        return names, numbers, f"{printable(better)} is better", after
    if pair.originals_to_decide is None:
        return names, numbers, "undecided", f"{after}; more than {MOST_ORIGINALS:,} would be needed"
    return names, numbers, "undecided", f"{after}; about {pair.originals_to_decide:,} would decide it"
